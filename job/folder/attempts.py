"""Attempts: which process is at work on a trial or the pack, and which were, kept in the sweep folder as a lease.

Each attempt is one small file, WORK/attempts/0001.json. A conditional write makes it, so of many processes one gets the
next number, and with it the work; that process alone rewrites the file, as its heartbeat. Whoever falls silent is
replaced under the next number, notices so at its next beat, and writes no more.
"""

import contextlib
import json
import os
import re
import socket
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

from job.errors import BadConfig, JobError
from job.folder.layout import read_json
from job.folder.storage import Folder
from job.process import is_gone, own_process


def host_name() -> str:
    """The Kubernetes node and pod where they are known, else the host's name."""
    names = [os.environ.get("NODE_NAME"), os.environ.get("POD_NAME")]
    return "/".join(filter(None, names)) or socket.gethostname()


# After so long without a beat an attempt is taken to have died.
SILENT_SECONDS = 60.0
FILE_PATTERN = re.compile(r"([0-9]{4,})\.json", re.ASCII)
# So many attempts in a row that died without finishing an epoch are enough.
MOST_DEATHS = 3


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
    # Trials of the same trajectory through which this one passes.
    shorter: list[str] = field(default_factory=list)

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
    def has_progress(self) -> bool:
        """Whether it has finished an epoch, as far as its last beat tells."""
        return self.epoch != self.from_epoch


def new_attempt(**about: Any) -> Attempt:
    """An attempt of this process that begins now; `about` are its other fields."""
    return Attempt(host=host_name(), process=own_process(), began_at=now(), at=now(), **about)


def now() -> str:
    """The time in UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def attempt_file(work: str, number: int) -> str:
    """The file of an attempt; `work` is trials/NAME or pack."""
    return f"{work}/attempts/{number:04d}.json"


def num_attempts(folder: Folder, work: str) -> int:
    """How many there have been: the number of the last."""
    found = [FILE_PATTERN.fullmatch(name.removeprefix(f"{work}/attempts/")) for name in folder.names(f"{work}/attempts/")]
    return max((int(match[1]) for match in found if match), default=0)


def read_attempt(folder: Folder, work: str, number: int) -> Attempt:
    """An attempt; a damaged file is one that has not been heard of."""
    with contextlib.suppress(BadConfig):
        found = read_json(folder, attempt_file(work, number)) or {}
        kinds: dict[str, tuple[type, ...]] = {
            spec.name: (int, type(None)) if "int" in str(spec.type) else (type(getattr(Attempt(), spec.name)),)
            for spec in fields(Attempt)}
        known = {name: found[name] for name in kinds if name in found}
        if known.keys() == kinds.keys() and all(isinstance(value, kinds[name]) for name, value in known.items()):
            return Attempt(**known)
    return Attempt(host="a host that its damaged file does not tell")


def last_attempt(folder: Folder, work: str) -> Attempt | None:
    """The newest attempt, or None before the first."""
    number = num_attempts(folder, work)
    return read_attempt(folder, work, number) if number else None


def as_json(attempt: Attempt) -> bytes:
    """An attempt's file."""
    return (json.dumps(asdict(attempt)) + "\n").encode()


def failure_of(attempt: Attempt) -> JobError:
    """The error that an attempt in the state failed has ended with."""
    name, _, text = attempt.cause.partition(": ")
    kinds: dict[str, type[JobError]] = {kind.__name__: kind for kind in JobError.__subclasses__()}
    return kinds[name](text) if name in kinds else JobError(attempt.cause)


def deaths_in_vain(folder: Folder, work: str, number: int) -> str:
    """What to say where the attempts up to this one died MOST_DEATHS times in a row without an epoch to show for it; else ''.

    What an attempt has achieved is where the next one began. Of the last, only its own beats tell; where they tell of an
    epoch, which may have been lost on its way to the storage, it does not count.
    """
    count, following, newest = 0, None, None
    while number > 0:
        attempt = read_attempt(folder, work, number)
        achieved = (attempt.has_progress if following is None or following.from_epoch is None
                    else attempt.from_epoch is not None and following.from_epoch != attempt.from_epoch)
        if attempt.state != "running" or (achieved and following):
            return ""
        count, following, newest, number = count + (not achieved), attempt, newest or attempt, number - 1
        if count >= MOST_DEATHS:
            return (f"{work}: {count} attempts in a row ended without a word and without an epoch to show for it, the last on "
                    f"{newest.host} at {newest.at}. Most often the memory was too small; see what ended them (kubectl describe "
                    "pod, dmesg), then start again")
    return ""
