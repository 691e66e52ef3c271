"""Every trial of a grid on this machine, one after another; one that fails does not stop the others."""

import contextlib
import gc
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

from job.attempt import Busy
from job.data.pack import Passport
from job.errors import AccessDenied, JobError, Stopped, TakenOver, TryAgain
from job.layout import trial_file
from job.record import Row, row_to_json
from job.storage import Folder
from job.training.display import Display
from job.training.run import failed_row, run_trial
from job.trial import Trial


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process at once.

    No exception is raised where the signal comes: within a finaliser it would be lost.
    """
    stop = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_sweep(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display) -> list[JobError]:
    """Run the trials that have no row yet; answers the failures. Raises Stopped, TryAgain or AccessDenied at once.

    A trial that another process is training is left for the end, so that several machines may share one sweep.
    """
    failures, waiting = [], list(trials)
    with stop_signals() as stop:
        for wait in (False, True):
            rest, waiting = waiting, []
            for trial in rest:
                if stop.is_set():
                    raise Stopped(f"stopped by a signal before trial {trial.trial}; the same command goes on with it")
                try:
                    attempt(sweep, trial, passport, display, stop, wait=wait)
                except (Busy, TakenOver) as error:
                    display.say(f"{error}; left for the end")
                    waiting.append(trial)
                except (Stopped, TryAgain, AccessDenied):
                    raise
                except JobError as error:
                    # A copy: the error itself would keep the failed trial's frames, and so its memory, from the next trials.
                    failures.append(type(error)(str(error)))
                gc.collect()
        if stop.is_set():
            raise Stopped("stopped by a signal; what was trained has its rows, and the same command goes on")
    if waiting:
        raise TakenOver(f"trial {waiting[0].trial}: another process has taken it over; start again to see its end")
    return failures


def run_named(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display) -> None:
    """Run these trials, waiting for those at which another process is at work; raises the first failure."""
    with stop_signals() as stop:
        for trial in trials:
            attempt(sweep, trial, passport, display, stop)
            if stop.is_set():
                raise Stopped(f"stopped by a signal; trial {trial.trial} is done")


def attempt(sweep: Folder, trial: Trial, passport: Passport, display: Display, stop: threading.Event, wait: bool = True) -> Row:
    """Run one trial; where it fails for a reason of its own, write a row that says so, then raise the reason.

    What a later try may mend (storage, credentials, a stop signal) leaves no row.
    """
    try:
        return run_trial(sweep, trial, passport, display, stop, wait)
    except (Stopped, TryAgain, AccessDenied, TakenOver):
        raise
    except JobError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - the one broad except: whatever breaks a trial becomes its row, and exit code 70.
        display.say(traceback.format_exc())
        failure = JobError(f"trial {trial.trial}: {type(error).__name__}: {error} (a fault of this program; "
                           "please report it with the lines above)")
        failure.__cause__ = error
    row = failed_row(trial, passport, str(failure))
    # A row that is there already (of other settings, say) is the reason itself, and stays.
    if sweep.write_once(trial_file(trial.trial, "row.json"), row_to_json(row).encode()):
        display.row(row, already=False)
    else:
        display.say(f"trial {trial.trial}  FAILED: {failure}")
    raise failure
