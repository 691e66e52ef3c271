"""What a sweep would run, and what that takes: measured over a few real steps, before any training."""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from job.data.load import load_batches
from job.data.pack import Passport
from job.folder.attempts import last_attempt
from job.folder.layout import read_row, trial_work
from job.folder.storage import Folder
from job.training.display import clock
from job.training.evaluate import evaluate
from job.training.fit import count_steps, stepper, train_epoch
from job.training.machine import Machine, choose_machine
from job.training.model import build_model
from job.training.state import new_state
from job.trial import Trial, trajectories

# On a GPU the fourth step makes the graph that the later ones are.
WARM_UP_STEPS, MEASURED_STEPS = 5, 8
# What does not change how long a step takes.
FREE = ("trial", "lr", "epochs", "seed", "weights", "schedule", "step_size", "gamma", "warmup", "momentum", "weight_decay",
        "class_weights", "label_smoothing", "stop_monitor", "stop_mode", "stop_min_delta", "stop_patience", "best_monitor",
        "best_mode", "recall")


@dataclass(frozen=True)
class Pace:
    """What an epoch takes here, seconds, and the most memory, bytes: of the GPU, or else of the process."""

    epoch_seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Run:
    """One trajectory, or one trial: the trials without a row, the shortest first, and the epochs that the last has left."""

    trials: list[Trial]
    epochs_left: int
    pace: Pace

    @property
    def seconds(self) -> float:
        """The whole time that is left."""
        return self.epochs_left * self.pace.epoch_seconds


def plan(sweep: Folder, trials: Sequence[Trial], passport: Passport, independent: bool, say: Callable[[str], None]) -> list[Run]:
    """The runs of a sweep that are left, in order, each with the pace of its kind, measured on this machine."""
    rest = [trial for trial in trials if not (row := read_row(sweep, trial.trial)) or row.status == "failed"]
    paces: dict[Trial, Pace] = {}
    runs = []
    for group in [[trial] for trial in rest] if independent else trajectories(rest):
        kind = kind_of(group[-1])
        if kind not in paces:
            say(f"measuring {kind.model}, {kind.image_size} px, batch {kind.batch_size}")
            paces[kind] = measure(sweep, kind, passport)
        last = last_attempt(sweep, trial_work(group[-1].trial))
        runs.append(Run(group, group[-1].epochs - ((last.epoch or 0) if last else 0), paces[kind]))
    return runs


def kind_of(trial: Trial) -> Trial:
    """A trial that takes as long a step, the same one for all of its kind."""
    free: dict[str, Any] = {spec.name: spec.default for spec in fields(Trial) if spec.name in FREE}
    # A frozen net is measured with random weights, which the grid rightly refuses to train.
    free["weights"] = "imagenet" if trial.freeze else "none"
    return replace(trial, **free)


def measure(sweep: Folder, trial: Trial, passport: Passport) -> Pace:
    """Train a few steps from random weights and validate once; nothing is written."""
    machine = choose_machine(trial.precision)
    batches = load_batches(sweep, passport, trial, machine.device)
    state = new_state(trial, build_model(trial, len(passport.classes), None, machine), machine, "")
    done, began = 0, 0.0

    def should_stop(step: int, num_steps: int) -> bool:
        nonlocal done, began
        done += 1
        if done == WARM_UP_STEPS:
            finish(machine)
            began = time.perf_counter()
        return done >= WARM_UP_STEPS + MEASURED_STEPS

    advance = stepper(trial, state, batches, machine, lambda text: None)
    while train_epoch(trial, state, batches, advance, should_stop):
        state.epoch, state.step = state.epoch + 1, 0
    finish(machine)
    step_seconds = (time.perf_counter() - began) / MEASURED_STEPS
    began = time.perf_counter()
    evaluate(state.model, batches, "val", machine)
    val_seconds = time.perf_counter() - began
    num_steps = count_steps(len(batches.indices["train"]), trial.batch_size)
    return Pace(num_steps * step_seconds + val_seconds, most_memory(machine))


def finish(machine: Machine) -> None:
    """Wait until the device has done what it was given."""
    if machine.device.type == "cuda":
        torch.cuda.synchronize(machine.device)


def most_memory(machine: Machine) -> int:
    """The most that was held so far, bytes."""
    if machine.device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(machine.device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_plan(runs: Sequence[Run], num_trials: int, price: float, screen: Console) -> None:
    """A line a run, and the sums; price: of an hour of this machine, 0 where it was not given."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("run", "passes through", "lr", "epochs left", "an epoch", "in all"):
        table.add_column(name, justify="left" if name in ("run", "passes through") else "right")
    for run in runs:
        longest = run.trials[-1]
        table.add_row(longest.trial, ", ".join(trial.trial for trial in run.trials[:-1]), f"{longest.lr:g}", str(run.epochs_left),
                      f"{run.pace.epoch_seconds:.1f} s", clock(run.seconds))
    screen.print(table)
    left = sum(len(run.trials) for run in runs)
    asked, trained = sum(trial.epochs for run in runs for trial in run.trials), sum(run.epochs_left for run in runs)
    seconds = sum(run.seconds for run in runs)
    screen.print(f"{left} of {num_trials} trials are left, {asked} epochs; {trained} are to be trained, {asked - trained} saved")
    cost = f", about {price * seconds / 3600:.2f} at {price:g} an hour" if price else ""
    memory = max((run.pace.memory_bytes for run in runs), default=0) / 2**30
    screen.print(f"about {clock(seconds)} on this machine{cost}; {memory:.1f} GiB of memory")
