"""Longer continues shorter: which finished trial's last checkpoint a trial of more epochs begins from."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from job.errors import BadConfig
from job.folder.attempts import last_attempt
from job.folder.grid import trial_of
from job.folder.groups import trajectory_of
from job.folder.layout import read_row, trial_work, trials_with
from job.folder.storage import Folder
from job.trial import Trial

NUM_READERS = 16


@dataclass(frozen=True)
class Predecessor:
    """A finished trial that longer ones continue, and how many epochs it ran.

    has_ended: it stopped early or diverged, and so does every longer one.
    """

    trial: Trial
    epochs_run: int
    has_ended: bool


def predecessors(sweep: Folder, trials: Sequence[Trial], pack_hash: str) -> dict[str, Predecessor]:
    """Return the predecessor of each of these trials that has one, by the trial's name.

    That is the trial of the same trajectory and of fewer epochs, in the grid or not, whose last checkpoint has most of
    them. Lists the trials' files once and reads each row that a checkpoint lies beside.
    """
    if not any(map(trajectory_of, trials)):
        return {}
    names = sorted(trials_with(sweep, "row.json", "last.pt") - {trial.trial for trial in trials})
    by_trajectory: dict[Trial | None, list[Predecessor]] = {}
    with ThreadPoolExecutor(NUM_READERS) as threads:
        for found in threads.map(lambda name: finished(sweep, name, pack_hash), names):
            if found:
                by_trajectory.setdefault(trajectory_of(found.trial), []).append(found)
    shorter = {trial.trial: [found for found in by_trajectory.get(trajectory_of(trial), ())
                             if found.trial.epochs < trial.epochs] for trial in trials}
    return {name: max(some, key=lambda found: (found.epochs_run, found.trial.epochs))
            for name, some in shorter.items() if some}


def finished(sweep: Folder, name: str, pack_hash: str) -> Predecessor | None:
    """Return the trial of this name if it is finished on this pack, and one that longer trials can continue."""
    try:
        row = read_row(sweep, name)
        # What a longer trial passed through has no checkpoint, or one from before that.
        if not row or row.status not in ("done", "diverged") or row.trained_by or row.pack_hash != pack_hash:
            return None
        trial = trial_of(row.settings)
    except (BadConfig, ValueError):
        # A damaged row is no reason to fail another trial; gather and status name it.
        return None
    has_ended = row.status == "diverged" or row.epochs_run < trial.epochs
    return Predecessor(trial, row.epochs_run, has_ended) if trajectory_of(trial) else None


def epochs_behind(sweep: Folder, trial: Trial, predecessor: Predecessor | None = None) -> int:
    """Return how many epochs a trial has behind it: by its last attempt, or before its first those it continues."""
    last = last_attempt(sweep, trial_work(trial.trial))
    return (last.epoch if last else 0) or (predecessor.epochs_run if predecessor else 0)
