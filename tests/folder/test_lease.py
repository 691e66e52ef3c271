"""Who may work: one process at a time, replaced when it dies; a process that lost its lease writes nothing."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from job.errors import BadConfig, BadData, JobError, TakenOver, TryAgain
from job.folder import attempts
from job.folder import lease as leases
from job.folder.attempts import Attempt, as_json, attempt_file, now
from job.folder.lease import Busy, claim, held
from job.folder.outbox import Outbox
from job.folder.storage import Folder, open_folder
from leases import last, take
from support import S3


def test_of_many_claims_at_once_one_wins_on_disk_and_in_s3(folder: Folder, s3_here: S3) -> None:
    for place in (folder, open_folder("s3://bucket/claims")):
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(lambda number, place=place: place.write_once(
                attempt_file("trials/1", 1), as_json(Attempt(host=str(number)))), range(16)))
        assert won.count(True) == 1 and last(place).host == str(won.index(True))


def test_live_attempt_keeps_others_out_until_it_ends(folder: Folder) -> None:
    first = take(folder)
    script = ("import sys; from job.folder.lease import claim; from job.folder.storage import open_folder\n"
              "claim(open_folder(sys.argv[1]), 'trials/1', lambda: False, print, wait=False)")
    other = subprocess.run([sys.executable, "-c", script, folder.uri], capture_output=True, text=True, check=False)
    assert "Busy" in other.stderr and "is working on it" in other.stderr
    first.end("stopped")
    assert take(folder).number == 2


def test_claim_sees_what_an_attempt_left_behind_that_ends_just_before_it(
        folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked before the look at the attempts, `finished` would be true too late, and the work done twice."""
    other, rows = take(folder), list[str]()
    look = folder.names

    def names(prefix: str) -> Iterator[str]:
        if not rows:
            rows.append("row")
            other.end("done")
        return look(prefix)

    monkeypatch.setattr(folder, "names", names)
    assert claim(folder, "trials/1", lambda: bool(rows), print) is None
    assert attempts.num_attempts(folder, "trials/1") == 1


def test_silent_attempt_of_another_host_is_replaced_and_notices_and_writes_no_more(folder: Folder, quick: None) -> None:
    first = take(folder)
    first.attempt = replace(first.attempt, process="other-boot ns 1 1", host="lost")
    first.beat()
    with pytest.raises(Busy):
        take(folder, wait=False)
    first._over.set()  # as if the node were cut off
    began = time.monotonic()
    second = take(folder)
    # A whole time of silence on the watcher's own clock, which is longer than the holder is sure of its lease.
    assert time.monotonic() - began > 3 and second.number == 2
    with pytest.raises(TakenOver):
        first.guard()
    said: list[str] = []
    outbox = Outbox(folder, said.append, first.guard)
    outbox.put("trials/1/last.pt", b"stale")
    with pytest.raises(TakenOver):
        outbox.flush(lambda: 5.0)
    outbox.close()
    assert not folder.exists("trials/1/last.pt")
    first.end("failed", "taken over")
    assert last(folder).state == "running"
    second.end("done")


@pytest.mark.parametrize("skew", [-45, 0, 45])
def test_watcher_whose_clock_is_off_waits_as_long_as_any_other(monkeypatch: pytest.MonkeyPatch, skew: int) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    watch, beat = attempts.Watch(), Attempt(at=(datetime.now(UTC) - timedelta(seconds=skew)).isoformat())
    while not watch.is_silent(1, beat):
        clock[0] += 0.5
    assert clock[0] - 1000 > attempts.SILENT_SECONDS > attempts.SILENT_SECONDS - leases.MARGIN_SECONDS
    assert is_reset_by_a_beat(watch, clock)


def is_reset_by_a_beat(watch: attempts.Watch, clock: list[float]) -> bool:
    clock[0] += 1
    return not watch.is_silent(1, Attempt(at=now()))


def test_holder_that_cannot_beat_stops_writing_before_others_may_take_over(folder: Folder, quick: None,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    lease = take(folder)

    def down(name: str, data: bytes = b"") -> bool:
        raise TryAgain("down")

    monkeypatch.setattr(lease.folder, "names", down)
    lease.guard()
    time.sleep((60 - 10) / 20 + 0.2)
    with pytest.raises(TryAgain, match="down"):
        lease.guard()
    monkeypatch.undo()
    # Its heart was stopped with it: asked again, it beats first.
    lease.guard()
    lease.end("done")


def test_how_a_block_ends_is_how_its_attempt_does(folder: Folder) -> None:
    for number, (error, state) in enumerate([(None, "done"), (TryAgain("x"), "stopped"), (SystemExit(143), "stopped"),
                                             (JobError("x"), "failed"), (ValueError("x"), "failed")], 1):
        try:
            with held(take(folder)) as lease:
                assert lease.number == number
                if error:
                    raise error
        except BaseException as raised:  # noqa: BLE001
            assert raised is error
        assert last(folder).state == state


def test_claim_that_can_never_be_made_says_what_is_in_the_way(folder: Folder, tmp_path: Path, quick: None) -> None:
    (tmp_path / "sweep" / "trials" / "1" / "attempts" / "0001.json").mkdir(parents=True)
    with pytest.raises(BadConfig, match=r"0001\.json: something is in the way"):
        take(folder)


def test_storage_that_overwrites_is_refused(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(name: str, data: bytes) -> bool:
        folder.write(name, data)
        return True

    monkeypatch.setattr(folder, "write_once", careless)
    with pytest.raises(BadConfig, match="conditional writes"):
        take(folder)


def test_waiter_ends_as_the_builder_did_that_it_waited_for(folder: Folder, quick: None) -> None:
    builder = take(folder)
    builder.attempt = replace(builder.attempt, process="elsewhere x 1 1")
    builder.beat()
    threading.Timer(1.0, lambda: builder.end("failed", "BadData: no good")).start()
    lease = take(folder)
    assert lease.waited_for and isinstance(attempts.failure_of(lease.waited_for), BadData)
    lease.end("done")
