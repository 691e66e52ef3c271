"""Errors that a person can act on, each with the exit code that says whether trying again can help."""

class JobError(Exception):
    """What happened, where, and what to do; `exit_code` is what the process answers."""

    exit_code = 70


class BadData(JobError):
    """The images or labels cannot be used as they are."""

    exit_code = 65


class MissingInput(JobError):
    """Something that was named does not exist."""

    exit_code = 66


class OutOfMemory(JobError):
    """The accelerator has too little memory for this trial."""

    exit_code = 71


class TryAgain(JobError):
    """Storage is unreachable, throttled or full: the same command may work later."""

    exit_code = 75


class TakenOver(JobError):
    """The process was silent for so long that another one has gone on with its work."""

    exit_code = 75


class AccessDenied(JobError):
    """Credentials are missing, wrong, or not allowed to do this."""

    exit_code = 77


class BadConfig(JobError):
    """The grid or an option is wrong, or contradicts what the sweep folder holds."""

    exit_code = 78


class Stopped(JobError):
    """A signal asked the process to stop; its state has been saved."""

    exit_code = 143
