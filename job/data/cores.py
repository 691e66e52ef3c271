"""The processor cores that this process may use."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def num_cores() -> int:
    """Return the cores of the affinity, of the container's limit or of OMP_NUM_THREADS (a pod's share): the least."""
    cores = min(num_visible_cores(), cgroup_cores() or num_visible_cores())
    share = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(share)) if share.isdecimal() and int(share) else cores


def num_visible_cores() -> int:
    """Return the cores of the process's affinity: the number that OpenMP counts."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cgroup_cores(groups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the whole cores that control groups allow (`docker run --cpus 2`: 2), at least 1; None without a limit.

    The limits of the groups above the process's own count too. Version 2 keeps a limit in cpu.max as `QUOTA PERIOD`,
    version 1 in cpu.cfs_quota_us and cpu.cfs_period_us (Linux: admin-guide/cgroup-v2.rst, scheduler/sched-bwc.rst).
    A fraction is rounded down, because a thread beyond the quota stalls the others.
    """
    limits = []
    for top, path in own_groups(groups, own):
        for folder in (top / path, *(top / path).parents):
            if not folder.is_relative_to(top):
                break
            limits += [limit for limit in (version_2_limit(folder), version_1_limit(folder)) if limit]
    return max(1, int(min(limits))) if limits else None


def own_groups(groups: Path, own: Path) -> list[tuple[Path, str]]:
    """Return the mount and the path below it of each CPU group of this process.

    A container may see its group's path as the host names it, while its own group is mounted at the top.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    return [(groups / (kinds if kinds else ""), path.lstrip("/")) for _, kinds, path in lines
            if not kinds or "cpu" in kinds.split(",")]


def version_2_limit(folder: Path) -> float | None:
    """The cores of cpu.max, or None."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def version_1_limit(folder: Path) -> float | None:
    """The cores of cpu.cfs_quota_us, which is -1 without a limit, or None."""
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def share_processor() -> None:
    """Make OpenMP, with which torch computes, a good neighbour; torch reads these variables when it is imported.

    Threads that spin while they wait for each other stall where other programs use the same cores (benchmarks.md): they
    sleep instead. And there are no more threads than a container's limit allows, which OpenMP does not know.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    limit = cgroup_cores()
    if limit and limit < num_visible_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(limit))
