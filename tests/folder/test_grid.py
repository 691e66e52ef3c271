"""Grids: what goes in comes out, and every fault names its line and column."""

import pytest

from job.folder.grid import GridError, format_grid, parse_grid
from job.trial import Trial


@pytest.mark.parametrize("text", [
    *(f"{column}\n{'9' * count}" for column in ("seed", "stop_patience", "lr") for count in (400, 5000)),
    "batch_size\n" + "9" * 400, "lr\n1e308", "gamma\n1e300", "weights\na\0b"])
def test_huge_numbers_and_nul_bytes_in_a_grid_name_their_column(text: str) -> None:
    with pytest.raises(GridError, match=r"line 2, column|line contains NUL"):
        parse_grid(text + "\n")


def test_grid_survives_being_printed_and_read() -> None:
    trials = [Trial(trial="a", lr=0.1, epochs=3), Trial(trial="b", lr=1e-5, epochs=90, weights="s3://b/w.pt", seed=7)]
    assert parse_grid(format_grid(trials)) == trials


def test_excel_grid_with_bom_crlf_quotes_and_blank_lines_is_read() -> None:
    text = '\ufefftrial,"lr",epochs\r\n"one",0.1,10\r\n,,\r\n\r\ntwo, 0.01 ,20\r\n'
    assert parse_grid(text) == [Trial(trial="one", lr=0.1, epochs=10), Trial(trial="two", lr=0.01, epochs=20)]


def test_grid_without_names_is_numbered_and_defaults_are_the_studys_recipe() -> None:
    first, second = parse_grid("lr,epochs\n0.1,10\n0.01,20\n")
    assert (first.trial, second.trial) == ("1", "2")
    assert (first.image_size, first.weights) == (224, "imagenet")
    assert (first.momentum, first.step_size, first.gamma) == (0.9, 7, 0.1)


@pytest.mark.parametrize(("text", "message"), [
    ("trial,lr,epoch\n1,0.1,2\n", "line 1, column 3: unknown column 'epoch'; did you mean epochs?"),
    ("trial,lr,lr\n1,0.1,2\n", "line 1, column 3: the column 'lr' appears twice"),
    ("trial,lr\n1,0.1\n1,0.2\n", "line 3, column trial: the name '1' is already in line 2"),
    ("trial,lr\nA,0.1\na,0.2\n", "line 3, column trial: the name 'a' is already in line 2"),
    ("trial,lr\n1,fast\n", "line 2, column lr: lr is 'fast'; give a number"),
    ("trial,epochs\n1,2.5\n", "line 2, column epochs: epochs is '2.5'; give a whole number"),
    ("trial,epochs\n1,1_0\n", "line 2, column epochs: epochs is '1_0'; give a whole number"),
    ("trial,epochs\n1,\u0661\u0660\n", "epochs is '\u0661\u0660'; give a whole number"),
    ("trial,lr\n1,1_0.5\n", "line 2, column lr: lr is '1_0.5'; give a number"),
    ("trial,lr\n1,0x1p-3\n", "line 2, column lr: lr is '0x1p-3'; give a number"),
    ("trial,lr\n1,1e400\n", "line 2, column lr: lr is inf; give a finite number"),
    ("trial,stop_monitor,stop_patience\n1,val_loss,9999999\n", "stop_patience is 9999999; the most is 1000000"),
    ("trial,stop_monitor,stop_min_delta\n1,val_loss,1e300\n", "stop_min_delta is 1e+300; the most is 1e+30"),
    ("trial,lr\n1,\n", "line 2, column lr: lr is empty"),
    ("trial,lr\n1,0\n", "line 2, column lr: lr is 0; it must be greater than 0"),
    ("trial,lr\n1,nan\n", "line 2, column lr: lr is nan; give a finite number"),
    ("trial,lr\n1,inf\n", "line 2, column lr: lr is inf"),
    ("trial,epochs\n1,0\n", "line 2, column epochs: epochs is 0; the least is 1"),
    ("trial,momentum\n1,1.5\n", "line 2, column momentum: momentum is 1.5; the most is 0.9999"),
    ("trial,best_monitor\n1,accuracy\n",
     "line 2, column best_monitor: best_monitor is 'accuracy'; give one of val_loss"),
    ("trial,lr\n../x,0.1\n", "line 2, column trial: trial is '../x'"),
    ("trial,lr\n1,0.1,3\n", "line 2: 3 values for 2 columns"),
    ('trial,lr\n1,"0.1\n', "line 2: "),
    ("", "no trials"),
    ("trial,lr\n", "no trials"),
])
def test_grid_fault_names_line_and_column(text: str, message: str) -> None:
    with pytest.raises(GridError) as caught:
        parse_grid(text)
    assert message in str(caught.value)


def test_message_about_a_very_long_cell_is_short() -> None:
    for column, cell in (("epochs", "9" * 5000), ("model", "m" * 5000), ("freeze", "f" * 5000), ("trial", "t" * 5000)):
        with pytest.raises(GridError) as caught:
            parse_grid(f"{column}\n{cell}\n")
        assert len(str(caught.value)) < 300
