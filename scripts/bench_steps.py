"""A training step against the same step on a constant batch, and that against the hardware's limit."""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from bench_run import Source, report, run
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from job.data.batches import Batches
from job.data.load import load_batches
from job.data.pack import read_passport
from job.folder.storage import open_folder
from job.training.drawing import BLOCK, Drawing
from job.training.fit import Advance, stepper, train_epoch, train_step, training_loss
from job.training.machine import Machine, choose_machine
from job.training.model import build_model, set_training
from job.training.state import State, new_state
from job.trial import Trial

ROUNDS = 5


def steps(source: Source,
          sizes: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "4,32,256",
          seconds: Annotated[float, typer.Option(help="Seconds of training per size, about.", min=1)] = 30) -> None:
    """A training step end to end as a share of the same step on a constant batch, and that as a share of the hardware.

    Both take turns in chunks of steps, so that a machine that slows down slows both.
    """
    with tempfile.TemporaryDirectory() as folder:
        run("prepare", source, folder)
        for batch_size in map(int, sizes.split(",")):
            report("steps", batch_size=batch_size, **measure_steps(Path(folder), batch_size, seconds))


class Traffic(TorchDispatchMode):
    """Count the bytes that a program's operations read and write, each operation on its own; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view and func is not torch.ops.aten.empty.memory_format:
            leaves = torch.utils._pytree.tree_leaves((args, kwargs, found))
            self.num_bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
        return found


def synchronise(machine: Machine) -> None:
    """Wait for the device."""
    if machine.device.type == "cuda":
        torch.cuda.synchronize()


def median_seconds(call: Callable[[], object], machine: Machine, runs: int) -> float:
    """Return the median seconds of a call, after three calls that warm up."""
    times = []
    for number in range(runs + 3):
        synchronise(machine)
        began = time.perf_counter()
        call()
        synchronise(machine)
        if number > 2:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def ceilings(machine: Machine) -> tuple[float, float]:
    """Return the device's operations per second in a square matrix product, and bytes per second in a copy."""
    size = 8192 if machine.device.type == "cuda" else 2048
    kind = torch.bfloat16 if machine.precision == "bf16" else torch.float32
    one, two = (torch.randn(size, size, device=machine.device).to(kind) for _ in range(2))
    operations = 2 * size**3 / median_seconds(lambda: one @ two, machine, 10)
    large = torch.empty(1 << 28, dtype=torch.uint8, device=machine.device)
    other = torch.empty_like(large)
    return operations, 2 * large.nbytes / median_seconds(lambda: other.copy_(large), machine, 10)


def begin(sweep: Path, batch_size: int, change: str = "",
          image_size: int = 224) -> tuple[Trial, State, Batches, Machine]:
    """Return a trial at its beginning, on a sweep's pack; change: as in `measure_steps`."""
    folder = open_folder(str(sweep))
    trial = Trial(lr=0.01, epochs=90, batch_size=batch_size, image_size=image_size, weights="none")
    passport = read_passport(folder)
    assert passport, f"{sweep} has no pack"
    machine = choose_machine("auto")
    batches = load_batches(folder, passport, trial, machine.device, machine.dtype)
    if change == "fed":
        batches = replace(batches, resident_P3=None)
    model = build_model(trial, len(passport.classes), None, machine)
    set_training(model, trial)
    return trial, new_state(trial, model, machine, ""), batches, machine


def measure_steps(sweep: Path, batch_size: int, seconds: float, change: str = "",
                  image_size: int = 224) -> dict[str, Any]:
    """Return the figures of one batch size on a sweep's pack, from about `seconds` seconds of training.

    change, on a GPU: 'render': torch renders the images, not the kernel; 'fed': the pack stays in host memory.
    """
    with mock.patch("job.data.batches.rendering_kernel", lambda device: (None, "")) if change == "render" \
            else contextlib.nullcontext():
        return measure(sweep, batch_size, seconds, change, image_size)


def measure(sweep: Path, batch_size: int, seconds: float, change: str, image_size: int) -> dict[str, Any]:
    """Return the figures of `measure_steps`."""
    trial, state, batches, machine = begin(sweep, batch_size, change, image_size)
    num_train = len(batches.indices["train"])
    if num_train < batch_size:
        return {"left_out": f"there are {num_train} images for training"}
    indices = batches.indices["train"][:batch_size]
    images_NCHW, labels_N = batches.centered(indices), batches.labels(indices)
    loss = partial(training_loss, weights_K=None, smoothing=0.0)
    plain = partial(train_step, state, machine, images_NCHW, labels_N, loss)
    step = as_trained(plain, machine)
    chunk = max(3, int(seconds / (2 * ROUNDS) / median_seconds(step, machine, 5)))
    advance, drawing = stepper(trial, state, batches, machine, print), Drawing(trial, batches)
    end_to_end(trial, state, drawing, machine, advance, 5)
    constant, whole = [], []
    for _ in range(ROUNDS):
        constant.append(run_steps(step, machine, chunk))
        whole.append(end_to_end(trial, state, drawing, machine, advance, chunk))
    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        plain()
    operations, num_bytes = ceilings(machine)
    best = statistics.median(constant)
    parts = parts_of_step(trial, batches, drawing, machine) | {"training": best}
    return {"images_a_second": round(batch_size / statistics.median(whole), 1), "milliseconds": round(1000 * best, 2),
            "share_of_constant_batch": round(statistics.median(c / w for c, w in zip(constant, whole, strict=True)), 3),
            "share_of_operations": round(flops.get_total_flops() / operations / best, 3),
            "share_of_bytes": round(traffic.num_bytes / num_bytes / best, 3), "precision": machine.precision,
            "tera_operations_a_second": round(operations / 1e12, 2), "gigabytes_a_second": round(num_bytes / 1e9, 1),
            "milliseconds_of": {part: round(1000 * seconds, 3) for part, seconds in parts.items()},
            "bottleneck": max(parts, key=lambda part: parts[part]), "runs": ROUNDS}


def parts_of_step(trial: Trial, batches: Batches, drawing: Drawing, machine: Machine) -> dict[str, float]:
    """Return the median seconds per step of what comes before training. On a GPU all parts run at the same time.

    drawing: the augmentation. On a GPU feeding: host time to describe a batch, or to gather its pixels; copying: these,
    to the GPU; there rendering is a part of the step, and its cost the rest to a constant batch.
    """
    indices, draws = drawing.draw_block(0, 0)
    num_steps = min(BLOCK, drawing.num_steps)
    one = slice(0, trial.batch_size)
    parts = {"drawing": median_seconds(lambda: drawing.draw_block(0, 0), machine, 5) / num_steps}
    if machine.device.type != "cuda":
        render = partial(batches.augmented, indices[one], draws.part(one))
        return {**parts, "rendering": median_seconds(render, machine, 5)}
    times = []
    for _ in range(8):
        synchronise(machine)
        began = time.perf_counter()
        _, images_N12 = batches.fed(indices[one], draws.part(one))
        images_N12.to(machine.device, non_blocking=True)
        is_fed = time.perf_counter()
        synchronise(machine)
        times.append((is_fed - began, time.perf_counter() - is_fed))
    feeding, copying = zip(*times[3:], strict=True)
    return {**parts, "feeding": statistics.median(feeding), "copying": statistics.median(copying)}


def as_trained(step: Callable[[], object], machine: Machine) -> Callable[[], object]:
    """Return the step as the training loop runs it: on a GPU as a CUDA graph."""
    if machine.device.type != "cuda":
        return step
    median_seconds(step, machine, 1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        step()
    return graph.replay


def run_steps(step: Callable[[], object], machine: Machine, count: int) -> float:
    """Return the seconds per step on a constant batch."""
    began = time.perf_counter()
    for _ in range(count):
        step()
    synchronise(machine)
    return (time.perf_counter() - began) / count


def end_to_end(trial: Trial, state: State, drawing: Drawing, machine: Machine, advance: Advance, count: int) -> float:
    """Return the seconds per step of the training loop, which draws, samples and augments its images."""
    done = 0

    def enough(_step: int, _steps: int) -> bool:
        nonlocal done
        done += 1
        return done >= count

    began = time.perf_counter()
    while done < count:
        if train_epoch(trial, state, drawing, advance, enough):
            state.epoch, state.step = state.epoch + 1, 0
    synchronise(machine)
    return (time.perf_counter() - began) / done
