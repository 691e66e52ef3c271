"""How long to wait for storage that does not answer, or that denies what it allowed before."""

import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from job.errors import TakenOver, TryAgain
from job.folder.escape import lines_for_terminal

STORAGE_PATIENCE_SECONDS = 600.0
# A token that is being renewed is denied for some seconds; a wrong key is denied for ever.
DENIED_SECONDS = 60.0
PAUSE_SECONDS = 2.0

Answer = TypeVar("Answer")


def patience_seconds(most: float = STORAGE_PATIENCE_SECONDS) -> float:
    """Return how long to wait for storage: `most`, or TRIALGRID_PATIENCE if that is set and less."""
    try:
        return max(0.0, min(most, float(os.environ.get("TRIALGRID_PATIENCE") or most)))
    except ValueError:
        return most


def note(text: str) -> None:
    """Print a line about a wait on standard error, unless --quiet is given."""
    if not os.environ.get("TRIALGRID_QUIET"):
        print(f"job: {lines_for_terminal(text)}", file=sys.stderr, flush=True)


def patiently(call: Callable[[], Answer], say: Callable[[str], None] = note,
              pause: Callable[[float], None] = time.sleep) -> Answer:
    """Return what `call` returns; call it again for up to 10 minutes while it raises TryAgain, then raise that.

    pause: sleeps, and raises whatever shall end the wait, such as Stopped.
    """
    began, said = time.monotonic(), False
    while True:
        try:
            return call()
        except TakenOver:
            raise
        except TryAgain as error:
            left = patience_seconds() - (time.monotonic() - began)
            # A subclass says that something other than the storage is in the way.
            if type(error) is not TryAgain or left <= 0:
                raise
            if not said:
                said = True
                say(f"{error} (waiting for it, {left / 60:.0f} minutes at most)")
            pause(min(PAUSE_SECONDS, left))
