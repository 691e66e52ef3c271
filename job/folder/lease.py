"""Leases: the right of one process to work on a trial or the pack, kept by a heartbeat."""

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
    deaths_in_vain,
    new_attempt,
    now,
    num_attempts,
    read_attempt,
)
from job.folder.storage import Folder
from job.process import is_gone, own_process

BEAT_SECONDS = 10.0
# The holder stops writing this long before others may take its work.
MARGIN_SECONDS = 10.0
# The clocks of two hosts may differ, so silence is watched for on the watcher's own; but not by so much.
LONG_SILENT_SECONDS = 3600.0
POLL_SECONDS = 2.0
# A listing that does not yet show what a write has met is asked again; one that never does is no listing of ours.
MOST_RACES = 30


class Busy(TryAgain):
    """Another process is at work on it."""


class DiedTooOften(JobError):
    """The work ends the process that does it, time and again."""


class Lease:
    """The right to work, held by a heartbeat from a thread of its own, so that it beats through loading and validation."""

    def __init__(self, folder: Folder, work: str, number: int, attempt: Attempt, waited_for: Attempt | None = None,
                 deaths: str = "") -> None:
        self.folder, self.work, self.number, self.attempt = folder, work, number, attempt
        self.deaths = deaths
        # How the attempt ended that this process has waited for; None where it has not waited.
        self.waited_for = waited_for
        self.taken_over = threading.Event()
        self._sure_until = time.monotonic() + SILENT_SECONDS - MARGIN_SECONDS
        self._over, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)
        self._thread.start()

    def progress(self, epoch: int, step: int, num_steps: int) -> None:
        """Where the work stands, for the next beat to tell."""
        first = self.attempt.from_epoch
        self.attempt = replace(self.attempt, from_epoch=epoch if first is None else first, epoch=epoch, step=step,
                               num_steps=num_steps)

    def guard(self) -> None:
        """Raise TakenOver where the work is another's by now, and TryAgain while that cannot be known."""
        if self.taken_over.is_set():
            raise TakenOver(f"{self.work}: this process was silent for over {SILENT_SECONDS:.0f} s, and another one has taken "
                            "over; nothing more is written here")
        if time.monotonic() > self._sure_until:
            # Perhaps this process was frozen, and its heart with it.
            self.beat()
            self.guard()

    def check_deaths(self) -> None:
        """Raise DiedTooOften where the attempts before this one died without an end; the next claim counts anew."""
        if self.deaths:
            raise DiedTooOften(self.deaths)

    def beat(self) -> None:
        """Look for a successor, then say that this process is alive; raises JobError where storage does not answer."""
        began = time.monotonic()
        if num_attempts(self.folder, self.work) > self.number:
            self.taken_over.set()
            return
        self.folder.write(attempt_file(self.work, self.number), as_json(replace(self.attempt, at=now())))
        self._sure_until = began + SILENT_SECONDS - MARGIN_SECONDS

    def beat_soon(self) -> None:
        """Tell of the progress without waiting for the next beat's time."""
        self._wake.set()

    def _beat_on(self) -> None:
        while not self.taken_over.is_set():
            self._wake.wait(BEAT_SECONDS)
            if self._over.is_set():
                return
            self._wake.clear()
            with contextlib.suppress(JobError):
                self.beat()
            # However short the epochs are.
            self._over.wait(1.0)

    def end(self, state: Literal["stopped", "failed", "done"], cause: str = "") -> None:
        """Give the work back, saying how it ended."""
        self._over.set()
        self._wake.set()
        self._thread.join(timeout=5)
        self.attempt = replace(self.attempt, state=state, cause=cause)
        # Storage that has not answered for long would only hold up the end.
        if time.monotonic() < self._sure_until:
            with contextlib.suppress(JobError):
                self.beat()


@contextlib.contextmanager
def held(lease: Lease) -> Iterator[Lease]:
    """The lease for the time of a block; how the block ends is how the attempt does."""
    try:
        yield lease
    except (Stopped, TryAgain) as error:
        lease.end("stopped", str(error))
        raise
    except (KeyboardInterrupt, SystemExit):
        lease.end("stopped", "stopped by a signal")
        raise
    except BaseException as error:
        lease.end("failed", f"{type(error).__name__}: {error}")
        raise
    lease.end("done")


class Watch:
    """Whether an attempt has fallen silent, on this process's own clock: how far the other one is off does not matter."""

    def __init__(self) -> None:
        self._seen: tuple[int, str] | None = None
        self._since = 0.0

    def is_silent(self, number: int, attempt: Attempt) -> bool:
        """To be asked again and again, with what the file says now."""
        if self._seen != (number, attempt.at):
            self._seen, self._since = (number, attempt.at), time.monotonic()
        return time.monotonic() - self._since > SILENT_SECONDS or attempt.seconds_silent > LONG_SILENT_SECONDS


def claim(folder: Folder, work: str, finished: Callable[[], object], say: Callable[[str], None], *, wait: bool = True,
          pause: Callable[[float], None] = time.sleep, settings: dict[str, Any] | None = None,
          pack_hash: str = "", shorter: Sequence[str] = ()) -> Lease | None:
    """The lease of a piece of work; None where `finished` says that nothing is left of it.

    That is asked after the look at the last attempt and before the claim to be the next, so what the attempts before have
    left behind is seen whole: no two processes do the same work because one of them looked too early.

    While another process is at work this one waits, by `pause`, or with wait=False raises Busy. Raises BadConfig where the
    storage does not know conditional writes.
    """
    watch, waits, races = Watch(), False, 0
    while True:
        try:
            number = num_attempts(folder, work)
            last = read_attempt(folder, work, number) if number else None
            if finished():
                return None
        except TryAgain:
            # Who waits already can wait for the storage too.
            if not waits:
                raise
            pause(POLL_SECONDS)
            continue
        if last and last.state == "running" and last.process and last.process == own_process():
            # The answer to the write that made it, or to the one that ended it, was lost.
            return Lease(folder, work, number, last)
        if last is None or last.state != "running" or is_gone(last.process) or watch.is_silent(number, last):
            new = new_attempt(settings=settings or {}, pack_hash=pack_hash, shorter=list(shorter))
            if write_first(folder, attempt_file(work, number + 1), as_json(new)):
                return Lease(folder, work, number + 1, new, last if waits else None, deaths_in_vain(folder, work, number))
            races += 1
            if races > MOST_RACES:
                raise BadConfig(f"{folder.uri}/{attempt_file(work, number + 1)}: it is in the way and not listed; remove it")
            pause(POLL_SECONDS / 10)
            continue
        if not wait:
            raise Busy(f"{work}: {last.host} is at work on it")
        if not waits:
            waits = True
            say(f"{work}: {last.host} is at work on it (attempt {number}, since {last.began_at}); waiting")
        pause(POLL_SECONDS)


def write_first(folder: Folder, name: str, data: bytes) -> bool:
    """Write a file that must not be there yet; raises BadConfig where the storage would have overwritten it."""
    if not folder.write_once(name, data):
        return False
    if folder.write_once(name, data):
        raise BadConfig(f"{folder.uri}: this storage overwrites where it was asked not to (PUT with If-None-Match: *), so that "
                        "two processes could train one trial; use one that knows conditional writes")
    return True
