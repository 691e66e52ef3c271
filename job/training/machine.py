"""The device that trains, and the precision it computes in."""

import contextlib
import functools
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from job.data.memory import keep_freed_memory
from job.errors import BadConfig
from job.training.device import check_capability, gpu_share, wanted_gpu


@dataclass(frozen=True)
class Machine:
    """Where a trial computes: its device, the device's name, and 'bf16', 'fp16' or 'fp32'."""

    device: torch.device
    name: str
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """The type in which convolutions and matrix products compute."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision, torch.float32)

    def autocast(self) -> torch.autocast:
        """Return the context of a forward pass."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.precision != "fp32")


def choose_machine(precision: str) -> Machine:
    """Return the GPU if there is one, else the CPU; precision 'auto' is the fastest that the hardware has.

    TRIALGRID_DEVICE, cuda or cpu, overrides the choice of device. Raises BadConfig if it is something else, if it is
    cuda and there is no GPU, and if there is a GPU on which this torch cannot train: never the CPU instead, unsaid.
    """
    if wanted_gpu():
        device, name = torch.device("cuda", torch.cuda.current_device()), torch.cuda.get_device_name()
        check_capability(name)
        leave_default_stream(device)
        if (share := gpu_share()) < 1:
            torch.cuda.set_per_process_memory_fraction(share, device)
        # Before capability 8.0 there are matrix units for fp16 alone.
        fastest = "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    else:
        device, name = torch.device("cpu"), processor_name()
        fastest = "bf16" if cpu_has_bf16() else "fp32"
        keep_freed_memory()
        if precision == "fp16":
            raise BadConfig("precision fp16 needs a GPU: on a CPU train with precision auto, bf16 or fp32")
    return Machine(device, name, fastest if precision == "auto" else precision)


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
