"""The identity of a process, and whether another process still runs."""

import contextlib
import os
from pathlib import Path


def process_id(pid: int | None = None) -> str:
    """Return the boot, process namespace, number and start time of a process; raises OSError if it is gone.

    Together these are unique. The number alone is not: the first process of every container is number 1.
    """
    pid = pid or os.getpid()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # Fields of proc_pid_stat(5): 2 is the name, which may contain anything; 3 is the state, 22 the start time.
    state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if state == "Z":
        raise FileNotFoundError(f"process {pid} has ended")
    start = rest[18]
    return f"{boot} {Path('/proc/self/ns/pid').readlink()} {pid} {start}"


def is_gone(process: str) -> bool:
    """Return whether a process of this host and container has ended; False if that is not known."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        boot, namespace, pid, _ = process.split()
        if process_id().split()[:2] == [boot, namespace]:
            try:
                return process_id(int(pid)) != process
            except FileNotFoundError:
                # /proc may hide the processes of other users; a signal finds them.
                return not belongs_to_another_user(int(pid))
    return False


def belongs_to_another_user(pid: int) -> bool:
    """Return whether the process exists and belongs to another user; /proc shows one's own."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def own_process() -> str:
    """Return the `process_id` of this process, or '' on a system without /proc."""
    with contextlib.suppress(OSError, IndexError):
        return process_id()
    return ""
