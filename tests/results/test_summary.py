"""The one ranked table: order, best trial, missing, failed and diverged trials, and rows of another pack."""

from pathlib import Path

import pytest

from job.errors import MissingInput
from job.folder.local import LocalFolder
from job.folder.storage import open_folder
from job.record import Epoch
from job.results.gather import gather
from job.results.summary import collect
from job.trial import Trial
from sheets import column, read
from support import leave_row, make_epochs


def test_summary_is_sorted_and_the_best_marked_and_the_missing_named(three_rows: LocalFolder) -> None:
    summary, name, kept = gather(three_rows)
    assert (name, kept, summary.missing) == ("summary.xlsx", "", ["4"])
    assert summary.table["trial"].tolist() == ["2", "3", "1"] and summary.table["rank"].tolist() == [1, 2, 3]
    assert summary.best is not None and summary.best["best_val_acc"] == pytest.approx(1 - 0.2 / 4 / 1.5)
    texts = [cell.value for sheet in read(three_rows) for row in sheet.iter_rows() for cell in row
             if isinstance(cell.value, str)]
    assert any("no row yet: 4" in value for value in texts)


def test_rows_of_another_pack_are_shown_but_not_ranked(three_rows: LocalFolder) -> None:
    leave_row(three_rows, Trial(trial="4", lr=0.001, epochs=6), make_epochs(6, 0.01), pack="another")
    summary, _, _ = gather(three_rows)
    assert summary.best is not None and summary.best["trial"] == "2" and summary.other_pack == ["4"]
    assert any("another pack: 4" in note for note in summary.notes())
    sheet = read(three_rows)["Summary"]
    assert sheet.cell(5, column(sheet, "trial")).value == "4" and sheet["A5"].value is None


def test_diverged_and_failed_trials_are_rows(three_rows: LocalFolder) -> None:
    last = Epoch(epoch=3, train_loss=float("nan"), train_acc=0.5, val_loss=float("inf"), val_acc=0.5)
    leave_row(three_rows, Trial(trial="4", lr=9.0, epochs=6), [*make_epochs(2, 0.9), last], status="diverged",
              cause="the loss was not finite in epoch 3")
    leave_row(three_rows, Trial(trial="5", lr=9.0, epochs=6), [], status="failed", cause="weights gone")
    summary, _, _ = gather(three_rows)
    assert summary.failed == ["5"]
    sheet = read(three_rows)["Trial 4"]
    assert sheet["E4"].value is None and sheet["B2"].value == pytest.approx((0.9 + 0.45) / 2)
    assert read(three_rows)["Trial 5"]["A2"].value is None


def test_equal_figures_rank_by_loss_then_by_fewer_epochs(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    for name, epochs, loss in (("long", 9, 0.3), ("short", 5, 0.3), ("lossy", 3, 0.4)):
        epoch = Epoch(epoch=1, train_loss=1, train_acc=1, val_loss=loss, val_acc=0.9)
        leave_row(folder, Trial(trial=name, epochs=epochs), [epoch])
    assert collect(folder).table["trial"].tolist() == ["short", "long", "lossy"]


def test_trials_that_monitor_the_loss_are_sorted_by_it(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    for name, loss, acc in (("a", 0.5, 0.9), ("b", 0.2, 0.8)):
        epoch = Epoch(epoch=1, train_loss=1, train_acc=1, val_loss=loss, val_acc=acc)
        leave_row(folder, Trial(trial=name, best_monitor="val_loss"), [epoch])
    summary = collect(folder)
    assert summary.monitor == "val_loss" and summary.table["trial"].tolist() == ["b", "a"]


def test_sweep_without_rows_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no such folder, or it is empty"):
        gather(open_folder(str(tmp_path)))
    (tmp_path / "passport.json").write_text("{}")
    with pytest.raises(MissingInput, match="is this a sweep's folder"):
        gather(open_folder(str(tmp_path)))
    (tmp_path / "grid.csv").write_text("trial,lr\n1,0.1\n")
    with pytest.raises(MissingInput, match="job status"):
        gather(open_folder(str(tmp_path)))
