"""What `gather --watch` waits for, and what to say when nothing comes: a Job that has ended for good leaves no row."""

import time
from collections.abc import Iterable

from job.errors import MissingInput, TryAgain
from job.folder.attempts import SILENT_SECONDS, Attempt, last_attempt
from job.folder.grid import read_grid
from job.folder.layout import GRID, check_sweep, trial_work
from job.folder.storage import Folder

IDLE_SECONDS = 600.0
MOST_NAMED = 5
# What the cause of an attempt begins with that `job.training.rungs.Paused` ended.
PAUSED = "paused"


def expected_trials(sweep: Folder) -> set[str] | None:
    """Return the names of the grid's trials; None for a sweep that has begun without its grid."""
    try:
        return {trial.trial for trial in read_grid(sweep)}
    except MissingInput:
        check_sweep(sweep)
        return None


class Idle:
    """Looks now and then whether any process trains what is waited for."""

    def __init__(self) -> None:
        self._looked_at, self._said = time.monotonic(), ""

    def note(self, sweep: Folder, expected: set[str] | None, ended: Iterable[str]) -> str:
        """Return what to say to a person, or '': it is said once, and again after 10 minutes if it has changed."""
        if expected is not None and time.monotonic() - self._looked_at < IDLE_SECONDS:
            return ""
        self._looked_at = time.monotonic()
        try:
            text = without_grid(sweep) if expected is None else idle_text(sweep, sorted(expected - set(ended)))
        except TryAgain:
            return ""
        is_new, self._said = text != self._said, text
        return text if is_new else ""


def without_grid(sweep: Folder) -> str:
    """Return what to say about a sweep whose trials nobody can count."""
    return (f"{sweep.uri}: there is no {GRID}, so it is not known which trials are to come; this waits until the grid "
            "is there (`job prepare SOURCE SWEEP --grid GRID`) and all its trials have rows, or until it is stopped")


def idle_text(sweep: Folder, trials: list[str]) -> str:
    """Return which of these trials nobody trains, and why, if nobody trains any of them; else ''."""
    reasons, num_paused = [], 0
    for trial in trials:
        last = last_attempt(sweep, trial_work(trial))
        # A sweep that races is alive between its turns, when it has just paused a trial.
        if last and (last.is_alive or (is_paused(last) and last.seconds_silent < SILENT_SECONDS)):
            return ""
        num_paused += last is not None and is_paused(last)
        reasons.append(f"{trial} ({why_idle(last.state, last.cause) if last else 'not begun'})")
    if len(reasons) > MOST_NAMED:
        reasons[MOST_NAMED:] = [f"{len(reasons) - MOST_NAMED} more"]
    paused = f"`job sweep {sweep.uri}` goes on with those that are paused; " if num_paused else ""
    return (f"nothing trains the trials that have no row: {', '.join(reasons)}; {paused}if their Jobs have ended for "
            f"good, `job rerun {sweep.uri} --missing` prints new ones; to end without them, remove their lines from "
            f"{GRID}, or stop this command")


def why_idle(state: str, cause: str) -> str:
    """Return how an attempt ended; one that says it runs and is silent has died."""
    if state == "running":
        return "its process died"
    return cause if cause.startswith(PAUSED) else f"{state}: {cause}" if cause else state


def is_paused(attempt: Attempt) -> bool:
    """Whether an attempt ended at a rung of the race, to wait for the other trials."""
    return attempt.state == "stopped" and attempt.cause.startswith(PAUSED)
