"""Leases: the right of one process to work on a trial or on the pack, kept by a heartbeat."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from job.errors import BadConfig, GpuFailed, JobError, Stopped, SweepRemoved, TakenOver, TryAgain, redacted
from job.folder.attempts import (
    SILENT_SECONDS,
    Attempt,
    Watch,
    as_json,
    attempt_file,
    new_attempt,
    now,
    num_attempts,
    read_attempt,
    too_many_deaths,
)
from job.folder.patience import patiently
from job.folder.storage import Folder, join
from job.process import is_gone, own_process

BEAT_SECONDS = 10.0
# The holder stops writing this long before others may take over.
MARGIN_SECONDS = 10.0
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
        # Set where nobody took the work over, but its files are gone.
        self.removed = False
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
        """Raise TakenOver if another process has taken the work, and SweepRemoved if its files were removed.

        Raises TryAgain while the storage cannot say so.
        """
        if self.removed:
            raise SweepRemoved(f"{join(self.folder.uri, self.work)}: its files were removed while this process worked "
                               "on it, so it writes nothing more; what it wrote since then may be left there: delete "
                               "it, or run the command again to start anew")
        if self.taken_over.is_set():
            raise TakenOver(f"{self.work}: this process was silent for over {SILENT_SECONDS:.0f} s and another one has "
                            "taken over; this one writes nothing more")
        if time.monotonic() > self._valid_until:
            # The process may have been frozen, and its heartbeat with it.
            self.beat()
            self.guard()

    def confirm(self) -> None:
        """Ask the storage now whether this process still has the work, and raise as `guard` does; beats, too."""
        self.beat()
        self.guard()

    def check_deaths(self) -> None:
        """Raise DiedTooOften if the attempts before this one died in a row; the next claim starts a new count."""
        if self.deaths:
            raise DiedTooOften(self.deaths)

    def beat(self) -> None:
        """Look for a successor; if there is none, write that this process is alive. Raises JobError if that fails."""
        began = time.monotonic()
        newest, own_file = num_attempts(self.folder, self.work), attempt_file(self.work, self.number)
        # A listing may lag behind a write, so the file itself is asked for.
        self.removed = self.removed or (newest < self.number and not self.folder.exists(own_file))
        if newest > self.number or self.removed:
            self.taken_over.set()
            return
        self.folder.write(own_file, as_json(replace(self.attempt, at=now())))
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

    def end(self, state: Literal["stopped", "died", "failed", "done"], cause: str = "") -> None:
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
        lease.end("died" if isinstance(error, GpuFailed) else "stopped", str(error))
        raise
    except (KeyboardInterrupt, SystemExit):
        lease.end("stopped", "stopped by a signal")
        raise
    except BaseException as error:
        cause = str(error) if isinstance(error, JobError) else f"{type(error).__name__}: {error}"
        lease.end("failed", redacted(cause))
        raise
    lease.end("done")


def claim(folder: Folder, work: str, finished: Callable[[], object], say: Callable[[str], None], *, wait: bool = True,
          pause: Callable[[float], None] = time.sleep, settings: dict[str, Any] | None = None,
          pack_hash: str = "", shorter: Sequence[str] = (), watch: Watch | None = None) -> Lease | None:
    """Return the lease of a piece of work, or None where `finished` says that it is done.

    `finished` is called after the last attempt is read and before the next is claimed. So it sees everything that
    earlier attempts left, and no two processes do the same work. While another process works, this one waits by
    `pause`, or raises Busy if `wait` is False. It waits for the storage, too: 10 minutes, or as long as for another
    process. watch: of calls that do not wait, one for all. Raises BadConfig if the storage has no conditional writes.
    """
    watch, is_waiting, num_races = watch or Watch(), False, 0
    while True:
        try:
            number, last, is_finished = patiently(functools.partial(look, folder, work, finished), say, pause)
        except TryAgain:
            if is_waiting:
                continue
            raise
        if is_finished:
            return None
        if last and last.state == "running" and last.process and last.process == own_process():
            # This process's own attempt: the answer to the write that made or ended it was lost.
            return Lease(folder, work, number, last, deaths=too_many_deaths(folder, work, number - 1))
        if last is None or last.state != "running" or is_gone(last.process) or watch.is_silent(number, last):
            attempt = new_attempt(settings=settings or {}, pack_hash=pack_hash, shorter=list(shorter))
            waited_for = last if is_waiting else None
            attempting = functools.partial(try_to_lease, folder, work, number + 1, attempt, waited_for)
            if lease := patiently(attempting, say, pause):
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


def look(folder: Folder, work: str, finished: Callable[[], object]) -> tuple[int, Attempt | None, bool]:
    """Return the last attempt's number, 0 if there is none, the attempt, and after that whether the work is done."""
    number = num_attempts(folder, work)
    return number, read_attempt(folder, work, number) if number else None, bool(finished())


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
