"""Processes that decode: one share of the images at a time each, ended and replaced where an image takes too much.

A process ends with the one that started it, however that ends; see job/data/decoding.py, which is what it runs.
"""

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

from job.data.image_file.bounds import MOST_SECONDS, is_memory_limited
from job.errors import TryAgain

CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
# A signal to the whole group of processes is for the one that started them: it ends the others.
NOT_FOR_DECODERS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Task:
    """A share of the images to decode: into shards of a sweep's pack or, without a sweep, to hand over as pixels.

    hopeless: the place of an image in it -> why it is rejected undecoded. described: descriptors are wanted, too.
    """

    source: str
    sweep: str
    names: Sequence[str]
    short_side: int
    number: int
    hopeless: dict[int, str] = field(default_factory=dict)
    described: bool = False


class Decoder:
    """A decoding process: the task that it works on, and a file in which it writes the place of the image in hand."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.connection, theirs = multiprocessing.Pipe()
        self.in_hand: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        handed_over = (theirs.fileno(), self.in_hand.fileno())
        code = (f"import sys; sys.path[:] = {sys.path!r}; from job.data.decoding import main; "
                f"main({os.getpid()}, {handed_over[0]}, {handed_over[1]})")
        # The process inherits what is blocked, from its first instruction on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_DECODERS)
        try:
            self.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL,
                                            stdout=subprocess.DEVNULL, pass_fds=handed_over)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def give(self, task: Task) -> None:
        """Send a task; a process that has just ended is noticed when its answer is read."""
        self.task = task
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(task)

    def answer(self) -> Any:
        """Return what the process has sent, or None if it has ended."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def place_in_hand(self) -> int | None:
        """Return the place in its task of the image that it decodes, or None."""
        found = os.pread(self.in_hand.fileno(), 8, 0)
        place, = struct.unpack("<q", found) if len(found) == 8 else (-1,)
        return place if self.task and 0 <= place < len(self.task.names) else None

    def end(self) -> int:
        """End the process, if it runs; return its exit code, negative for a signal."""
        self.connection.close()
        self.in_hand.close()
        if self.process.poll() is None:
            self.process.kill()
        return self.process.wait()


def in_processes(tasks: Sequence[Task], num_processes: int) -> Generator[Any, None, None]:
    """Yield the answers to the tasks, in order; raises the error that a process answers, TryAgain if one is killed.

    A task is not begun before the answer to the third of its predecessors per process is taken.
    """
    waiting, done = collections.deque(tasks), dict[int, Any]()
    num_crashes: collections.Counter[tuple[int, int]] = collections.Counter()
    decoders: list[Decoder] = []
    try:
        decoders += [Decoder() for _ in range(num_processes)]
        for task in tasks:
            while task.number not in done:
                for decoder in decoders:
                    if waiting and not decoder.task and waiting[0].number < task.number + 3 * num_processes:
                        decoder.give(waiting.popleft())
                busy = {decoder.connection: decoder for decoder in decoders if decoder.task}
                for connection in multiprocessing.connection.wait(list(busy)):
                    decoder = busy[connection]  # type: ignore[index]
                    answer = decoder.answer()
                    if answer is None:
                        waiting.appendleft(after_death(decoder, num_crashes))
                        decoders[decoders.index(decoder)] = Decoder()
                        continue
                    if isinstance(answer, Exception):
                        raise answer
                    assert decoder.task
                    done[decoder.task.number], decoder.task = answer, None
            yield done.pop(task.number)
    except OSError as error:
        raise TryAgain(f"a decoding process could not be started ({error}); free some memory or space, then start "
                       "again") from None
    finally:
        for decoder in decoders:
            decoder.end()


def after_death(decoder: Decoder, num_crashes: "collections.Counter[tuple[int, int]]") -> Task:
    """Return the task of a process that has ended, without the image that ended it; raises TryAgain if none did."""
    task, place = decoder.task, decoder.place_in_hand()
    assert task
    code = decoder.process.wait()
    decoder.end()
    name = f" at {task.names[place]}" if place is not None else ""
    if place is not None and code == -signal.SIGXCPU:
        reason = f"takes more than {MOST_SECONDS} s of processor time to decode (decompression bomb)"
        return without(task, {place: reason})
    # A decoder that gets no memory may crash. Without a limit of this process the system gives or kills.
    if place is not None and -code in CRASHES and not is_memory_limited():
        num_crashes[task.number, place] += 1
        if num_crashes[task.number, place] < 2:
            return task
        return without(task, {place: f"damaged: it crashes the decoder ({signal.Signals(-code).name})"})
    raise TryAgain(f"a decoding process was killed{name}, probably because memory ran out ({ending(code)}); free some "
                   "memory, then start again")


def without(task: Task, hopeless: Mapping[int, str]) -> Task:
    """Return a task with more images that are not to be decoded."""
    return replace(task, hopeless={**task.hopeless, **hopeless})


def ending(code: int) -> str:
    """Return an exit code in words."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
