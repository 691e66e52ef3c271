"""What commands print fits the screen: no heading or value is cut, and what matters least is left out."""

import re
import shlex
from pathlib import Path

import pytest

from job.folder.grid import format_grid
from job.folder.local import LocalFolder
from job.results.terminal import Column, fitting
from job.trial import Trial
from support import job, leave_predictions, leave_row, make_epochs, on_terminal, plain


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> LocalFolder:
    """A finished sweep of three trials with long names whose settings differ in many columns."""
    folder = LocalFolder(str(tmp_path_factory.mktemp("wide") / "sweep of mine"))
    trials = [Trial(trial=f"emergency-{n}", lr=0.0003 * n, epochs=n + 2, batch_size=n, image_size=60 + n,
                    dropout=n / 10, rotation=n, noise=n / 100, schedule="cosine", momentum=n / 10) for n in (1, 2, 3)]
    folder.write("grid.csv", format_grid(trials).encode())
    folder.write("pack/passport.json", b'{"pack_hash": "p"}')
    for trial, level in zip(trials, (0.9, 0.2, 0.5), strict=True):
        leave_row(folder, trial, make_epochs(trial.epochs, level), test_acc=0.5, test_recall=0.25, host="a-long-name")
        leave_predictions(folder, trial.trial, range(int(50 * level)))
    return folder


def test_columns_that_matter_least_are_left_out_and_none_is_cut() -> None:
    columns = [Column("trial", ["a" * 10]), Column("lr", ["1"], 2), Column("where", ["host"], 9),
               Column("left", [""], 1)]
    assert [column.heading for column in fitting(columns, 40)] == ["trial", "lr", "where"]
    assert [column.heading for column in fitting(columns, 20)] == ["trial", "lr"]
    assert [column.heading for column in fitting(columns, 14)] == ["trial"]
    assert [column.heading for column in fitting(columns, 5)] == ["trial"]


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("command", ["gather", "status"])
def test_no_heading_is_cut_and_no_line_of_the_table_is_broken(command: str, columns: int, wide: LocalFolder) -> None:
    lines = plain(on_terminal(columns, command, wide.uri)).splitlines()
    table = [line for line in lines if re.search(r"emergency-\d", line) and line.startswith(" ")]
    rule = next(number for number, line in enumerate(lines) if "───" in line)
    headings = re.split(r" {2,}", lines[rule - 1].strip())
    known = {"trial", "state", "lr", "epochs", "epoch", "batch_size", "image_size", "dropout", "rotation", "noise",
             "momentum", "val acc", "val loss", "at epoch", "test acc", "test recall", "seconds", "best val acc",
             "last val acc", "last val loss", "images/s", "attempts", "where", "p vs best", "after Holm"}
    assert set(headings) <= known and {"trial", "lr"} <= set(headings), headings
    assert len(table) == 3 and all(len(line) <= columns for line in table)
    assert ("where" in headings) == (command == "status" and columns >= 120)
    shown = [name for line in lines if line.startswith("hidden") for name in known if name in line]
    assert not set(shown) & set(headings) - {"val loss", "epochs", "epoch"}


def test_status_and_gather_agree_on_the_best_trial_and_mark_it_without_colour_too(wide: LocalFolder) -> None:
    gathered, status = (job(command, wide.uri).out for command in ("gather", "status"))
    assert re.search(r"emergency-2 \* .* 0\.967 ", gathered), gathered
    assert re.search(r"emergency-2 \* .* done .* 0\.967 @4 ", status), status
    assert gathered.count("emergency-2 *") == status.count("emergency-2 *") == 1
    assert len(re.findall(r"emergency-\d \*", gathered + status)) == 2


def test_states_have_colours_on_a_terminal_and_none_in_a_pipe(wide: LocalFolder) -> None:
    assert re.search(r"\x1b\[[0-9;]*32m *done", on_terminal(120, "status", wide.uri))
    assert "\x1b" not in job("status", wide.uri).out


def test_path_of_the_workbook_is_one_line_even_on_a_narrow_screen(wide: LocalFolder) -> None:
    assert f"workbook: {wide.uri}/summary.xlsx" in plain(on_terminal(40, "gather", wide.uri)).replace("\r\n", "\n")


def test_printed_command_can_be_pasted(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path / "sweep of mine"))
    for trial, level in ((Trial(trial="1", lr=0.1), 0.9), (Trial(trial="2", lr=0.01), 0.2)):
        leave_row(folder, trial, make_epochs(trial.epochs, level))
        leave_predictions(folder, trial.trial, range(int(50 * level)))
    text = next(line for line in job("gather", folder.uri).out.splitlines() if "job sweep --grid" in line)
    command = shlex.split(text[text.index("job sweep"):])
    assert command == ["job", "sweep", "--grid", f"{folder.uri}/next-grid.csv", folder.uri]
    assert Path(command[3]).exists()
