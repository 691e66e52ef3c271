"""The device that trains, and the precision it computes in."""

import contextlib
import functools
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from job.data.memory import keep_freed_memory
from job.errors import BadConfig, OutOfMemory
from job.trial import Trial


@dataclass(frozen=True)
class Machine:
    """Where a trial computes: its device, the device's name, and 'bf16' or 'fp32'."""

    device: torch.device
    name: str
    precision: str

    def autocast(self) -> torch.autocast:
        """Return the context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def choose_machine(precision: str) -> Machine:
    """Return the GPU if there is one, else the CPU; precision 'auto' is bf16 if the hardware has it.

    TRIALGRID_DEVICE, cuda or cpu, overrides the choice of device; raises BadConfig if it is cuda and there is no GPU.
    """
    wanted = os.environ.get("TRIALGRID_DEVICE", "")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BadConfig("TRIALGRID_DEVICE is cuda, and no GPU is visible: check the driver (580 or later), the "
                        "container's runtime (a runtimeClassName on some clusters) and the GPU request of the pod")
    if wanted != "cpu" and torch.cuda.is_available():
        device, name = torch.device("cuda", torch.cuda.current_device()), torch.cuda.get_device_name()
        leave_default_stream(device)
        has_bf16 = torch.cuda.get_device_capability() >= (8, 0)
    else:
        device, name = torch.device("cpu"), processor_name()
        has_bf16 = cpu_has_bf16()
        keep_freed_memory()
    return Machine(device, name, ("bf16" if has_bf16 else "fp32") if precision == "auto" else precision)


@functools.cache
def leave_default_stream(device: torch.device) -> None:
    """Make this process work on a stream of its own: a CUDA graph cannot be captured on the default stream."""
    torch.cuda.set_stream(torch.cuda.Stream(device))


def cpu_facts() -> dict[str, str]:
    """Return what /proc/cpuinfo says about the first processor; nothing if there is no such file."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {}


def cpu_has_bf16() -> bool:
    """Return whether the processor multiplies bfloat16 in hardware (x86: AVX512-BF16 or AMX; Arm: bf16)."""
    facts = cpu_facts()
    flags = (facts.get("flags", "") + " " + facts.get("Features", "")).split()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def processor_name() -> str:
    """Return the CPU's model and the number of threads that torch uses."""
    num_threads = torch.get_num_threads()
    model = cpu_facts().get("model name") or platform.machine()
    return f"{model}, {num_threads} thread{'s' * (num_threads > 1)}"


@contextlib.contextmanager
def gpu_memory(trial: Trial) -> Iterator[None]:
    """Turn torch's out-of-memory error into an OutOfMemory that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"out of GPU memory at batch_size {trial.batch_size} and image_size {trial.image_size} "
                          f"({str(error).splitlines()[0]}); set a smaller batch_size or image_size, or use a larger "
                          "GPU") from None
