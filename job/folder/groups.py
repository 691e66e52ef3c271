"""Trials that belong together: a trajectory, which one training serves, and the folds of one setting."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from job.trial import Trial


def trajectories(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Group the trials into trajectories: those that differ only in `epochs`, the shortest first.

    Training the longest trial of a trajectory passes through all the others. A cosine schedule depends on the number of
    epochs, so such a trial is alone in its group. Groups are in the order of their first trials in `trials`.
    """
    groups: dict[Any, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trajectory_of(trial) or trial.trial, []).append(trial)
    return [sorted(group, key=lambda trial: trial.epochs) for group in groups.values()]


def trajectory_of(trial: Trial) -> Trial | None:
    """Return the trial that stands for all trials of its trajectory; None if it is alone by its schedule."""
    return None if trial.schedule == "cosine" else replace(trial, trial="1", epochs=1_000_000)


def all_folds(trial: Trial) -> list[Trial]:
    """Return the setting of a trial once per fold, named NAME-f1, NAME-f2, ..."""
    return [replace(trial, trial=f"{trial.trial}-f{fold}", fold=fold) for fold in range(1, trial.folds + 1)]
