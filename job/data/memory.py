"""How the C library treats freed memory."""

import contextlib
import ctypes


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
