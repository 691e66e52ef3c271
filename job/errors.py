"""Errors that a user can act on. The exit code of each says whether trying again can help."""

import os
import re

URI = re.compile(r"([a-z][a-z0-9+.-]*://)([^\s\"'<>`)]*)", re.IGNORECASE)
SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# A shorter value may be a part of any word.
LEAST_SECRET = 8


def redacted(text: str) -> str:
    """Return a text without the secrets of the environment, and its URIs without user info and query."""
    for name in SECRET_VARIABLES:
        if len(secret := os.environ.get(name, "")) >= LEAST_SECRET:
            text = text.replace(secret, "***")
    return URI.sub(lambda match: match[1] + bare(match[2]), text)


def bare(rest: str) -> str:
    """Return what follows :// without user info and query; a `?` without `=` after it is a part of the path."""
    authority = rest.partition("/")[0]
    port = authority.rpartition(":")[2] if ":" in authority else "0"
    # A password may hold a slash, though it should be written as %2F.
    user_info, _, _host = (authority if port.isdecimal() or "@" in authority else rest).rpartition("@")
    rest = rest[len(user_info) + 1:] if user_info else rest
    path, _, query = rest.partition("?")
    return path if "=" in query else rest


class JobError(Exception):
    """Its message says what happened, where, and what to do; the process ends with `exit_code`.

    Messages are printed and stored, so they hold no secret.
    """

    exit_code = 70

    def __init__(self, *parts: object) -> None:
        super().__init__(*(redacted(part) if isinstance(part, str) else part for part in parts))


class BadData(JobError):
    """The images or labels cannot be used as they are."""

    exit_code = 65


class MissingInput(JobError):
    """A file or folder that the user named does not exist."""

    exit_code = 66


class SweepRemoved(JobError):
    """The sweep folder, or the part that this process works in, was removed meanwhile.

    Not TryAgain: whoever tries again would make half a sweep anew, which nobody asked for.
    """

    exit_code = 66


class OutOfMemory(JobError):
    """The GPU, or the machine, has too little memory for this trial."""

    exit_code = 71


class TryAgain(JobError):
    """Storage is unreachable, throttled or full; the same command may work later."""

    exit_code = 75


class GpuFailed(TryAgain):
    """The GPU failed, and refuses all further work of this process: it has to end as if it had been killed."""


class TakenOver(JobError):
    """The process was silent for so long that another one has taken over its work."""

    exit_code = 75


class AccessDenied(JobError):
    """Credentials are missing or wrong, or do not permit this."""

    exit_code = 77


class BadConfig(JobError):
    """The grid or an option is wrong, or contradicts the sweep folder."""

    exit_code = 78


class Stopped(JobError):
    """A signal asked the process to stop; its state has been saved."""

    exit_code = 143
