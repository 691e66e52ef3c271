"""Attempts: which process is at work on a trial or the pack, and which were, kept in the sweep folder as a lease.

Each attempt is one small file, WORK/attempts/0001.json. A conditional write makes it, so of many processes one gets the
next number, and with it the work; that process alone rewrites the file, as its heartbeat. Whoever falls silent is
replaced under the next number, notices so at its next beat, and writes no more.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from job.errors import BadConfig, JobError, Stopped, TakenOver, TryAgain
from job.layout import read_json
from job.storage import Folder

BEAT_SECONDS = 10.0
# After so long without a beat an attempt is taken to have died.
SILENT_SECONDS = 60.0
# The holder stops writing this long before others may take its work.
MARGIN_SECONDS = 10.0
# The clocks of two hosts may differ, so silence is also watched for this long on the watcher's own clock.
WATCH_SECONDS = 20.0
POLL_SECONDS = 2.0
# So many attempts in a row that died without finishing an epoch are enough.
MOST_DEATHS = 3


class Busy(TryAgain):
    """Another process is at work on it."""


class DiedTooOften(JobError):
    """The work ends the process that does it, time and again."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One process's turn; `state` stays running where it died. Epochs and steps are None before the first step."""

    state: Literal["running", "stopped", "failed", "done"] = "running"
    cause: str = ""
    host: str = ""
    process: str = ""
    began_at: str = ""
    at: str = ""
    from_epoch: int | None = None
    epoch: int | None = None
    step: int | None = None
    num_steps: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    pack_hash: str = ""

    @property
    def seconds_silent(self) -> float:
        """How long ago its last beat was, by the clocks of its host and this one; 0 where it says nothing sensible."""
        with contextlib.suppress(ValueError, TypeError):
            return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(self.at)).total_seconds())
        return SILENT_SECONDS

    @property
    def is_alive(self) -> bool:
        """Whether it is under way, as far as its file and the clocks tell."""
        return self.state == "running" and self.seconds_silent < SILENT_SECONDS and not is_gone(self.process)

    @property
    def died_in_vain(self) -> bool:
        """Whether it ended without a word and without an epoch to show for it."""
        return self.state == "running" and self.epoch == self.from_epoch


def now() -> str:
    """The time in UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def host_name() -> str:
    """The Kubernetes node and pod where they are known, else the host's name."""
    names = [os.environ.get("NODE_NAME"), os.environ.get("POD_NAME")]
    return "/".join(filter(None, names)) or socket.gethostname()


def process_id(pid: int | None = None) -> str:
    """What tells a process from every other: boot, process namespace, number, start time; raises OSError where it is gone.

    Numbers alone do not: the first process of each container is number 1.
    """
    pid = pid or os.getpid()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # The fields of proc_pid_stat(5) after the name, which may hold anything, begin with number 3; 22 is the start time.
    start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{boot} {Path('/proc/self/ns/pid').readlink()} {pid} {start}"


def is_gone(process: str) -> bool:
    """Whether a process of this host, and of this container, runs no more; False where that cannot be told."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        boot, namespace, pid, _ = process.split()
        if process_id().split()[:2] == [boot, namespace]:
            try:
                return process_id(int(pid)) != process
            except FileNotFoundError:
                return True
    return False


def own_process() -> str:
    """`process_id` of this process, or nothing where the system has no /proc."""
    with contextlib.suppress(OSError, IndexError):
        return process_id()
    return ""


def attempt_file(work: str, number: int) -> str:
    """The file of an attempt; `work` is trials/NAME or pack."""
    return f"{work}/attempts/{number:04d}.json"


def num_attempts(folder: Folder, work: str) -> int:
    """How many there have been: the number of the last."""
    numbers = [name.rpartition("/")[2].removesuffix(".json") for name in folder.names(f"{work}/attempts/")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def read_attempt(folder: Folder, work: str, number: int) -> Attempt:
    """An attempt; a damaged file tells of one that ended: it is news, not state."""
    with contextlib.suppress(BadConfig):
        found = read_json(folder, attempt_file(work, number)) or {}
        kinds: dict[str, tuple[type, ...]] = {
            spec.name: (int, type(None)) if "int" in str(spec.type) else (dict,) if spec.name == "settings" else (str,)
            for spec in fields(Attempt)}
        known = {name: found[name] for name in kinds if name in found}
        if known.keys() == kinds.keys() and all(isinstance(value, kinds[name]) for name, value in known.items()):
            return Attempt(**known)
    return Attempt(state="stopped", cause="its file is damaged")


def last_attempt(folder: Folder, work: str) -> Attempt | None:
    """The newest attempt, or None before the first."""
    number = num_attempts(folder, work)
    return read_attempt(folder, work, number) if number else None


class Lease:
    """The right to work, held by a heartbeat from a thread of its own, so that it beats through loading and validation."""

    def __init__(self, folder: Folder, work: str, number: int, attempt: Attempt, waited_for: Attempt | None = None) -> None:
        self.folder, self.work, self.number, self.attempt = folder, work, number, attempt
        # How the attempt ended that this process has waited for; None where it has not waited.
        self.waited_for = waited_for
        self.taken_over = threading.Event()
        self._sure_until = time.monotonic() + SILENT_SECONDS - MARGIN_SECONDS
        self._over = threading.Event()
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
            raise TryAgain(f"{self.folder.uri}: the storage has not taken a heartbeat for "
                           f"{SILENT_SECONDS - MARGIN_SECONDS:.0f} s")

    def beat(self) -> None:
        """Look for a successor, then say that this process is alive; raises JobError where storage does not answer."""
        began = time.monotonic()
        if self.folder.exists(attempt_file(self.work, self.number + 1)):
            self.taken_over.set()
            return
        self.folder.write(attempt_file(self.work, self.number), as_json(replace(self.attempt, at=now())))
        self._sure_until = began + SILENT_SECONDS - MARGIN_SECONDS

    def _beat_on(self) -> None:
        while not self._over.wait(BEAT_SECONDS) and not self.taken_over.is_set():
            with contextlib.suppress(JobError):
                self.beat()

    def end(self, state: Literal["stopped", "failed", "done"], cause: str = "") -> None:
        """Give the work back, saying how it ended."""
        self._over.set()
        self._thread.join(timeout=5)
        self.attempt = replace(self.attempt, state=state, cause=cause)
        # Storage that has not answered for long would only hold up the end.
        if time.monotonic() < self._sure_until:
            with contextlib.suppress(JobError):
                self.beat()


def as_json(attempt: Attempt) -> bytes:
    """An attempt's file."""
    return (json.dumps(asdict(attempt)) + "\n").encode()


@contextlib.contextmanager
def held(lease: Lease) -> Iterator[Lease]:
    """The lease for the time of a block; how the block ends is how the attempt does."""
    try:
        yield lease
    except (Stopped, TryAgain, KeyboardInterrupt, SystemExit) as error:
        lease.end("stopped", str(error))
        raise
    except BaseException as error:
        lease.end("failed", f"{type(error).__name__}: {error}")
        raise
    lease.end("done")


class Watch:
    """Whether an attempt has fallen silent, on this process's own clock."""

    def __init__(self) -> None:
        self._seen: tuple[int, str] | None = None
        self._since = 0.0

    def is_silent(self, number: int, attempt: Attempt) -> bool:
        """To be asked again and again, with what the file says now."""
        if self._seen != (number, attempt.at):
            self._seen, self._since = (number, attempt.at), time.monotonic()
        return time.monotonic() - self._since > max(WATCH_SECONDS, SILENT_SECONDS - attempt.seconds_silent)


def claim(folder: Folder, work: str, finished: Callable[[], object], say: Callable[[str], None], *, wait: bool = True,
          pause: Callable[[float], None] = time.sleep, settings: dict[str, Any] | None = None,
          pack_hash: str = "") -> Lease | None:
    """The lease of a piece of work; None where it is finished, by another process in the meantime.

    While another process is at work this one waits, by `pause`, or with wait=False raises Busy. Raises DiedTooOften, once, after
    MOST_DEATHS attempts in a row that died without finishing an epoch; the next claim begins a new count.
    """
    watch, told = Watch(), False
    while not finished():
        number = num_attempts(folder, work)
        last = read_attempt(folder, work, number) if number else None
        if last and last.state == "running" and last.process and last.process == own_process():
            # The answer to the write that made it, or to the one that ended it, was lost.
            return Lease(folder, work, number, last)
        if last is None or last.state != "running" or is_gone(last.process) or watch.is_silent(number, last):
            new = Attempt(host=host_name(), process=own_process(), began_at=now(), at=now(), settings=settings or {},
                          pack_hash=pack_hash)
            deaths = deaths_in_vain(folder, work, number)
            if deaths >= MOST_DEATHS:
                new = replace(new, state="failed", cause=f"{deaths} attempts in a row died")
            if not folder.write_once(attempt_file(work, number + 1), as_json(new)):
                continue
            if folder.write_once(attempt_file(work, number + 1), as_json(new)):
                raise BadConfig(f"{folder.uri}: this storage overwrites where it was asked not to (PUT with If-None-Match: *), so "
                                "that two processes could train one trial; use one that knows conditional writes")
            if new.state == "failed":
                assert last
                raise DiedTooOften(f"{work}: {deaths} attempts in a row ended without a word and without an epoch to show for "
                                   f"it, the last on {last.host} at {last.at}. Most often the memory was too small; see what "
                                   "ended them (kubectl describe pod, dmesg), then start again")
            return Lease(folder, work, number + 1, new, last if told else None)
        if not wait:
            raise Busy(f"{work}: {last.host} is at work on it")
        if not told:
            told = True
            say(f"{work}: {last.host} is at work on it (attempt {number}, since {last.began_at}); waiting")
        pause(POLL_SECONDS)
    return None


def failure_of(attempt: Attempt) -> JobError:
    """The error that an attempt in the state failed has ended with."""
    name, _, text = attempt.cause.partition(": ")
    kinds: dict[str, type[JobError]] = {kind.__name__: kind for kind in JobError.__subclasses__()}
    return kinds[name](text) if name in kinds else JobError(attempt.cause)


def deaths_in_vain(folder: Folder, work: str, number: int) -> int:
    """How many attempts up to this one, in a row, died without an epoch to show for it; counts no further than MOST_DEATHS."""
    count = 0
    while number - count > 0 and count < MOST_DEATHS and read_attempt(folder, work, number - count).died_in_vain:
        count += 1
    return count
