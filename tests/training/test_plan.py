"""The plan: what a sweep will train and what it costs."""

import re
from pathlib import Path

import pytest

from job.training.plan import kind_of
from job.trial import Trial
from support import job


def test_folds_of_a_setting_are_measured_once_and_the_plain_split_on_its_own() -> None:
    kinds = {kind_of(Trial(trial=str(fold), lr=fold + 1, fold=fold)) for fold in range(6)}
    assert {kind.fold for kind in kinds} == {0, 1} and len(kinds) == 2


def test_plan_says_what_will_run_and_what_it_costs_and_trains_nothing(
        nine_alone: Path, shapes: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    done = job("plan", "--images", shapes, "--grid", nine_alone / "grid.csv", sweep, "--price", "3600")
    assert done.code == 0, done.err
    assert "9 of 9 trials are left, in 4 runs: 56 epochs to train, 43 saved by trajectories" in done.out
    runs = {line.split()[0]: line.split("  ")[0:3] for line in done.out.splitlines() if re.match(r" \d ", line)}
    assert runs.keys() == {"2", "6", "8", "9"}
    seconds = re.search(r"about (?:(\d+)m)?(\d+)s on this machine; at 3600 per hour about (\d+\.\d+)", done.out)
    assert seconds and float(seconds[3]) == pytest.approx(60 * int(seconds[1] or 0) + int(seconds[2]), abs=0.6)
    assert not (sweep / "trials").exists() and not (sweep / "grid.csv").exists()
    alone_too = job("plan", "--grid", nine_alone / "grid.csv", sweep, "--independent")
    assert "in 9 runs: 99 epochs to train, 0 saved" in alone_too.out
    assert "each of the 9 trials has its row; nothing is left to train" in job("plan", nine_alone).out
