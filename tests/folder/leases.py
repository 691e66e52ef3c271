"""Claims on the work of trial 1, as tests make them."""

from job.folder.attempts import Attempt, last_attempt
from job.folder.lease import Lease, claim
from job.folder.storage import Folder


def take(folder: Folder, *, wait: bool = True) -> Lease:
    """Claim the trial and say nothing about it."""
    lease = claim(folder, "trials/1", lambda: False, lambda text: None, wait=wait)
    assert lease
    return lease


def last(folder: Folder) -> Attempt:
    """Return the trial's newest attempt."""
    found = last_attempt(folder, "trials/1")
    assert found
    return found
