"""What stands in for CUDA: a log of operations on fake tensors, and the parts of torch.cuda that ask for a driver."""

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

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
