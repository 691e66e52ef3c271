"""Writes in the background: they outlive an outage, and say once what stands in their way."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from job.errors import JobError, TryAgain
from job.folder.local import LocalFolder
from job.folder.outbox import Outbox


class Flaky(LocalFolder):
    """A folder whose storage is away until `back` is set."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.back = threading.Event()

    def write(self, name: str, data: bytes) -> None:
        if not self.back.is_set():
            raise TryAgain("the storage cannot be reached")
        super().write(name, data)


@pytest.fixture
def flaky(tmp_path: Path) -> Iterator[Flaky]:
    yield Flaky(str(tmp_path))


def test_outbox_outlives_an_outage_and_writes_the_newest(flaky: Flaky) -> None:
    said: list[str] = []
    outbox = Outbox(flaky, said.append)
    for number in range(5):
        outbox.put("last.pt", f"{number}".encode())
    outbox.put("epochs.csv", b"table")
    deadline = time.monotonic() + 10
    while not said and time.monotonic() < deadline:
        time.sleep(0.01)
    flaky.back.set()
    outbox.flush(lambda: 30)
    outbox.close()
    assert flaky.read("last.pt") == b"4"
    assert flaky.read("epochs.csv") == b"table"
    assert len(said) == 1 and "training continues" in said[0]


def test_outbox_outlives_a_lack_of_memory(tmp_path: Path) -> None:
    class Short(LocalFolder):
        tries = 0

        def write(self, name: str, data: bytes) -> None:
            self.tries += 1
            if self.tries == 1:
                raise MemoryError
            super().write(name, data)

    said: list[str] = []
    folder = Short(str(tmp_path))
    outbox = Outbox(folder, said.append)
    outbox.put("last.pt", b"1")
    outbox.flush(lambda: 30)
    outbox.close()
    assert folder.read("last.pt") == b"1" and len(said) == 1 and "last.pt: memory ran out" in said[0]


def test_outbox_raises_what_stands_in_the_way_when_its_patience_ends(flaky: Flaky) -> None:
    outbox = Outbox(flaky, lambda text: None)
    outbox.put("row", b"1")
    with pytest.raises(JobError, match="cannot be reached"):
        outbox.flush(lambda: 0.3)
    outbox.close()


def test_file_that_does_not_fit_is_said_once_though_smaller_ones_get_through(tmp_path: Path) -> None:
    class Small(LocalFolder):
        tries = 0

        def write(self, name: str, data: bytes) -> None:
            if len(data) > 10:
                self.tries += 1
                raise TryAgain("No space left on device")
            super().write(name, data)

    folder, said = Small(str(tmp_path)), list[str]()
    outbox = Outbox(folder, said.append)
    outbox.put("last.pt", b"x" * 100)
    deadline = time.monotonic() + 20
    while folder.tries < 3 and time.monotonic() < deadline:
        outbox.put("epochs.csv", b"small")
        time.sleep(0.05)
    with pytest.raises(TryAgain, match="No space left"):
        outbox.flush(lambda: 0.1)
    outbox.close()
    assert folder.tries >= 3 and len(said) == 1 and folder.read("epochs.csv") == b"small"
