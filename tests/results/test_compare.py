"""How sure the winner is: the paired tests, what not to compare, means over seeds, and the grid's edge."""

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
from job.results.compare import hits
from job.results.gather import gather
from job.results.next_grid import next_values
from job.results.predictions import whole_predictions
from job.trial import Trial
from support import leave_predictions, leave_row, make_epochs


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
            leave_predictions(folder, name, wrong, wrong_on_test=range(2), num_test=4)
    return folder


def two(tmp_path: Path, first: Trial, second: Trial, wrong: tuple[int, int], epochs_run: int = 0) -> list[str]:
    """Return the advice of a sweep of two trials with so many mistakes of 100; the accuracies are those."""
    folder = LocalFolder(str(tmp_path / str(len(list(tmp_path.iterdir())))))
    for trial, count in zip((first, second), wrong, strict=True):
        epochs = make_epochs(epochs_run or trial.epochs, 0.5)
        leave_row(folder, trial, [replace(epoch, val_acc=1 - count / 100) for epoch in epochs])
        leave_predictions(folder, trial.trial, range(count))
    return gather(folder)[0].next_notes


def test_predictions_tell_hits_of_validation_only(sweep: LocalFolder) -> None:
    found = hits(whole_predictions(sweep.read("trials/near/predictions.csv"), ["no", "yes"]))
    assert len(found) == 100 and [*found[~found].index] == [f"val{i}.jpg" for i in range(3, 11)]


def test_trials_that_are_not_distinguishable_from_the_best_are_named_with_both_p_values(sweep: LocalFolder) -> None:
    summary, _, _ = gather(sweep)
    table = summary.table.set_index("trial")
    assert table["verdict"].to_dict() == {"best": "best", "near": "not distinguishable", "old": "", "far": "worse"}
    # best alone wrong: 0, 1, 2; near alone wrong: 5 to 10.
    p = binomtest(3, 9, 0.5).pvalue
    near, far = table.loc["near"], table.loc["far"]
    assert near["p_vs_best"] == pytest.approx(p) and near["p_vs_best_holm"] == pytest.approx(p)
    assert far["p_vs_best_holm"] == pytest.approx(2 * far["p_vs_best"]) and far["p_vs_best"] < 1e-6
    assert math.isnan(table.loc["old", "p_vs_best"])
    alike = [note for note in summary.notes() if note.startswith("not distinguishable from trial best")]
    assert len(alike) == 1 and "McNemar" in alike[0] and "Holm" in alike[0] and "trials near (1 of 2;" in alike[0]
    assert not any("preferred" in note for note in summary.notes())


def test_difference_that_only_many_comparisons_show_is_not_called_one(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    for number in range(5):
        # Trials 1 to 4 miss 7 images that trial 0 has right, and have one right that it misses: p = 0.07.
        leave_row(folder, Trial(trial=str(number)), make_epochs(4, 0.1 + 0.1 * (number > 0)))
        leave_predictions(folder, str(number), range(7, 15) if number else [])
    table = gather(folder)[0].table.set_index("trial")
    assert table.loc["1", "p_vs_best"] == pytest.approx(2 / 2**8) and table.loc["1", "verdict"] == "worse"
    for number in range(1, 5):
        leave_predictions(folder, str(number), range(7, 13))
    table = gather(folder)[0].table.set_index("trial")
    assert table.loc["1", "p_vs_best"] == pytest.approx(2 / 2**6) and table.loc["1", "p_vs_best"] < 0.05
    assert table.loc["1", "p_vs_best_holm"] == pytest.approx(8 / 2**6)
    assert table.loc["1", "verdict"] == "not distinguishable"


def test_best_on_the_edge_says_what_to_try_and_writes_that_grid(tmp_path: Path) -> None:
    advice = two(tmp_path, Trial(trial="best", lr=0.1, epochs=20), Trial(trial="near", lr=0.01, epochs=20), (5, 30))
    assert advice == ["the best trial has the largest lr of the grid, 0.1, and lr 0.01 (trial near) is worse: "
                      "try 1 and 10 next"]
    found = parse_grid((tmp_path / "0" / "next-grid.csv").read_text())
    assert [(trial.trial, trial.lr, trial.epochs) for trial in found] == [("best-n1", 1.0, 20), ("best-n2", 10.0, 20)]


def test_advice_from_a_difference_that_may_be_chance_is_called_a_guess_and_a_tie_gives_none(tmp_path: Path) -> None:
    trials = Trial(trial="1", lr=0.1, epochs=4), Trial(trial="2", lr=0.01, epochs=4)
    assert two(tmp_path, *trials, (5, 8)) == ["a guess: the best trial has the largest lr of the grid, 0.1, but lr "
                                              "0.01 (trial 2) is not distinguishable: try 1 and 10 next"]
    assert two(tmp_path, *trials, (5, 5)) == []
    fewer = replace(trials[1], epochs=2)
    assert [note.partition(": try")[0] for note in two(tmp_path, trials[0], fewer, (5, 30))] == [
        f"a guess: the best trial has the largest {name} of the grid, {value}, but no ranked trial differs from "
        f"it in {name} alone" for name, value in (("lr", "0.1"), ("epochs", "4"))]
    # Half of the images are of one class.
    assert two(tmp_path, *trials, (45, 50)) == []


def test_edge_counts_trials_that_diverged_or_have_yet_to_run_and_their_names(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    trials = [Trial(trial=str(n), lr=lr) for n, lr in enumerate((0.1, 1.0, 10.0, 100.0), 1)]
    folder.write("grid.csv", format_grid(trials).encode())
    for trial, level, wrong in zip(trials, (0.5, 0.1), (30, 5), strict=False):
        leave_row(folder, trial, make_epochs(4, level))
        leave_predictions(folder, trial.trial, range(wrong))
    leave_row(folder, Trial(trial="3", lr=10.0), [], status="diverged")
    assert gather(folder)[0].next_notes == []
    folder.write("grid.csv", format_grid([*trials[:2], Trial(trial="7", lr=0.5)]).encode())
    (tmp_path / "trials" / "3" / "row.json").unlink()
    assert [note.rpartition(": ")[2] for note in gather(folder)[0].next_notes] == ["try 2 and 4 next"]
    found = parse_grid((tmp_path / "next-grid.csv").read_text())
    assert [(trial.trial, trial.lr) for trial in found] == [("1", 0.1), ("2", 1.0), ("7", 0.5), ("8", 2.0), ("9", 4.0)]


def test_epochs_are_asked_for_only_where_they_can_help(tmp_path: Path) -> None:
    def notes(epochs: int, others: int, epochs_run: int = 0, **settings: Any) -> list[str]:
        first, second = Trial(trial="1", epochs=epochs, **settings), Trial(trial="2", epochs=others, **settings)
        return two(tmp_path, first, second, (5, 45), epochs_run)

    assert notes(10, 20) == []
    assert notes(10, 20, schedule="cosine") == ["the best trial has the smallest epochs of the grid, 10, and epochs 20 "
                                                "(trial 2) is worse: try 5 and 2 next"]
    assert notes(20, 10) == ["the best trial has the largest epochs of the grid, 20, and epochs 10 (trial 2) is worse: "
                             "try 40 and 80 next"]
    assert notes(20, 10, epochs_run=7, stop_monitor="val_loss") == []


def test_more_accurate_trial_than_the_one_that_ranks_first_by_loss_is_not_called_worse(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    for name, loss, wrong in (("a", 0.4, range(30)), ("b", 0.5, range(3))):
        epoch = replace(make_epochs(1, 0.5)[0], val_loss=loss)
        leave_row(folder, Trial(trial=name, best_monitor="val_loss"), [epoch])
        leave_predictions(folder, name, wrong)
    table = gather(folder)[0].table.set_index("trial")
    assert table["verdict"].to_dict() == {"a": "best", "b": "more accurate"}


def test_best_within_the_grid_asks_for_nothing_and_takes_an_old_next_grid_away(sweep: LocalFolder) -> None:
    gather(sweep)
    assert (sweep.path / "next-grid.csv").exists()
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
    assert [note.rpartition(": ")[2] for note in gather(sweep)[0].next_notes] == ["try 1 and 10 next"]


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
