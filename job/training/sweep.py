"""Every trial of a grid on this machine, one after another; one that fails does not stop the others."""

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

from job.data.pack import Passport
from job.errors import AccessDenied, JobError, Stopped, TakenOver, TryAgain
from job.folder.lease import Busy
from job.folder.storage import Folder
from job.record import Row
from job.training.display import Display
from job.training.rows import failed_rows, failure_since, finished_row
from job.training.run import run_trial
from job.trial import Trial, trajectories


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process at once.

    No exception is raised where the signal comes: within a finaliser it would be lost.
    """
    stop = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(Stopped.exit_code)
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_sweep(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display,
              independent: bool = False, failed_before: Mapping[str, Row] | None = None) -> dict[str, JobError]:
    """Run the trials that have no row yet; answers the failures, by trial. Raises Stopped, TryAgain or AccessDenied at once.

    Trials of one trajectory are trained together, unless `independent`. What another process is training is left for the
    end, so that several machines may share one sweep. failed_before: the rows of failed trials that are to be tried again;
    those that stand there now where it is None.
    """
    failures: dict[str, JobError] = {}
    failed_before = failed_rows(sweep, trials) if failed_before is None else failed_before
    for trial in trials:
        if row := finished_row(sweep, trial, passport):
            display.row(row, already=True)

    def is_left(trial: Trial) -> bool:
        if trial.trial not in failures and (error := failure_since(sweep, trial, failed_before)):
            # Another process has just tried it in vain.
            failures[trial.trial] = error
        return trial.trial not in failures and not finished_row(sweep, trial, passport)

    with stop_signals() as stop:
        wait = False
        while rest := [trial for trial in trials if is_left(trial)]:
            groups = [[trial] for trial in rest] if independent else trajectories(rest)
            wait = wait or len(groups) == 1
            # Asked again, because another process may have ended one meanwhile.
            busy = [group for group in groups
                    if is_left(group[-1]) and not run_group(sweep, group, passport, display, stop, failed_before, wait, failures)]
            # Where others are at work on all that is left, wait for them.
            wait = len(busy) == len(groups)
        if stop.is_set():
            raise Stopped("stopped by a signal; what was trained has its rows, and the same command goes on")
    return failures


def run_group(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display, stop: threading.Event,
              failed_before: Mapping[str, Row], wait: bool, failures: dict[str, JobError]) -> bool:
    """Run a trajectory, noting a failure of its longest trial; whether it was tried, and not left to another process."""
    name = trials[-1].trial
    if stop.is_set():
        raise Stopped(f"stopped by a signal before trial {name}; the same command goes on with it")
    try:
        run_trial(sweep, trials, passport, display, stop, failed_before, wait)
    except (Busy, TakenOver) as error:
        display.say(f"{error}; left for the end")
        return False
    except (Stopped, TryAgain, AccessDenied):
        raise
    except JobError as error:
        display.say(f"trial {name}  FAILED: {error}")
        # A copy: the error itself would keep the failed trial's frames, and so its memory, from the next trials.
        failures[name] = type(error)(str(error))
    finally:
        gc.collect()
    return True
