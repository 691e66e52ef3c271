"""Every trial of a grid on this machine, one after another; a trial that fails does not stop the others."""

import contextlib
import gc
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType

from job.data.memory import return_memory
from job.data.pack import Passport
from job.errors import AccessDenied, JobError, OutOfMemory, Stopped, SweepRemoved, TakenOver, TryAgain
from job.folder.attempts import Watch
from job.folder.groups import trajectories
from job.folder.lease import POLL_SECONDS, Busy
from job.folder.storage import Folder
from job.record import Row
from job.training.budget import Budget
from job.training.claimed import run_trial
from job.training.continued import Predecessor, predecessors
from job.training.display import Display, Position
from job.training.options import SweepOptions
from job.training.rows import failed_rows, failure_since, finished_row, set_raced_aside
from job.training.rungs import Paused, Race
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
              options: SweepOptions) -> dict[str, JobError]:
    """Show which trials have their rows, and train the others; return the failures by trial, as `train_left` does."""
    left = show_left(sweep, trials, passport, display, options)
    return train_left(sweep, left, passport, display, options, failed_rows(sweep, left))


def show_left(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display,
              options: SweepOptions) -> list[Trial]:
    """Show the rows that exist and what is left to train; return the trials that are left, failed ones included."""
    if options.race == "to-the-end":
        set_raced_aside(sweep, trials, passport)
    left = []
    for trial in trials:
        if row := finished_row(sweep, trial, passport):
            display.row(row, already=True)
        else:
            left.append(trial)
    if len(trials) > 1:
        display.runs(groups_of(left, options), len(trials), options.race in ("together", "alone"))
    display.position = Position(num_trials=len(trials))
    return left


def groups_of(trials: Sequence[Trial], options: SweepOptions) -> list[list[Trial]]:
    """Return the trials that are trained together: trajectories, or with `independent` each trial alone."""
    return [[trial] for trial in trials] if options.independent else trajectories(trials)


def train_left(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display, options: SweepOptions,
               failed_before: Mapping[str, Row]) -> dict[str, JobError]:
    """Train the trials that have no row, and return the failures by trial; raises Stopped, TryAgain or AccessDenied.

    Trials that other processes train come last, so that several processes can share one sweep. In a race the trials
    with the fewest rungs behind them come first, and one whose rung is not decided is left for later. `failed_before`
    are the rows of failed trials to try again; a trial that fails meanwhile in another process is not tried here.
    """
    failures: dict[str, JobError] = {}
    continued = {} if options.independent else predecessors(sweep, trials, passport.pack_hash)
    budget = Budget(sweep, passport, options, display, continued)

    def is_left(trial: Trial) -> bool:
        if trial.trial in budget.refused:
            return False
        if trial.trial not in failures and (error := failure_since(sweep, trial, failed_before)):
            failures[trial.trial] = error
        return trial.trial not in failures and not finished_row(sweep, trial, passport)

    race = Race(sweep, options.race, display.say, [group[-1] for group in groups_of(trials, options)], is_left)
    with stop_signals() as stop:
        turns = Turns(sweep, passport, display, stop, failed_before, continued, race, budget, failures)
        while left := [trial for trial in trials if is_left(trial)]:
            groups = sorted(groups_of(left, options), key=lambda group: race.num_rungs(group[-1]))
            busy, began = list[list[Trial]](), time.monotonic()
            turns.wait = turns.wait or len(groups) == 1
            for number, group in enumerate(groups):
                left_here = [*busy, *groups[number:]]
                others = [other[-1] for other in (groups if race.mode == "together" else left_here)]
                show_position(display, left_here, race.epochs_left([trial for trial in others if trial != group[-1]]))
                # Asked again, because another process may have finished it meanwhile.
                if is_left(group[-1]) and (race.is_waiting(group[-1])
                                           or (budget.allows(group) and not turns.take(group))):
                    busy.append(group)
            turns.rest(len(busy) == len(groups), time.monotonic() - began)
        if stop.is_set():
            raise Stopped(STOPPED)
    return failures


def show_position(display: Display, left: Sequence[Sequence[Trial]], other_epochs: int) -> None:
    """Give the display the place in the sweep: the groups without rows, and the epochs that others than this have."""
    display.position = replace(display.position, num_done=display.position.num_trials - sum(map(len, left)),
                               other_epochs=other_epochs)


@dataclass
class Turns:
    """The turns of this process: one trial or trajectory after another, each until it ends or pauses.

    wait: whether to wait for the process that trains the next one, if another one does.
    """

    sweep: Folder
    passport: Passport
    display: Display
    stop: threading.Event
    failed_before: Mapping[str, Row]
    continued: Mapping[str, Predecessor]
    race: Race
    budget: Budget
    failures: dict[str, JobError]
    wait: bool = False
    watches: dict[str, Watch] = field(default_factory=lambda: defaultdict(Watch))

    def take(self, trials: Sequence[Trial]) -> bool:
        """Run one trial or trajectory, noting a failure of its longest; return False if another process trains it."""
        name, display = trials[-1].trial, self.display
        if self.stop.is_set():
            raise Stopped(f"stopped by a signal before trial {name}; the same command trains it")
        try:
            with self.budget.timed(trials[-1]):
                run_trial(self.sweep, trials, self.passport, display, self.stop, self.failed_before, self.race,
                          self.wait and self.race.mode != "together", self.watches[name], self.continued.get(name))
        except Busy:
            return False
        except Paused as error:
            display.say(f"trial {name}  {error}")
        except TakenOver as error:
            display.say(f"{error}; the trial comes up again at the end")
            return False
        except Stopped as error:
            raise Stopped(f"trial {name}: {error}") from None
        except (TryAgain, AccessDenied, SweepRemoved):
            raise
        except JobError as error:
            display.say(f"trial {name}  FAILED: {error}")
            # A copy: the error itself would keep the frames of the failed trial, and so its memory, during the next.
            self.failures[name] = type(error)(f"trial {name}: {error}")
        finally:
            self.race.ask_again(trials)
            gc.collect()
            if isinstance(self.failures.get(name), OutOfMemory):
                return_memory()
        return True

    def rest(self, is_idle: bool, seconds: float) -> None:
        """After all turns, of which an idle process had none: wait for the trials of other processes.

        Without a race it waits for one of these trials; in a race, where any of them may decide a rung, it looks again.
        seconds: that the turns took, or the look at all that is left; it looks in a tenth of its time at most.
        """
        if self.race.mode != "together":
            self.wait = is_idle
        elif is_idle and self.stop.wait(max(POLL_SECONDS, 10 * seconds)):
            raise Stopped(STOPPED)
