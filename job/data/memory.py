"""The memory of this process: how the C library treats what is freed, and the peak."""

import contextlib
import ctypes
import gc
import re
import resource
from pathlib import Path


def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the system; no effect with other C libraries.

    Training frees and allocates the same large blocks at every step. Otherwise the system maps and clears their pages
    each time: 1,800 page faults per training step of ResNet18 at batch 4, 3 to 7% of its time (benchmarks.md).
    """
    m_trim_threshold, m_mmap_threshold = -1, -3
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(m_trim_threshold, 2**31 - 1)
        library.mallopt(m_mmap_threshold, 2**30)


def return_memory() -> None:
    """Return freed memory to the system; no effect without glibc."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    """Return freed memory to the system and begin a new peak; without Linux's files and glibc the old one stays."""
    return_memory()
    with contextlib.suppress(OSError):
        # See proc_pid_clear_refs(5).
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the peak memory of this process since `forget_peak`, bytes."""
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
