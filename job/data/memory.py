"""How the C library treats memory that is freed."""

import contextlib
import ctypes


def keep_freed_memory() -> None:
    """Let the C library keep memory that is freed, where it is glibc.

    Whoever frees and wants the same large blocks again and again would have their pages mapped and cleared anew each time:
    1,800 page faults a training step of ResNet18 at batch 4, 3 to 7% of its time (benchmarks.md).
    """
    m_trim_threshold, m_mmap_threshold = -1, -3
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(m_trim_threshold, 2**31 - 1)
        library.mallopt(m_mmap_threshold, 2**30)
