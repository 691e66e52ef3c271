"""Leases: the right of one process to work on a trial or on the pack, kept by a heartbeat."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from job.errors import BadConfig, JobError, Stopped, TakenOver, TryAgain
from job.folder.attempts import (
    SILENT_SECONDS,
    Attempt,
    as_json,
    attempt_file,
    new_attempt,
    now,
    num_attempts,
    read_attempt,
    too_many_deaths,
)
from job.folder.storage import Folder
from job.process import is_gone, own_process

BEAT_SECONDS = 10.0
# The holder stops writing this long before others may take over.
MARGIN_SECONDS = 10.0
# Clocks of two hosts may differ, so a waiting process measures silence on its own; but no clock is off by this much.
LONG_SILENT_SECONDS = 3600.0
POLL_SECONDS = 2.0
# A listing may lag behind a write, so a lost race is tried again. A file that is never listed is not an attempt.
MOST_RACES = 30


class Busy(TryAgain):
    """Another process is working on it."""


class DiedTooOften(JobError):
    """The work kills every process that tries it."""


class Lease:
    """The right to work. A thread of its own sends the heartbeat, so it beats during loading and validation too."""

    def __init__(self, folder: Folder, work: str, number: int, attempt: Attempt, waited_for: Attempt | None = None,
                 deaths: str = "") -> None:
        self.folder, self.work, self.number, self.attempt = folder, work, number, attempt
        self.deaths = deaths
        # The attempt that this process waited for, in its final state; None if it did not wait.
        self.waited_for = waited_for
        self.taken_over = threading.Event()
        self._valid_until = time.monotonic() + SILENT_SECONDS - MARGIN_SECONDS
        self._over, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        self._thread.start()

    def progress(self, epoch: int, step: int, num_steps: int) -> None:
        """Record how far the work is, for the next beat to report."""
        first = self.attempt.from_epoch
        self.attempt = replace(self.attempt, from_epoch=epoch if first is None else first, epoch=epoch, step=step,
                               num_steps=num_steps)

    def guard(self) -> None:
        """Raise TakenOver if another process has taken the work, and TryAgain while the storage cannot say so."""
        if self.taken_over.is_set():
            raise TakenOver(f"{self.work}: this process was silent for over {SILENT_SECONDS:.0f} s and another one has "
                            "taken over; this one writes nothing more")
        if time.monotonic() > self._valid_until:
            # The process may have been frozen, and its heartbeat with it.
            self.beat()
            self.guard()

    def check_deaths(self) -> None:
        """Raise DiedTooOften if the attempts before this one died in a row; the next claim starts a new count."""
        if self.deaths:
            raise DiedTooOften(self.deaths)

    def beat(self) -> None:
        """Look for a successor; if there is none, write that this process is alive. Raises JobError if that fails."""
        began = time.monotonic()
        if num_attempts(self.folder, self.work) > self.number:
            self.taken_over.set()
            return
        self.folder.write(attempt_file(self.work, self.number), as_json(replace(self.attempt, at=now())))
        self._valid_until = began + SILENT_SECONDS - MARGIN_SECONDS

    def beat_soon(self) -> None:
        """Report the progress now, not at the time of the next beat."""
        self._wake.set()

    def _keep_beating(self) -> None:
        while not self.taken_over.is_set():
            self._wake.wait(BEAT_SECONDS)
            if self._over.is_set():
                return
            self._wake.clear()
            with contextlib.suppress(JobError):
                self.beat()
            # At most one beat per second, however short the epochs are.
            self._over.wait(1.0)

    def end(self, state: Literal["stopped", "failed", "done"], cause: str = "") -> None:
        """Release the work and record how it ended."""
        self._over.set()
        self._wake.set()
        self._thread.join(timeout=5)
        self.attempt = replace(self.attempt, state=state, cause=cause)
        # A storage that has not answered for a minute would only delay the end.
        if time.monotonic() < self._valid_until:
            with contextlib.suppress(JobError):
                self.beat()


@contextlib.contextmanager
def held(lease: Lease) -> Iterator[Lease]:
    """Hold the lease during a block; the attempt ends as the block does."""
    try:
        yield lease
    except (Stopped, TryAgain) as error:
        lease.end("stopped", str(error))
        raise
    except (KeyboardInterrupt, SystemExit):
        lease.end("stopped", "stopped by a signal")
        raise
    except BaseException as error:
        lease.end("failed", str(error) if isinstance(error, JobError) else f"{type(error).__name__}: {error}")
        raise
    lease.end("done")


class Watch:
    """Measures an attempt's silence on this process's own clock, so a wrong clock on the other host does no harm."""

    def __init__(self) -> None:
        self._seen: tuple[int, str] | None = None
        self._since = 0.0

    def is_silent(self, number: int, attempt: Attempt) -> bool:
        """Whether the attempt has been silent for too long; call it repeatedly with the attempt as newly read."""
        if self._seen != (number, attempt.at):
            self._seen, self._since = (number, attempt.at), time.monotonic()
        return time.monotonic() - self._since > SILENT_SECONDS or attempt.seconds_silent > LONG_SILENT_SECONDS


def claim(folder: Folder, work: str, finished: Callable[[], object], say: Callable[[str], None], *, wait: bool = True,
          pause: Callable[[float], None] = time.sleep, settings: dict[str, Any] | None = None,
          pack_hash: str = "", shorter: Sequence[str] = ()) -> Lease | None:
    """Return the lease of a piece of work, or None where `finished` says that it is done.

    `finished` is called after the last attempt is read and before the next is claimed. So it sees everything that
    earlier attempts left, and no two processes do the same work. While another process works, this one waits by
    `pause`, or raises Busy if `wait` is False. Raises BadConfig if the storage has no conditional writes.
    """
    watch, is_waiting, num_races = Watch(), False, 0
    while True:
        try:
            number = num_attempts(folder, work)
            last = read_attempt(folder, work, number) if number else None
            if finished():
                return None
        except TryAgain:
            # A process that already waits can wait for the storage too.
            if not is_waiting:
                raise
            pause(POLL_SECONDS)
            continue
        if last and last.state == "running" and last.process and last.process == own_process():
            # This process's own attempt: the answer to the write that made or ended it was lost.
            return Lease(folder, work, number, last)
        if last is None or last.state != "running" or is_gone(last.process) or watch.is_silent(number, last):
            attempt = new_attempt(settings=settings or {}, pack_hash=pack_hash, shorter=list(shorter))
            if lease := try_to_lease(folder, work, number + 1, attempt, last if is_waiting else None):
                return lease
            num_races += 1
            refuse_unlisted(num_races, f"{folder.uri}/{attempt_file(work, number + 1)}")
            pause(POLL_SECONDS / 10)
            continue
        if not wait:
            raise Busy(f"{work}: {last.host} is working on it")
        if not is_waiting:
            is_waiting = True
            say(f"{work}: {last.host} is working on it (attempt {number}, since {last.began_at}); waiting")
        pause(POLL_SECONDS)


def try_to_lease(folder: Folder, work: str, number: int, attempt: Attempt, waited_for: Attempt | None) -> Lease | None:
    """Write the file of a new attempt; return its lease, or None if another process wrote that file first."""
    if not write_first(folder, attempt_file(work, number), as_json(attempt)):
        return None
    return Lease(folder, work, number, attempt, waited_for, too_many_deaths(folder, work, number - 1))


def refuse_unlisted(num_races: int, path: str) -> None:
    """Raise BadConfig after so many lost races that the path cannot be another process's attempt."""
    if num_races > MOST_RACES:
        raise BadConfig(f"{path}: something is in the way here, and the folder does not list it; remove it")


def write_first(folder: Folder, name: str, data: bytes) -> bool:
    """Write a file unless it exists; return whether this call did. Raises BadConfig if the storage overwrites files."""
    if not folder.write_once(name, data):
        return False
    if folder.write_once(name, data):
        raise BadConfig(f"{folder.uri}: this storage ignores If-None-Match: * and overwrites existing objects, so two "
                        "processes could train the same trial; use a storage that supports conditional writes")
    return True
