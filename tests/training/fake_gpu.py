"""A training step on fake CUDA tensors, which have shapes, types and devices, but no values: no GPU is needed.

What it shows: operations that mix devices, types or shapes; values that the host reads, for which a GPU would be waited
for; what a graph capture refuses; how many operations and bytes a step has. What it cannot show: streams, speed,
memory, and whether a kernel computes the right thing.
"""

import contextlib
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fake_cuda import Graph, Log, pretend
from job.data.augment import mean_and_std
from job.data.batches import Batches
from job.training.drawing import Drawing
from job.training.evaluate import evaluate
from job.training.features import can_use_features, train_head
from job.training.fit import stepper
from job.training.gpu import GpuSteps
from job.training.machine import Machine
from job.training.model import build_model, set_training
from job.training.schedule import lr_of
from job.training.state import State, new_state
from job.trial import Trial

CUDA = torch.device("cuda", 0)


@dataclass
class Report:
    """What the steps of one epoch, and the validation after it, did."""

    said: list[str] = field(default_factory=list)
    is_graph: bool = False
    num_replays: int = 0
    # Of each step: images, copies between host and device, values that the host read.
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    # Of a step without a graph, and of rendering alone.
    num_operations: int = 0
    num_bytes: int = 0
    render_operations: int = 0
    render_bytes: int = 0
    reads_in_validation: int = 0


def fake_batches(fake: FakeTensorMode, trial: Trial, num_images: int, resident: bool) -> Batches:
    """Images of many sizes, on the device or in host memory."""
    short = round(trial.image_size * 256 / 224)
    sizes = torch.tensor([(short, short + number % 90) for number in range(num_images)])
    num_pixels = int(sizes.prod(1).sum())
    with fake:
        pixels = torch.empty(num_pixels, 3, dtype=torch.uint8, device=CUDA) if resident else None
    images = [] if resident else [torch.zeros(*size, 3, dtype=torch.uint8) for size in sizes.tolist()]
    indices = {"train": torch.arange(num_images), "val": torch.arange(num_images // 4)}
    return Batches(trial.image_size, CUDA, images, sizes, torch.arange(num_images) % 2, indices, [], pixels,
                   train_size=trial.train_size)


def on_device(model: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """Return the model with fake weights on the device; Module.to cannot replace them by fake ones."""
    for part in model.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(fake.from_tensor(weight.detach()).to(CUDA), weight.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = fake.from_tensor(buffer).to(CUDA)
    return model


def inputs_of(trial: Trial, state: State, batches: Batches) -> Batches:
    """Return the images, or features of a frozen backbone in their place."""
    if not can_use_features(trial, state.model):
        return batches
    return train_head(state.model, batches, torch.empty(len(batches.labels_N), 512))


def run_epoch(trial: Trial, monkeypatch: pytest.MonkeyPatch, resident: bool = True, change: Any = None) -> Report:
    """Train one epoch of six batches and half a batch, and validate; change: gets the state before the first step."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    # The optimizers look whether a learning rate is wrong: SGD asks `lr < 0`, Adam `0 <= lr`.
    log, report = Log(fake, truth=trial.optimizer == "adam"), Report()
    pretend(monkeypatch, log)
    mean_and_std.cache_clear()
    machine = Machine(CUDA, "fake", "bf16" if trial.precision == "auto" else trial.precision)
    model = build_model(trial, 2, None, Machine(torch.device("cpu"), "cpu", "fp32"))
    batches = fake_batches(fake, trial, 6 * trial.batch_size + trial.batch_size // 2, resident)
    most_pixels = batches.most_pixels(trial.batch_size)
    monkeypatch.setattr(Batches, "most_pixels", lambda *_: most_pixels)
    Graph.num_replays = 0
    torch.autograd.set_multithreading_enabled(False)
    with fake, log:
        state: State = new_state(trial, on_device(model, fake), machine, "")
        if change:
            change(state)
        batches = inputs_of(trial, state, batches)
        advance = stepper(trial, state, batches, machine, report.said.append)
        set_training(state.model, trial)
    assert isinstance(advance, GpuSteps)
    drawing = Drawing(trial, batches)
    for number, indices, draws in list(drawing.steps(0, 0)):
        log.clear()
        with fake, log:
            advance(indices, draws, lr_of(trial, 0, number, drawing.num_steps))
        report.steps.append((len(indices), log.copies, log.reads))
        if number == 0:
            report.num_operations, report.num_bytes = sum(log.operations.values()), log.num_bytes
    report.is_graph, report.num_replays = advance.graph is not None, Graph.num_replays
    log.clear()
    with fake, log, torch.no_grad():
        pixels_P3, images_N12 = batches.fed(indices, draws)
        batches.rendered(pixels_P3, images_N12.to(CUDA), draws)
    report.render_operations, report.render_bytes = sum(log.operations.values()), log.num_bytes
    report.reads_in_validation = reads_of_validation(state, batches, machine, fake, log)
    # They are fake.
    mean_and_std.cache_clear()
    return report


def reads_of_validation(state: State, batches: Batches, machine: Machine, fake: FakeTensorMode, log: Log) -> int:
    """Return how many values the host reads until it has the logits, and computes with values that there are not."""
    log.clear()
    with fake, log, contextlib.suppress(Exception):
        evaluate(state.model, batches, "val", machine)
    return log.reads
