"""Errors that a user can act on. The exit code of each says whether trying again can help."""


class JobError(Exception):
    """Its message says what happened, where, and what to do; the process ends with `exit_code`."""

    exit_code = 70


class BadData(JobError):
    """The images or labels cannot be used as they are."""

    exit_code = 65


class MissingInput(JobError):
    """A file or folder that the user named does not exist."""

    exit_code = 66


class OutOfMemory(JobError):
    """The GPU has too little memory for this trial."""

    exit_code = 71


class TryAgain(JobError):
    """Storage is unreachable, throttled or full; the same command may work later."""

    exit_code = 75


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
