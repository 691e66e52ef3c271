"""A training step on fake CUDA tensors, which have shapes, types and devices, but no values: no GPU is needed.

What it shows: operations that mix devices, types or shapes; values that the host reads, for which a GPU would be waited
for; what a graph capture refuses; how many operations and bytes a step has. What it cannot show: streams, speed,
memory, and whether a kernel computes the right thing.
"""

import collections
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from job.data.augment import mean_and_std
from job.data.batches import Batches
from job.training.drawing import Drawing
from job.training.evaluate import evaluate
from job.training.fit import stepper
from job.training.gpu import GpuSteps
from job.training.machine import Machine
from job.training.model import build_model, set_training
from job.training.schedule import lr_of
from job.training.state import State, new_state
from job.trial import Trial

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
# What moves no byte of the device's memory, or only reserves some.
FREE = ("empty", "detach", "alias", "lift_fresh", "prim.")


class Log(TorchDispatchMode):
    """Counts operations on the device, bytes, copies between host and device, and values that the host reads."""

    def __init__(self, fake: FakeTensorMode, truth: bool) -> None:
        super().__init__()
        # truth: what a comparison that the host reads gives.
        self.fake, self.truth, self.capturing = fake, truth, False
        self.operations = collections.Counter[str]()
        self.num_bytes, self.copies, self.reads = 0, 0, 0

    @classmethod
    def is_infra_mode(cls) -> bool:
        return False

    def clear(self) -> None:
        """Begin to count anew."""
        self.operations.clear()
        self.num_bytes = self.copies = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default and args[0].device.type == "cuda":
            return self.read(args[0])
        if func is aten.bincount.default:
            # As long as the largest value, which the host reads.
            self.reads += 1
            return args[0].new_empty(2)
        if "_fused_" in str(func):
            return self.check_fused(str(func), args, kwargs)
        found = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor)]
        # A number is a tensor on the host, too, and a kernel takes it as an argument.
        devices = {tensor.device.type for tensor in tensors if tensor.dim() or tensor.device.type == "cuda"}
        if {"cpu", "cuda"} <= devices:
            self.copies += 1
            if self.capturing:
                raise RuntimeError(f"{func}: a copy between host and device during a capture")
        if "cuda" in devices and not func.is_view and not any(name in str(func) for name in FREE):
            self.operations[str(func)] += 1
            self.num_bytes += sum(tensor.nbytes for tensor in tensors if tensor.device.type == "cuda")
        return found

    def read(self, tensor: Tensor) -> float | bool:
        """Note a value that the host reads, and give it one, so that all of them are found."""
        self.reads += 1
        if self.capturing:
            raise RuntimeError("the host reads a value during a capture")
        return self.truth if tensor.dtype == torch.bool else 1.0

    def check_fused(self, name: str, args: Any, kwargs: Any) -> None:
        """Check what the optimizers' kernels demand; there is no fake one of them."""
        lists = [arg for arg in args if isinstance(arg, list | tuple) and arg]
        for tensors in lists[1:]:
            for weight, other in zip(lists[0], tensors, strict=True):
                assert weight.device == other.device, f"{name}: {weight.device} and {other.device}"
                if other.dim():
                    assert (weight.shape, weight.stride()) == (other.shape, other.stride()), f"{name}: other layouts"
        rate = kwargs["lr"]
        assert isinstance(rate, Tensor) and rate.device.type == "cuda", f"{name}: the graph keeps its learning rate"
        self.operations[name] += 1
        self.num_bytes += 2 * sum(tensor.nbytes for tensors in lists for tensor in tensors)


def backward(loss: Tensor, log: Log) -> None:
    """Do what Tensor.backward does, in Python: the engine in C++ asks the driver for a context."""
    missing, todo = collections.Counter[Any](), [loss.grad_fn]
    seen = set(todo)
    while todo:
        for parent, _ in todo.pop().next_functions:  # type: ignore[union-attr]
            if parent is not None:
                missing[parent] += 1
                if parent not in seen:
                    seen.add(parent)
                    todo.append(parent)
    arrived: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready: list[Any] = [loss.grad_fn]
    while ready:
        node = ready.pop()
        grads = arrived.pop(node, {})
        if hasattr(node, "variable"):
            node.variable.grad = like(node.variable, grads[0], log)
            continue
        found = node(*(grads.get(place) for place in range(len(node._input_metadata))))
        found = found if isinstance(found, tuple) else (found,)
        for grad, (parent, place) in zip(found, node.next_functions, strict=True):
            if parent is None:
                continue
            if grad is not None:
                wanted = parent.variable if hasattr(parent, "variable") else parent._input_metadata[place]
                # As the engine does; it raises where the one is no broadcast of the other.
                grad = grad.sum_to_size(wanted.shape).to(wanted.dtype)  # noqa: PLW2901
                there = arrived.setdefault(parent, {})
                there[place] = grad if place not in there else there[place] + grad
            missing[parent] -= 1
            if not missing[parent]:
                ready.append(parent)


def like(weight: Tensor, grad: Tensor, log: Log) -> Tensor:
    """Return the gradient in the weight's layout and type, as cuDNN and the engine leave it."""
    assert weight.shape == grad.shape
    with _disable_current_modes(), log.fake:
        return torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device=weight.device)


class Event:
    """An event that is never waited for."""

    def synchronize(self) -> None:
        """Wait for nothing."""

    def record(self) -> None:
        """Record nothing."""


class Graph:
    """A graph that counts how often it is replayed."""

    num_replays = 0

    def replay(self) -> None:
        """Count."""
        Graph.num_replays += 1

    def reset(self) -> None:
        """Free nothing."""


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


def pretend(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    """Replace those parts of torch.cuda that would ask for a driver."""

    @contextlib.contextmanager
    def graph(_graph: Graph, stream: object = None) -> Iterator[None]:
        log.capturing = True
        try:
            yield
        finally:
            log.capturing = False

    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    for name, value in (("is_bf16_supported", lambda *_: True), ("Event", Event), ("CUDAGraph", Graph),
                        ("graph", graph), ("current_stream", lambda *_: None), ("empty_cache", lambda: None)):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(Tensor, "backward", lambda loss: backward(loss, log))
    monkeypatch.setattr("job.data.batches.to_device", lambda parts, device: torch.cat(parts).to(device))


def fake_batches(fake: FakeTensorMode, trial: Trial, num_images: int, resident: bool) -> Batches:
    """Images of many sizes, on the device or in host memory."""
    short = round(trial.image_size * 256 / 224)
    sizes = torch.tensor([(short, short + number % 90) for number in range(num_images)])
    num_pixels = int(sizes.prod(1).sum())
    with fake:
        pixels = torch.empty(num_pixels, 3, dtype=torch.uint8, device=CUDA) if resident else None
    images = [] if resident else [torch.zeros(*size, 3, dtype=torch.uint8) for size in sizes.tolist()]
    indices = {"train": torch.arange(num_images), "val": torch.arange(num_images // 4)}
    return Batches(trial.image_size, CUDA, images, sizes, torch.arange(num_images) % 2, indices, [], pixels)


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
    log.clear()
    with fake, log, contextlib.suppress(Exception):
        # It ends where the host computes with values that there are not.
        evaluate(state.model, batches, "val", machine)
    report.reads_in_validation = log.reads
    # They are fake.
    mean_and_std.cache_clear()
    return report
