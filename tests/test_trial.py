"""Grids, rows and epochs: what goes in comes out, and every fault names its line and column."""

import math
from dataclasses import asdict, fields

import pytest

from job.folder.grid import GridError, format_grid, parse_grid
from job.record import Epoch, Row, epochs_from_csv, epochs_to_csv, row_from_json, row_to_json, summarise
from job.trial import ImageOptions, Trial


def test_grid_survives_being_printed_and_read() -> None:
    trials = [Trial(trial="a", lr=0.1, epochs=3), Trial(trial="b", lr=1e-5, epochs=90, weights="s3://b/w.pt", seed=7)]
    assert parse_grid(format_grid(trials)) == trials


def test_excel_grid_with_bom_crlf_quotes_and_blank_lines_is_read() -> None:
    text = '\ufefftrial,"lr",epochs\r\n"one",0.1,10\r\n,,\r\n\r\ntwo, 0.01 ,20\r\n'
    assert parse_grid(text) == [Trial(trial="one", lr=0.1, epochs=10), Trial(trial="two", lr=0.01, epochs=20)]


def test_grid_without_names_is_numbered_and_defaults_are_the_studys_recipe() -> None:
    first, second = parse_grid("lr,epochs\n0.1,10\n0.01,20\n")
    assert (first.trial, second.trial) == ("1", "2")
    assert (first.image_size, first.weights, first.momentum, first.step_size, first.gamma) == (224, "imagenet", 0.9, 7, 0.1)


@pytest.mark.parametrize(("text", "message"), [
    ("trial,lr,epoch\n1,0.1,2\n", "line 1, column 3: unknown column 'epoch'; did you mean epochs?"),
    ("trial,lr,lr\n1,0.1,2\n", "line 1, column 3: the column 'lr' stands twice"),
    ("trial,lr\n1,0.1\n1,0.2\n", "line 3, column trial: the name '1' stands in line 2 too"),
    ("trial,lr\nA,0.1\na,0.2\n", "line 3, column trial: the name 'a' stands in line 2 too"),
    ("trial,lr\n1,fast\n", "line 2, column lr: lr is 'fast'; a number is needed"),
    ("trial,epochs\n1,2.5\n", "line 2, column epochs: epochs is '2.5'; a whole number is needed"),
    ("trial,lr\n1,\n", "line 2, column lr: lr is empty"),
    ("trial,lr\n1,0\n", "line 2, column lr: lr is 0; it must be greater than 0"),
    ("trial,lr\n1,nan\n", "line 2, column lr: lr is nan; a finite number is needed"),
    ("trial,lr\n1,inf\n", "line 2, column lr: lr is inf"),
    ("trial,epochs\n1,0\n", "line 2, column epochs: epochs is 0; 1 is the least"),
    ("trial,momentum\n1,1.5\n", "line 2, column momentum: momentum is 1.5; 0.9999 is the most"),
    ("trial,best_monitor\n1,accuracy\n", "line 2, column best_monitor: best_monitor is 'accuracy'; one of val_loss"),
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


def test_trial_and_row_share_no_field_so_that_a_row_can_be_flat() -> None:
    assert not {spec.name for spec in fields(Trial)} & {spec.name for spec in fields(Row)}


def test_every_field_has_a_help_text() -> None:
    for kind in (Trial, ImageOptions):
        assert all(spec.metadata["help"] for spec in fields(kind))


def make_epochs() -> list[Epoch]:
    return [Epoch(epoch=n, train_loss=1 / (n + 2), train_acc=n / 7, val_loss=0.1 * n, val_acc=1 - n / 9, lr=0.1 / 3,
                  images_per_second=100.0 * n, train_seconds=1.5, val_seconds=0.25) for n in range(1, 6)]


def test_epochs_survive_csv_to_the_last_bit() -> None:
    assert epochs_from_csv(epochs_to_csv(make_epochs())) == make_epochs()


def test_epochs_csv_fault_names_its_line() -> None:
    with pytest.raises(ValueError, match="line 3"):
        epochs_from_csv("epoch,train_loss,train_acc,val_loss,val_acc\n1,1,1,1,1\n2,1,x,1,1\n")


def test_row_survives_json_and_is_flat() -> None:
    epochs = make_epochs()
    row = Row(settings=asdict(Trial(trial="1")), status="done", **summarise(epochs, epochs[2]))
    text = row_to_json(row)
    assert row_from_json(text) == row
    assert '"lr": 0.01' in text and '"settings"' not in text
    assert (row.median_train_loss, row.best_epoch, row.last_val_loss, row.seconds) == (1 / 5, 3, 0.5, 5 * 1.75)


def test_summary_of_a_diverged_trial_leaves_out_what_is_not_finite() -> None:
    epochs = [*make_epochs()[:2], Epoch(epoch=3, train_loss=math.nan, train_acc=0.5, val_loss=math.inf, val_acc=0.5)]
    found = summarise(epochs, epochs[1])
    assert epochs[-1].diverged
    assert found["last_val_loss"] is None and found["last_train_loss"] is None
    assert found["median_val_loss"] == pytest.approx(0.15)
    row_to_json(Row(settings={"trial": "1"}, status="diverged", **found))


def test_median_of_an_even_number_of_epochs_is_the_mean_of_the_middle_two() -> None:
    assert summarise(make_epochs()[:4], None)["median_val_loss"] == pytest.approx(0.25)
