"""How sure the winner is: the paired test, the cheapest equal, means over seeds, and the grid's edge."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from scipy.stats import binomtest

from job.folder.grid import format_grid, parse_grid
from job.folder.local import LocalFolder
from job.results.compare import hits, mcnemar, next_values
from job.results.gather import gather
from job.results.predictions import validation_predictions
from job.trial import Trial
from support import leave_row, make_epochs


@pytest.mark.parametrize("first", [0, 1, 3, 10, 400])
@pytest.mark.parametrize("second", [0, 1, 7, 450])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def predictions(wrong: set[int], count: int = 100) -> bytes:
    lines = [f"val,{i}.jpg,yes,{'no' if i in wrong else 'yes'},0.5,0.5" for i in range(count)]
    return "\n".join(["split,image,label,predicted,p no,p yes", "test,t.jpg,yes,no,0.5,0.5", *lines]).encode()


@pytest.fixture
def sweep(tmp_path: Path) -> LocalFolder:
    """best: 5 wrong of 100, dear; near: 8 wrong, cheap; far: 40 wrong, cheaper still; old: without predictions."""
    folder = LocalFolder(str(tmp_path))
    for name, lr, wrong, seconds in (("best", 0.1, range(5), 100.0), ("near", 0.01, range(3, 11), 50.0),
                                     ("far", 0.001, range(40), 10.0), ("old", 0.1, None, 1.0)):
        level = 0.1 if wrong is None else len(wrong) / 100
        epochs = make_epochs(4, level + 0.001 * (wrong is None))
        leave_row(folder, Trial(trial=name, lr=lr, epochs=20), epochs, seconds=seconds)
        if wrong is not None:
            folder.write(f"trials/{name}/predictions.csv", predictions(set(wrong)))
    return folder


def test_predictions_tell_hits_of_validation_only() -> None:
    found = hits(validation_predictions(predictions({1, 2}, 5)))
    assert found.to_dict() == {"0.jpg": True, "1.jpg": False, "2.jpg": False, "3.jpg": True, "4.jpg": True}


def test_equals_of_the_best_are_marked_and_the_cheapest_preferred(sweep: LocalFolder) -> None:
    summary, _, _ = gather(sweep)
    table = summary.table.set_index("trial")
    assert table["verdict"].to_dict() == {
        "best": "best", "near": "same as best, cheapest: preferred", "old": "", "far": "worse"}
    # best alone wrong: 0, 1, 2; near alone wrong: 5 to 10.
    assert table.loc["near", "p_vs_best"] == pytest.approx(binomtest(3, 9, 0.5).pvalue)
    assert table.loc["far", "p_vs_best"] < 1e-6 and math.isnan(table.loc["old", "p_vs_best"])
    alike = [note for note in summary.notes() if note.startswith("not distinguishable from the best")]
    assert len(alike) == 1 and "McNemar" in alike[0] and "trials near (1 of 3;" in alike[0]
    assert any(note.startswith("preferred: trial near") for note in summary.notes())
    sheet = openpyxl.load_workbook(sweep.path / "summary.xlsx")["Summary"]
    assert {"p_vs_best", "verdict"} <= {cell.value for cell in sheet[1]}


def test_best_on_the_edge_says_what_to_try_and_writes_that_grid(sweep: LocalFolder) -> None:
    summary, _, _ = gather(sweep)
    assert "the best trial has the largest lr of the grid, 0.1: try 1 and 10 next" in summary.notes()
    found = parse_grid((sweep.path / "next-grid.csv").read_text())
    assert [(trial.trial, trial.lr, trial.epochs) for trial in found] == [("best-n1", 1.0, 20), ("best-n2", 10.0, 20)]


def test_edge_counts_trials_that_diverged_or_have_yet_to_run_and_their_names(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    trials = [Trial(trial=str(n), lr=lr) for n, lr in enumerate((0.1, 1.0, 10.0, 100.0), 1)]
    folder.write("grid.csv", format_grid(trials).encode())
    leave_row(folder, Trial(trial="1", lr=0.1), make_epochs(4, 0.5))
    leave_row(folder, Trial(trial="2", lr=1.0), make_epochs(4, 0.1))
    leave_row(folder, Trial(trial="3", lr=10.0), [], status="diverged")
    assert gather(folder)[0].next_notes == []
    folder.write("grid.csv", format_grid([*trials[:2], Trial(trial="7", lr=0.5)]).encode())
    (tmp_path / "trials" / "3" / "row.json").unlink()
    assert gather(folder)[0].next_notes == ["the best trial has the largest lr of the grid, 1: try 2 and 4 next"]
    found = parse_grid((tmp_path / "next-grid.csv").read_text())
    assert [(trial.trial, trial.lr) for trial in found] == [("1", 0.1), ("2", 1.0), ("7", 0.5), ("8", 2.0), ("9", 4.0)]


def test_epochs_are_asked_for_only_where_they_can_help(tmp_path: Path) -> None:
    def notes(epochs: int, others: int, **settings: Any) -> list[str]:
        folder = LocalFolder(str(tmp_path / str(len(list(tmp_path.iterdir())))))
        run = settings.pop("epochs_run", 0)
        for name, number, level in (("1", epochs, 0.1), ("2", others, 0.9)):
            leave_row(folder, Trial(trial=name, epochs=number, **settings), make_epochs(run or number, level))
        return gather(folder)[0].next_notes

    assert notes(10, 20) == []
    assert notes(10, 20, schedule="cosine") == [
        "the best trial has the smallest epochs of the grid, 10: try 5 and 2 next"]
    assert notes(20, 10) == ["the best trial has the largest epochs of the grid, 20: try 40 and 80 next"]
    assert notes(20, 10, epochs_run=7, stop_monitor="val_loss") == []


def test_more_accurate_trial_than_the_one_that_ranks_first_by_loss_is_not_called_worse(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    for name, loss, wrong in (("a", 0.4, range(30)), ("b", 0.5, range(3))):
        epoch = replace(make_epochs(1, 0.5)[0], val_loss=loss)
        leave_row(folder, Trial(trial=name, best_monitor="val_loss"), [epoch])
        folder.write(f"trials/{name}/predictions.csv", predictions(set(wrong)))
    table = gather(folder)[0].table.set_index("trial")
    assert table["verdict"].to_dict() == {"a": "best", "b": "more accurate"}
    text = {c.value for row in openpyxl.load_workbook(tmp_path / "summary.xlsx")["Summary"].iter_rows() for c in row}
    assert any("McNemar" in str(value) for value in text)


def test_best_within_the_grid_asks_for_nothing_and_takes_an_old_next_grid_away(sweep: LocalFolder) -> None:
    gather(sweep)
    leave_row(sweep, Trial(trial="high", lr=1.0, epochs=20), make_epochs(4, 0.9))
    summary, _, _ = gather(sweep)
    assert summary.next_trials == [] and not (sweep.path / "next-grid.csv").exists()


@pytest.mark.parametrize(("name", "values", "best", "expected"), [
    ("lr", [0.1, 0.01, 0.001], 0.001, [0.0001, 0.00001]), ("lr", [0.1, 0.03], 0.1, [0.333, 1.11]),
    ("lr", [0.1, 0.09], 0.1, [0.2, 0.4]), ("lr", [1.0, 0.001], 1.0, [10.0, 100.0]), ("lr", [0.1], 0.1, []),
    ("lr", [0.1, 0.01, 0.001], 0.01, []), ("epochs", [10, 20], 20, [40, 80]), ("epochs", [75, 90], 90, [112, 141]),
    ("epochs", [1, 2], 1, []), ("epochs", [10, 20], 10, [5, 2])])
def test_values_to_try_continue_the_grids_own_step(
        name: str, values: list[float], best: float, expected: list[float]) -> None:
    assert next_values(name, values, best) == pytest.approx(expected)


def test_edge_is_that_of_the_trials_like_the_best(sweep: LocalFolder) -> None:
    leave_row(sweep, Trial(trial="net", lr=7.0, epochs=3, image_size=64), make_epochs(4, 0.9))
    summary, _, _ = gather(sweep)
    assert summary.next_notes == ["the best trial has the largest lr of the grid, 0.1: try 1 and 10 next"]


def test_seeds_give_mean_and_spread_per_setting(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    levels = {("a", 0.1, 0): 0.3, ("b", 0.1, 1): 0.36, ("c", 0.1, 2): 0.33, ("d", 0.01, 0): 0.6, ("e", 0.01, 1): 0.6,
              ("f", 0.001, 0): 0.9}
    for (name, lr, seed), level in levels.items():
        leave_row(folder, Trial(trial=name, lr=lr, seed=seed, epochs=4), make_epochs(4, level), test_acc=level)
    summary, _, _ = gather(folder)
    found = summary.repeats.set_index("lr")
    accs = pd.Series([1 - level / 4 / 1.5 for level in (0.3, 0.36, 0.33)])
    assert list(found.index) == [0.1, 0.01] and found.loc[0.1, "num_seeds"] == 3
    assert found.loc[0.1, "mean_best_val_acc"] == pytest.approx(accs.mean())
    assert found.loc[0.1, "std_best_val_acc"] == pytest.approx(accs.std(ddof=1))
    sheet = openpyxl.load_workbook(tmp_path / "summary.xlsx")["Repeats"]
    assert sheet.max_row == 3
    assert any(note.startswith("best mean over seeds: trials a, c, b") for note in summary.notes())
