"""Whether there is a GPU that this torch can use, and this process's share of it."""

import contextlib
import os
import re
import warnings
from pathlib import Path

import torch

from job.errors import BadConfig
from job.training.faults import first_line

DEVICE_NODES, DRIVER = Path("/dev"), Path("/proc/driver/nvidia/version")
# The oldest driver of a major version of CUDA (NVIDIA, CUDA Compatibility, minor version compatibility).
OLDEST_DRIVERS = {"11": "450", "12": "525", "13": "580"}


def wanted_gpu() -> bool:
    """Return whether to train on a GPU: there is one, and TRIALGRID_DEVICE does not say cpu.

    Raises BadConfig if TRIALGRID_DEVICE has an unknown value, or cuda and there is none, and if there is a GPU that
    torch cannot use.
    """
    wanted = os.environ.get("TRIALGRID_DEVICE", "")
    if wanted not in ("", "cuda", "cpu"):
        others = "; GPUs of Apple and Intel are not used" if wanted in ("mps", "xpu") else ""
        raise BadConfig(f"TRIALGRID_DEVICE is {wanted!r}: set cuda or cpu, or unset it to use a GPU if there is one"
                        f"{others}")
    if wanted == "cpu":
        return False
    with warnings.catch_warnings():
        # What torch warns of is said below.
        warnings.simplefilter("ignore")
        available = torch.cuda.is_available()
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    if not available and not is_hidden and gpus_of_this_machine():
        raise BadConfig(f"there is an NVIDIA GPU, but CUDA cannot use it ({why_not()}): {driver_advice()}; or set "
                        "TRIALGRID_DEVICE=cpu to train without it")
    if wanted == "cuda" and not available:
        raise BadConfig("TRIALGRID_DEVICE is cuda, and no GPU is visible: check the driver (580 or later), the "
                        "container's runtime (a runtimeClassName on some clusters) and the GPU request of the pod")
    return available


def gpus_of_this_machine() -> list[str]:
    """Return the device files of the NVIDIA GPUs that this process may open, whatever the driver's version."""
    return sorted(path.name for path in DEVICE_NODES.glob("nvidia[0-9]*"))


def why_not() -> str:
    """Return torch's reason for not using the GPUs."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return "torch gives no reason"


def driver_advice() -> str:
    """Return which driver there is and which one the installed torch needs."""
    with contextlib.suppress(OSError):
        if found := re.search(r"\s(\d{3,}\.[\d.]+)", DRIVER.read_text()):
            cuda = torch.version.cuda or ""
            oldest = OLDEST_DRIVERS.get(cuda.split(".")[0], "a newer one")
            return f"the driver is {found[1]}, and torch {torch.__version__} with CUDA {cuda} needs {oldest} or later"
    return f"install an NVIDIA driver for CUDA {torch.version.cuda}"


def check_capability(name: str) -> None:
    """Raise BadConfig if the installed torch has no code for this GPU's compute capability."""
    major, minor = torch.cuda.get_device_capability()
    found = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", arch) for arch in torch.cuda.get_arch_list()]
    kinds = [(match[1], int(match[2]), int(match[3])) for match in found if match]
    # Machine code runs on later minor versions of its major version; PTX is compiled for any later GPU.
    if not any((one, other) <= (major, minor) and (kind == "compute" or one == major) for kind, one, other in kinds):
        there = ", ".join(sorted({f"{one}.{other}" for _, one, other in kinds}, key=float))
        raise BadConfig(f"{name} has compute capability {major}.{minor}, and torch {torch.__version__} has code for "
                        f"{there} alone: use a newer GPU, a torch that was built for this one, or TRIALGRID_DEVICE=cpu")


def gpu_share() -> float:
    """Return the share of the GPU's memory that this process may take: 1, or TRIALGRID_GPU_SHARE."""
    text = os.environ.get("TRIALGRID_GPU_SHARE", "1")
    with contextlib.suppress(ValueError):
        if 0 < (share := float(text)) <= 1:
            return share
    raise BadConfig(f"TRIALGRID_GPU_SHARE is {text!r}: it is a share of the GPU's memory, more than 0 and at most 1")
