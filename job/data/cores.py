"""The processor cores that this process may use."""

import os


def num_cores() -> int:
    """The processor cores that this process may use, and no more than OMP_NUM_THREADS, which a pod sets to its share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(share)) if share.isdecimal() and int(share) else cores
