"""The device that trains and the precision it computes in."""

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
        """The context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def choose_machine(precision: str) -> Machine:
    """CUDA where there is a GPU, else the CPU; 'auto' is bf16 where the processor has it in hardware.

    TRIALGRID_DEVICE, cuda or cpu, decides instead; raises BadConfig where it asks for a GPU that is not to be seen.
    """
    wanted = os.environ.get("TRIALGRID_DEVICE", "")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BadConfig("TRIALGRID_DEVICE is cuda, and no GPU is to be seen: check the driver (580 or later), the container's "
                        "runtime (a runtimeClassName on some clusters) and what the pod asks for")
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
    """Work on a stream of this process's own from now on: a CUDA graph cannot be made of what the default one does."""
    torch.cuda.set_stream(torch.cuda.Stream(device))


def cpu_facts() -> dict[str, str]:
    """/proc/cpuinfo of the first processor, or nothing where there is none."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {}


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (x86: AVX512-BF16 or AMX; Arm: bf16)."""
    facts = cpu_facts()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set((facts.get("flags", "") + " " + facts.get("Features", "")).split()))


def processor_name() -> str:
    """The CPU's model and the number of threads that torch uses."""
    threads = torch.get_num_threads()
    return f"{cpu_facts().get('model name') or platform.machine()}, {threads} thread{'s' * (threads > 1)}"


@contextlib.contextmanager
def gpu_memory(trial: Trial) -> Iterator[None]:
    """Turn the accelerator's out-of-memory error into ours."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"trial {trial.trial}: {str(error).splitlines()[0]} Use a smaller batch_size or image_size, "
                          "or a larger GPU") from None
