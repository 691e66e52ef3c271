"""What a sweep would train, and how long that takes: measured over a few real steps, before any training."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from job.data.load import load_batches
from job.data.memory import forget_peak, peak
from job.data.pack import Passport
from job.folder.groups import trajectories
from job.folder.layout import read_row
from job.folder.storage import Folder
from job.training.backbone import head_of
from job.training.continued import Predecessor, epochs_behind, predecessors
from job.training.drawing import Drawing
from job.training.evaluate import evaluate
from job.training.faults import named_faults
from job.training.features import can_use_features, train_head
from job.training.fit import stepper, train_epoch
from job.training.machine import Machine, choose_machine
from job.training.model import build_model
from job.training.state import new_state
from job.trial import Trial

# On a GPU the fourth step makes the graph that the later ones are.
WARM_UP_STEPS, MEASURED_STEPS = 5, 8
# The settings that do not change how long a step takes.
FREE = ("trial", "lr", "epochs", "seed", "weights", "schedule", "step_size", "gamma", "warmup", "momentum",
        "weight_decay", "class_weights", "label_smoothing", "stop_monitor", "stop_mode", "stop_min_delta",
        "stop_patience", "best_monitor", "best_mode", "recall")


@dataclass(frozen=True)
class Pace:
    """Seconds per epoch on this machine, peak memory in bytes (the GPU's, or without one the process's), parameters."""

    epoch_seconds: float
    memory_bytes: int
    num_parameters: int


@dataclass(frozen=True)
class Run:
    """One trajectory or single trial: its trials without a row, the shortest first, and the epochs left to train."""

    trials: list[Trial]
    epochs_left: int
    pace: Pace

    @property
    def seconds(self) -> float:
        """Seconds left in all."""
        return self.epochs_left * self.pace.epoch_seconds


def plan(sweep: Folder, trials: Sequence[Trial], passport: Passport, independent: bool,
         say: Callable[[str], None]) -> list[Run]:
    """Return the runs of a sweep that are left, in order, each with the pace of its kind, measured on this machine."""
    rest = [trial for trial in trials if not (row := read_row(sweep, trial.trial)) or row.status == "failed"]
    continued = {} if independent else predecessors(sweep, rest, passport.pack_hash)
    paces: dict[Trial, Pace] = {}
    runs = []
    for group in [[trial] for trial in rest] if independent else trajectories(rest):
        kind = kind_of(group[-1])
        if kind not in paces:
            say(f"measuring {kind.model}, {kind.image_size} px, batch {kind.batch_size}")
            with named_faults(kind):
                paces[kind] = measure(sweep, kind, passport)
        runs.append(Run(group, epochs_left(sweep, group, continued), paces[kind]))
    return runs


def epochs_left(sweep: Folder, trials: Sequence[Trial], continued: Mapping[str, Predecessor]) -> int:
    """Return how many epochs a group has left after its last attempt or, where it has not begun, its predecessor."""
    longest = trials[-1]
    predecessor = continued.get(longest.trial)
    done = epochs_behind(sweep, longest, predecessor)
    has_ended = bool(predecessor and predecessor.has_ended and done == predecessor.epochs_run)
    # What it begins beyond is trained after it.
    passed = [trial for trial in trials if trial.epochs < done]
    return (0 if has_ended else longest.epochs - done) + (epochs_left(sweep, passed, continued) if passed else 0)


def kind_of(trial: Trial) -> Trial:
    """Return the trial that stands for all trials whose steps take as long as this one's."""
    free: dict[str, Any] = {spec.name: spec.default for spec in fields(Trial) if spec.name in FREE}
    # A frozen model is measured with random weights, though a grid that asks for that is refused.
    free["weights"] = "some file" if trial.freeze else "none"
    # The folds of a setting have as many images, to within a few.
    return replace(trial, **free, fold=min(trial.fold, 1))


def measure(sweep: Folder, trial: Trial, passport: Passport) -> Pace:
    """Train a few steps from random weights and validate once; write nothing."""
    machine = choose_machine(trial.precision)
    if machine.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(machine.device)
    else:
        forget_peak()
    batches = load_batches(sweep, passport, trial, machine.device, machine.dtype)
    state = new_state(trial, build_model(trial, len(passport.classes), None, machine), machine, "")
    if can_use_features(trial, state.model):
        # What the features are takes no time; making them, once for all trials, is not an epoch's.
        width = int(head_of(state.model).in_features)  # type: ignore[arg-type]
        batches = train_head(state.model, batches, torch.zeros(len(batches.images), width))
    done, began = 0, 0.0

    def should_stop(step: int, num_steps: int) -> bool:
        nonlocal done, began
        done += 1
        if done == WARM_UP_STEPS:
            finish(machine)
            began = time.perf_counter()
        return done >= WARM_UP_STEPS + MEASURED_STEPS

    advance, drawing = stepper(trial, state, batches, machine, lambda text: None), Drawing(trial, batches)
    while train_epoch(trial, state, drawing, advance, should_stop):
        state.epoch, state.step = state.epoch + 1, 0
    finish(machine)
    step_seconds = (time.perf_counter() - began) / MEASURED_STEPS
    began = time.perf_counter()
    evaluate(state.model, batches, "val", machine)
    val_seconds = time.perf_counter() - began
    num_parameters = sum(weight.numel() for weight in state.model.parameters())
    return Pace(drawing.num_steps * step_seconds + val_seconds, most_memory(machine), num_parameters)


def finish(machine: Machine) -> None:
    """Wait until the device has finished its work."""
    if machine.device.type == "cuda":
        torch.cuda.synchronize(machine.device)


def most_memory(machine: Machine) -> int:
    """Return the peak memory of this measurement, bytes."""
    if machine.device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(machine.device))
    return peak()
