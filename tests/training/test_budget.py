"""A budget: nothing begins that would overrun it, and what is left is told and trained by the next command."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from job.folder.attempts import as_json, attempt_file, new_attempt
from job.folder.layout import trial_work
from job.folder.storage import Folder, open_folder
from job.training.budget import Budget
from job.training.continued import Predecessor
from job.training.display import open_display
from job.training.options import Mode, SweepOptions
from job.training.plan import kind_of
from job.training.rungs import Paused
from job.trial import Trial
from support import Grid, job, row


@pytest.mark.parametrize(("args", "part"), [
    (("--budget", "3x"), "45s, 90m, 3h or 1d12h"), (("--budget", "0h"), "90m"), (("--budget", "h"), "90m"),
    (("--budget", "3"), "90m"), (("--budget", "-3h"), "90m"), (("--budget", "3h2d"), "90m"),
    (("--budget-cost", 20), "--price"), (("--price", 2), "--budget-cost"),
    (("--budget", "1h", "--budget-cost", 20, "--price", 2), "or neither")])
def test_a_budget_that_says_nothing_is_refused_before_anything_is_done(
        args: tuple[object, ...], part: str, shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    done = job("sweep", "--images", shapes, "--grid", make_grid(lr=[0.01]), *args, tmp_path / "sweep")
    assert done.code == 78 and part in done.err, done.err
    assert not (tmp_path / "sweep").exists()


def test_what_a_budget_leaves_is_told_and_trained_by_the_next_command(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    # An hour costs a million: less than a second.
    args = ("sweep", "--images", shapes, "--grid", make_grid(lr=[0.01, 0.02], epochs=[1, 1]), sweep)
    for workers in (1, 2):
        done = job(*args, "--budget-cost", 100, "--price", 1e6, "--workers", workers)
        assert done.code == 0, done.err
        assert "the budget ends here; 2 trials without a row: 1 (not begun), 2 (not begun)" in done.out
        assert not (sweep / "trials").exists()
    done = job(*args, "--budget", "1d2h3.5m")
    assert done.code == 0 and "the budget" not in done.out.replace("for the budget", "")
    assert [row(sweep, trial)["status"] for trial in "12"] == ["done", "done"]


@pytest.mark.parametrize(("race", "begins_at", "seconds", "fits"), [
    ("off", 0, 269, False), ("off", 0, 271, True), ("together", 0, 29, False), ("together", 0, 31, True),
    ("to-the-end", 0, 31, False), ("off", 8, 189, False), ("off", 8, 191, True), ("together", 8, 11, True)])
def test_the_next_rung_must_fit_or_what_is_left_of_the_trial(
        race: Mode, begins_at: int, seconds: float, fits: bool, folder: Folder, finished: Path) -> None:
    from job.data.passport import read_passport

    passport = read_passport(open_folder(str(finished)))
    assert passport
    trials = [Trial(trial="short", epochs=9, weights="none"), Trial(trial="long", epochs=27, weights="none")]
    continued = {"long": Predecessor(replace(trials[0], epochs=8), 8, False)} if begins_at else {}
    with open_display() as display:
        budget = Budget(folder, passport, SweepOptions(race=race, ends_at=time.time() + seconds), display, continued)
        budget.epoch_seconds[kind_of(trials[1])] = 10.0
        assert budget.allows(trials) is fits
    assert budget.refused == (set() if fits else {"short", "long"})


def test_the_pace_is_learned_from_a_turn_that_pauses_at_a_rung_too(folder: Folder, finished: Path) -> None:
    from job.data.passport import read_passport

    passport, trial = read_passport(open_folder(str(finished))), Trial(trial="t", epochs=27, weights="none")
    assert passport
    with open_display() as display:
        budget = Budget(folder, passport, SweepOptions(race="together", ends_at=time.time() + 99), display, {})
        with pytest.raises(Paused), budget.timed(trial):
            folder.write(attempt_file(trial_work("t"), 1), as_json(new_attempt({}, epoch=4)))
            raise Paused("at its rung")
        assert 0 < budget.epoch_seconds[kind_of(trial)] < 1
