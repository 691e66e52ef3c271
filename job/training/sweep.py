"""Every trial of a grid on this machine, one after another; a trial that fails does not stop the others."""

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import FrameType

from job.data.pack import Passport
from job.errors import AccessDenied, JobError, Stopped, SweepRemoved, TakenOver, TryAgain
from job.folder.groups import trajectories
from job.folder.lease import Busy
from job.folder.storage import Folder
from job.record import Row
from job.training.claimed import run_trial
from job.training.display import Display, Position
from job.training.rows import failed_rows, failure_since, finished_row
from job.trial import Trial

STOPPED = "stopped by a signal; finished trials have their rows, and the same command trains the others"


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM or SIGINT sets; a second signal ends the process at once.

    The handler raises no exception, because one raised within a finaliser would be lost.
    """
    stop = threading.Event()

    def request_stop(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(Stopped.exit_code)
        stop.set()

    handlers_before = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)


def run_sweep(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display,
              independent: bool = False) -> dict[str, JobError]:
    """Show which trials have their rows, and train the others; return the failures by trial, as `train_left` does."""
    left = show_left(sweep, trials, passport, display, independent)
    return train_left(sweep, left, passport, display, independent, failed_rows(sweep, left))


def show_left(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display,
              independent: bool) -> list[Trial]:
    """Show the rows that exist and what is left to train; return the trials that are left, failed ones included."""
    left = []
    for trial in trials:
        if row := finished_row(sweep, trial, passport):
            display.row(row, already=True)
        else:
            left.append(trial)
    if len(trials) > 1:
        display.runs(groups_of(left, independent), len(trials))
    display.position = Position(num_trials=len(trials))
    return left


def groups_of(trials: Sequence[Trial], independent: bool) -> list[list[Trial]]:
    """Return the trials that are trained together: trajectories, or with `independent` each trial alone."""
    return [[trial] for trial in trials] if independent else trajectories(trials)


def train_left(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display, independent: bool,
               failed_before: Mapping[str, Row]) -> dict[str, JobError]:
    """Train the trials that have no row, and return the failures by trial; raises Stopped, TryAgain or AccessDenied.

    Trials that other processes train come last, so that several processes can share one sweep. `failed_before` are the
    rows of failed trials to try again; a trial that fails meanwhile in another process is not tried here.
    """
    failures: dict[str, JobError] = {}

    def is_left(trial: Trial) -> bool:
        if trial.trial not in failures and (error := failure_since(sweep, trial, failed_before)):
            failures[trial.trial] = error
        return trial.trial not in failures and not finished_row(sweep, trial, passport)

    with stop_signals() as stop:
        wait = False
        while left := [trial for trial in trials if is_left(trial)]:
            groups = groups_of(left, independent)
            busy: list[list[Trial]] = []
            wait = wait or len(groups) == 1
            for number, group in enumerate(groups):
                show_position(display, group, [*busy, *groups[number:]])
                # Asked again, because another process may have finished it meanwhile.
                if is_left(group[-1]) and not run_group(sweep, group, passport, display, stop, failed_before, wait,
                                                        failures):
                    busy.append(group)
            # If other processes train all that is left, wait for them.
            wait = len(busy) == len(groups)
        if stop.is_set():
            raise Stopped(STOPPED)
    return failures


def show_position(display: Display, group: Sequence[Trial], left: Sequence[Sequence[Trial]]) -> None:
    """Give the display the group's place in the sweep; `left` are the groups without rows, this one included."""
    epochs_left = sum(other[-1].epochs for other in left)
    display.position = replace(display.position, num_done=display.position.num_trials - sum(map(len, left)),
                               other_epochs=epochs_left - group[-1].epochs)


def run_group(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display, stop: threading.Event,
              failed_before: Mapping[str, Row], wait: bool, failures: dict[str, JobError]) -> bool:
    """Run one trial or trajectory, noting a failure of its longest trial; return False if another process trains it."""
    name = trials[-1].trial
    if stop.is_set():
        raise Stopped(f"stopped by a signal before trial {name}; the same command trains it")
    try:
        run_trial(sweep, trials, passport, display, stop, failed_before, wait)
    except Busy:
        return False
    except TakenOver as error:
        display.say(f"{error}; the trial comes up again at the end")
        return False
    except Stopped as error:
        raise Stopped(f"trial {name}: {error}") from None
    except (TryAgain, AccessDenied, SweepRemoved):
        raise
    except JobError as error:
        display.say(f"trial {name}  FAILED: {error}")
        # A copy: the error itself would keep the frames of the failed trial, and so its memory, during the next trials.
        failures[name] = type(error)(f"trial {name}: {error}")
    finally:
        gc.collect()
    return True
