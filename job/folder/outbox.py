"""Writes objects in the background, so that neither a slow store nor an outage stops the training."""

import threading
import time
from collections.abc import Callable

from job.errors import JobError, SweepRemoved, TakenOver, TryAgain
from job.folder.storage import Folder


class Outbox:
    """Writes objects from a thread of its own, so that the caller never waits for the store.

    A newer write replaces an older one of the same name, so the queue holds at most one object per name. A failed write
    is reported once through `warn` and retried. `flush` waits, and raises the last failure after `patience_seconds`.
    `guard` is called before each write; it raises if this process may not write, now or ever again. `core_seconds`
    holds the processor time of each name's last write, without the time of waiting for the store.
    """

    def __init__(self, folder: Folder, warn: Callable[[str], None], guard: Callable[[], None] = lambda: None) -> None:
        self.folder, self.warn, self.guard = folder, warn, guard
        self.core_seconds: dict[str, float] = {}
        self._waiting: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._busy = self._closed = False
        self._failure: JobError | None = None
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._send_all, name="outbox", daemon=True)
        self._thread.start()

    def put(self, name: str, data: bytes) -> None:
        """Queue an object to be written, and return at once."""
        with self._changed:
            self._waiting[name] = data
            self._changed.notify_all()

    def _send_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                name = next(iter(self._waiting))
                data, self._busy = self._waiting.pop(name), True
            failure = self._send(name, data)
            with self._changed:
                if failure:
                    is_final = isinstance(failure, TakenOver | SweepRemoved)
                    if name not in self._warned and not self._failure and not is_final:
                        self._warned.add(name)
                        self.warn(f"{failure} (for now, training continues and the write is retried)")
                    self._waiting.setdefault(name, data)
                else:
                    self._warned.discard(name)
                self._failure, self._busy = failure, False
                self._changed.notify_all()
                if failure:
                    self._changed.wait_for(lambda: self._closed, timeout=2.0)

    def _send(self, name: str, data: bytes) -> JobError | None:
        began = time.thread_time()
        try:
            self.guard()
            self.folder.write(name, data)
        except JobError as error:
            return error
        except MemoryError:
            return TryAgain(f"{name}: memory ran out while it was written")
        self.core_seconds[name] = time.thread_time() - began
        return None

    def flush(self, patience_seconds: Callable[[], float]) -> None:
        """Wait until everything is written, for at most `patience_seconds()`, which may change during the wait.

        Raises the last failure after that time, or at once if waiting does not help (access denied).
        """
        started = time.monotonic()
        with self._changed:
            while self._waiting or self._busy:
                self._changed.wait(timeout=0.5)
                if self._failure and not isinstance(self._failure, TryAgain):
                    raise self._failure
                if time.monotonic() - started > patience_seconds() and (self._waiting or self._busy):
                    raise self._failure or TryAgain(f"{self.folder.uri}: the storage did not accept the files within "
                                                    f"{patience_seconds():.0f} s; start again")

    def close(self) -> None:
        """Stop the thread and drop what is still queued; call flush first."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=5)
