"""The claim of one trial: before torch is imported, so that whatever ends the process leaves an attempt."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from job.data.pack import Passport
from job.errors import BadConfig, Stopped
from job.folder.attempts import Watch
from job.folder.layout import trial_work
from job.folder.lease import Lease, claim, held
from job.folder.storage import Folder
from job.record import Row
from job.training.continued import Predecessor
from job.training.display import Display
from job.training.rows import check_not_removed, failure_as_row, failure_since, finished_row, set_failed_aside
from job.training.rungs import Race
from job.trial import Trial


def run_trial(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display, stop: threading.Event,
              failed_before: Mapping[str, Row], race: Race, wait: bool = True, watch: Watch | None = None,
              predecessor: Predecessor | None = None) -> Row | None:
    """Train the last of these trials and return its row; return None if another process has made it fail meanwhile.

    `trials` is one trial, or a trajectory from the shortest trial to the longest: the shorter ones get their rows on
    the way. `failed_before` are the `failed_rows` at the start of the command; those trials are tried again.
    `predecessor` is the finished trial that the last of `trials` continues, if it has not begun. Raises Busy if another
    process trains the trial and `wait` is False; Paused where it waits at a rung of the race; Stopped, with the state
    saved, once `stop` is set.
    """
    with claimed(sweep, trials, passport, display, stop, failed_before, wait, watch) as lease:
        if not lease:
            return show_finished(sweep, trials[-1], passport, display)
        # Importing torch takes seconds and hundreds of MB: a process that dies of it has left its attempt.
        from job.training.run import train

        return train(sweep, trials, passport, lease, display, stop, race, predecessor)


@contextlib.contextmanager
def claimed(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display, stop: threading.Event,
            failed_before: Mapping[str, Row], wait: bool, watch: Watch | None = None) -> Iterator[Lease | None]:
    """Yield the lease of the last trial, or None if it needs no training; a failure of the block becomes its row."""
    trial = trials[-1]

    def finished() -> bool:
        check_not_removed(sweep)
        return bool(finished_row(sweep, trial, passport) or failure_since(sweep, trial, failed_before))

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise Stopped("stopped by a signal while another process trains it; the same command waits again")

    # Workers of one command share one screen: the worker that trains a trial says so, and no other does.
    say = display.say if display.position.num_workers == 1 else lambda text: None
    lease = claim(sweep, trial_work(trial.trial), finished, say, wait=wait, pause=pause, settings=asdict(trial),
                  pack_hash=passport.pack_hash, shorter=[shorter.trial for shorter in trials[:-1]], watch=watch)
    if not lease:
        yield None
        return
    with held(lease):
        # A process that was replaced because it fell silent may have written the row even after this claim.
        if finished_row(sweep, trial, passport):
            yield None
            return
        set_failed_aside(sweep, trial, lease)
        with failure_as_row(sweep, trial, passport, display, lease):
            lease.check_deaths()
            check_recall(trial, passport)
            yield lease


def show_finished(sweep: Folder, trial: Trial, passport: Passport, display: Display) -> Row | None:
    """Show the row of a trial that another process has finished, and return it; None if there is none."""
    row = finished_row(sweep, trial, passport)
    if row and display.position.num_workers == 1:
        display.row(row, already=True)
    return row


def check_recall(trial: Trial, passport: Passport) -> None:
    """Raise BadConfig if the trial sets a recall and there are not two classes."""
    if trial.recall and len(passport.classes) != 2:
        raise BadConfig(f"recall is for two classes, and the pack has {len(passport.classes)}; leave the column recall "
                        "out of the grid, or prepare the images with --positive CLASS")
