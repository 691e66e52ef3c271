"""What a decoding process runs; started by job/data/decoders.py. What is imported at the top takes no time."""

import contextlib
import ctypes
import math
import os
import resource
import signal
import struct
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from job.data.image_file.decode import Rejected

PR_SET_PDEATHSIG = 1
UNLIMITED = resource.RLIM_INFINITY


def main(parent: int, connection_number: int, in_hand: int) -> None:
    """Answer tasks with shares, or with the error that ends the command, until the connection is closed."""
    end_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    from multiprocessing.connection import Connection

    from job.data.decoders import Task
    from job.data.memory import keep_freed_memory
    from job.data.shards import hand_over, make_share
    from job.errors import JobError, TryAgain
    from job.folder.storage import open_folder

    keep_freed_memory()
    silence_libraries()
    connection = Connection(connection_number)
    bounds = Bounds(in_hand)
    with contextlib.suppress(EOFError, OSError):
        while True:
            task: Task = connection.recv()
            bounds.hopeless = task.hopeless
            answer: object
            try:
                source = open_folder(task.source)
                if task.sweep:
                    answer = make_share(source, open_folder(task.sweep), task.names, task.short_side, task.number,
                                        bounds.decode, task.described)
                else:
                    answer = hand_over(source, task.names, task.short_side, bounds.decode)
            except JobError as error:
                answer = error
            except MemoryError:
                answer = TryAgain("memory ran out in a decoding process; free some memory, or allow this process more "
                                  "of it, then start again")
            connection.send(answer)


def end_with(parent: int) -> None:
    """Make the kernel kill this process when its parent ends; elsewhere than on Linux, a thread watches for that."""
    with contextlib.suppress(OSError, AttributeError):
        if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0:
            if os.getppid() != parent:
                os._exit(1)
            return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def silence_libraries() -> None:
    """Send what C libraries write to standard error nowhere; what Python prints there still appears."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


class Bounds:
    """Decodes images within limits of processor time and memory, and notes the place of the image in hand.

    The kernel ends the process at the limit of time, because nothing else stops a decoder in C. At the limit of memory
    a decoder gets none.
    """

    def __init__(self, in_hand: int) -> None:
        self.in_hand = in_hand
        self.hopeless: dict[int, str] = {}
        self.limits = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS)}

    def decode(self, place: int, data: bytes, short_side: int) -> "NDArray[np.uint8] | Rejected":
        """Decode an image; raises TryAgain if memory runs out, though the image has not reached its limit."""
        from job.data.image_file.bounds import MOST_PROCESS_BYTES, MOST_SECONDS, can_allocate
        from job.data.image_file.decode import Rejected, decode
        from job.errors import TryAgain

        if place in self.hopeless:
            return Rejected(self.hopeless[place])
        os.pwrite(self.in_hand, struct.pack("<q", place), 0)
        self.limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + MOST_SECONDS)
        is_ours = self.limit(resource.RLIMIT_AS, address_space() + MOST_PROCESS_BYTES)
        try:
            return decode(data, short_side)
        except TryAgain:
            self.lift()
            if is_ours and can_allocate(MOST_PROCESS_BYTES):
                return Rejected(f"takes more than {MOST_PROCESS_BYTES >> 30} GiB of memory to decode (decompression "
                                "bomb)")
            raise
        finally:
            self.lift()
            os.pwrite(self.in_hand, struct.pack("<q", -1), 0)

    def limit(self, kind: int, value: int) -> bool:
        """Set a soft limit, unless a lower one holds; return whether this one holds."""
        soft, hard = self.limits[kind]
        if soft != UNLIMITED and soft <= value:
            return False
        resource.setrlimit(kind, (value, hard))
        return True

    def lift(self) -> None:
        """Set the soft limits back."""
        for kind, values in self.limits.items():
            resource.setrlimit(kind, values)


def address_space() -> int:
    """Return the bytes of address space that this process takes; a large number where /proc does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 40
