"""A folder that says what is read and written, for `--verbose`."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from job.errors import JobError
from job.folder.escape import lines_for_terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from job.folder.storage import Folder

Answer = TypeVar("Answer")


class TracedFolder:
    """The verbs of another folder; each prints one line on standard error: what, bytes, seconds, or the error."""

    def __init__(self, folder: "Folder") -> None:
        self.folder, self.uri = folder, folder.uri

    def _traced(self, verb: str, name: str, call: "Callable[[], Answer]", num_bytes: int | None = None) -> Answer:
        began, outcome = time.monotonic(), "interrupted"
        try:
            answer = call()
            outcome = "no" if answer is False else "ok" if num_bytes is None else f"{num_bytes} bytes"
            if isinstance(answer, bytes | list):
                outcome = f"{len(answer)} {'bytes' if isinstance(answer, bytes) else 'names'}"
            return answer
        except JobError as error:
            outcome = f"{type(error).__name__}: {error}"
            raise
        finally:
            line = f"{verb} {self.uri}/{name}  {outcome}  {time.monotonic() - began:.3f} s"
            # One write, so that the lines of threads and processes do not mix.
            sys.stderr.write(lines_for_terminal(line) + "\n")
            sys.stderr.flush()

    def read(self, name: str) -> bytes:
        return self._traced("read", name, lambda: self.folder.read(name))

    def write(self, name: str, data: bytes) -> None:
        self._traced("write", name, lambda: self.folder.write(name, data), len(data))

    def write_once(self, name: str, data: bytes) -> bool:
        return self._traced("write once", name, lambda: self.folder.write_once(name, data), len(data))

    def exists(self, name: str) -> bool:
        return self._traced("exists", name, lambda: self.folder.exists(name))

    def names(self, prefix: str = "") -> Iterator[str]:
        yield from self._traced("list", prefix, lambda: list(self.folder.names(prefix)))

    def delete(self, name: str) -> None:
        self._traced("delete", name, lambda: self.folder.delete(name))

    def fetch(self, name: str, path: Path) -> None:
        self._traced("fetch", name, lambda: self.folder.fetch(name, path))

    def read_part(self, name: str, start: int, num_bytes: int) -> bytes:
        return self._traced("read part", name, lambda: self.folder.read_part(name, start, num_bytes))
