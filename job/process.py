"""The process itself: what tells it from every other, whether another one still runs, and its share of the machine."""

import contextlib
import os
from pathlib import Path


def process_id(pid: int | None = None) -> str:
    """What tells a process from every other: boot, process namespace, number, start time; raises OSError where it is gone.

    Numbers alone do not: the first process of each container is number 1.
    """
    pid = pid or os.getpid()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # The fields of proc_pid_stat(5) after the name, which may hold anything, begin with number 3; 22 is the start time.
    state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if state == "Z":
        raise FileNotFoundError(f"process {pid} has ended")
    start = rest[18]
    return f"{boot} {Path('/proc/self/ns/pid').readlink()} {pid} {start}"


def is_gone(process: str) -> bool:
    """Whether a process of this host, and of this container, runs no more; False where that cannot be told."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        boot, namespace, pid, _ = process.split()
        if process_id().split()[:2] == [boot, namespace]:
            try:
                return process_id(int(pid)) != process
            except FileNotFoundError:
                # Where /proc hides others' processes, a signal still tells that they are there.
                return not answers(int(pid))
    return False


def answers(pid: int) -> bool:
    """Whether there is such a process of another user; own ones are seen in /proc."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def own_process() -> str:
    """`process_id` of this process, or nothing where the system has no /proc."""
    with contextlib.suppress(OSError, IndexError):
        return process_id()
    return ""
