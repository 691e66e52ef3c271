"""Attempts: which process works on a trial or on the pack, and which ones did, recorded in the sweep folder.

Each attempt is one small file, WORK/attempts/0001.json. A conditional write creates it, so of many processes exactly
one gets the next number, and with it the work. Only that process rewrites the file, as its heartbeat. A process that
falls silent is replaced under the next number; it finds that number at its next beat and writes no more.
"""

import contextlib
import json
import os
import re
import socket
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

from job.errors import BadConfig, JobError, redacted
from job.folder.layout import PACK, read_json
from job.folder.storage import Folder
from job.process import is_gone, own_process


def host_name() -> str:
    """Return the Kubernetes node and pod where they are known, else the name of the host."""
    names = [os.environ.get("NODE_NAME"), os.environ.get("POD_NAME")]
    return "/".join(filter(None, names)) or socket.gethostname()


# An attempt without a beat for this long counts as dead.
SILENT_SECONDS = 60.0
# Clocks of two hosts may differ, so a waiting process measures silence on its own; but no clock is off by this much.
LONG_SILENT_SECONDS = 3600.0
FILE_PATTERN = re.compile(r"([0-9]{4,})\.json", re.ASCII)
# After this many attempts in a row that died without an epoch, the work counts as failed.
MOST_DEATHS = 3


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One process's turn; epochs and steps are None before the first step.

    state: stays running where the process was killed; died where it could say so, because its GPU failed.
    """

    state: Literal["running", "stopped", "died", "failed", "done"] = "running"
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
    # The shorter trials of the trajectory; this attempt writes their rows too.
    shorter: list[str] = field(default_factory=list)

    @property
    def seconds_silent(self) -> float:
        """Seconds since its last beat, by its host's clock and this one's; SILENT_SECONDS if `at` is not a time."""
        with contextlib.suppress(ValueError, TypeError):
            return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(self.at)).total_seconds())
        return SILENT_SECONDS

    @property
    def is_alive(self) -> bool:
        """Whether it is running, according to its file and the clocks."""
        return self.state == "running" and self.seconds_silent < SILENT_SECONDS and not is_gone(self.process)

    @property
    def is_cut_off(self) -> bool:
        """Whether no word of its own ended it, if it is not alive: it was killed, or its GPU failed."""
        return self.state in ("running", "died")

    @property
    def has_progress(self) -> bool:
        """Whether it has finished an epoch, according to its last beat."""
        return self.epoch != self.from_epoch


def new_attempt(settings: dict[str, Any], **other_fields: Any) -> Attempt:
    """Return an attempt of this process that begins now; of URIs in its settings no key is stored."""
    stored = {name: redacted(value) if isinstance(value, str) else value for name, value in settings.items()}
    return Attempt(host=host_name(), process=own_process(), began_at=now(), at=now(), settings=stored, **other_fields)


def now() -> str:
    """Return the time in UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def attempt_file(work: str, number: int) -> str:
    """Return the name of an attempt's file; `work` is trials/NAME or pack."""
    return f"{work}/attempts/{number:04d}.json"


def num_attempts(folder: Folder, work: str) -> int:
    """Return the number of the last attempt, or 0 before the first."""
    prefix = f"{work}/attempts/"
    found = [FILE_PATTERN.fullmatch(name.removeprefix(prefix)) for name in folder.names(prefix)]
    return max((int(match[1]) for match in found if match), default=0)


def read_attempt(folder: Folder, work: str, number: int) -> Attempt:
    """Return an attempt; a damaged file reads as an attempt that never sent a beat."""
    with contextlib.suppress(BadConfig):
        found = read_json(folder, attempt_file(work, number)) or {}
        kinds: dict[str, tuple[type, ...]] = {
            spec.name: (int, type(None)) if "int" in str(spec.type) else (type(getattr(Attempt(), spec.name)),)
            for spec in fields(Attempt)}
        known = {name: found[name] for name in kinds if name in found}
        if known.keys() == kinds.keys() and all(isinstance(value, kinds[name]) for name, value in known.items()):
            return Attempt(**known)
    return Attempt(host="an unknown host (the attempt's file is damaged)")


def last_attempt(folder: Folder, work: str) -> Attempt | None:
    """Return the newest attempt, or None before the first."""
    number = num_attempts(folder, work)
    return read_attempt(folder, work, number) if number else None


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


def as_json(attempt: Attempt) -> bytes:
    """Return the content of an attempt's file."""
    return (json.dumps(asdict(attempt)) + "\n").encode()


def failure_of(attempt: Attempt) -> JobError:
    """Return the error that ended an attempt whose state is failed."""
    name, _, text = attempt.cause.partition(": ")
    kinds: dict[str, type[JobError]] = {kind.__name__: kind for kind in JobError.__subclasses__()}
    return kinds[name](text) if name in kinds else JobError(attempt.cause)


def too_many_deaths(folder: Folder, work: str, number: int) -> str:
    """Return an error message if the last MOST_DEATHS attempts up to this one died without finishing an epoch; else ''.

    An attempt has achieved an epoch if the next attempt began later than it did. The last attempt has no next one, so
    its own beats decide whether it counts as a death; they never end the row, because the checkpoint may be lost.
    """
    num_deaths, following, newest = 0, None, None
    while number > 0:
        attempt = read_attempt(folder, work, number)
        achieved = (attempt.has_progress if following is None or following.from_epoch is None
                    else attempt.from_epoch is not None and following.from_epoch != attempt.from_epoch)
        if not attempt.is_cut_off or (achieved and following):
            return ""
        num_deaths, following, newest, number = num_deaths + (not achieved), attempt, newest or attempt, number - 1
        if num_deaths >= MOST_DEATHS:
            goal = "the pack" if work == PACK else "an epoch"
            cause = newest.cause.partition(";")[0]
            cause = f": {cause}" if cause else ". The usual cause is too little memory"
            return (f"{num_deaths} attempts in a row died before they finished {goal}, the last on {newest.host} at "
                    f"{newest.at}{cause}; find out what ended them (kubectl describe pod, dmesg), then start again")
    return ""
