"""Who may work: one process at a time, replaced when it dies, and no process for ever."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from conftest import S3, job, start_job, wait_for_line
from job.errors import BadConfig, BadData, JobError, TakenOver, TryAgain
from job.folder import attempts
from job.folder import lease as leases
from job.folder.attempts import Attempt, as_json, attempt_file, now
from job.folder.lease import Busy, DiedTooOften, Lease, claim, held
from job.folder.outbox import Outbox
from job.folder.storage import Folder, open_folder
from job.process import is_gone, process_id

Grid = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "sweep"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol's clock, twenty times as fast."""
    for name in ("BEAT_SECONDS", "SILENT_SECONDS", "MARGIN_SECONDS", "LONG_SILENT_SECONDS", "POLL_SECONDS"):
        for module in (attempts, leases):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(module, name) / 20)


def take(folder: Folder, *, wait: bool = True) -> Lease:
    lease = claim(folder, "trials/1", lambda: False, lambda text: None, wait=wait)
    assert lease
    return lease


def leave_behind(folder: Folder, number: int, **what: object) -> None:
    """The file of an attempt of another host, silent for long."""
    gone = {"at": "2026-01-01T00:00:00+00:00", "host": "node-9/pod", "process": "other-boot ns 1 1", **what}
    folder.write(attempt_file("trials/1", number), as_json(Attempt(**gone)))  # type: ignore[arg-type]


def last(folder: Folder) -> Attempt:
    found = attempts.last_attempt(folder, "trials/1")
    assert found
    return found


def test_of_many_claims_at_once_one_wins_on_disk_and_in_s3(folder: Folder, s3_here: S3) -> None:
    for place in (folder, open_folder("s3://bucket/claims")):
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(lambda number, place=place: place.write_once(
                attempt_file("trials/1", 1), as_json(Attempt(host=str(number)))), range(16)))
        assert won.count(True) == 1 and last(place).host == str(won.index(True))


def test_live_attempt_keeps_others_out_until_it_ends(folder: Folder) -> None:
    first = take(folder)
    script = ("import sys; from job.folder.attempts import *; from job.folder.lease import *; from job.folder.storage import open_folder\n"
              "claim(open_folder(sys.argv[1]), 'trials/1', lambda: False, print, wait=False)")
    other = subprocess.run([sys.executable, "-c", script, folder.uri], capture_output=True, text=True, check=False)
    assert "Busy" in other.stderr and "is at work on it" in other.stderr
    first.end("stopped")
    assert take(folder).number == 2


def test_process_that_is_gone_is_known_by_more_than_its_number() -> None:
    assert not is_gone(process_id())
    boot, namespace, pid, start = process_id().split()
    assert is_gone(f"{boot} {namespace} {pid} {int(start) - 1}")
    with subprocess.Popen(["sleep", "60"]) as child:
        name = process_id(child.pid)
        assert not is_gone(name)
        child.kill()
    assert is_gone(name)
    # The first process of another container, or of another machine: who knows.
    assert not is_gone(f"{boot} pid:[1] 1 1") and not is_gone(f"elsewhere {namespace} {pid} 1") and not is_gone("")


def test_claim_sees_what_an_attempt_left_behind_that_ends_just_before_it(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
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
    watch, beat = leases.Watch(), Attempt(at=(datetime.now(UTC) - timedelta(seconds=skew)).isoformat())
    while not watch.is_silent(1, beat):
        clock[0] += 0.5
    assert clock[0] - 1000 > attempts.SILENT_SECONDS > attempts.SILENT_SECONDS - leases.MARGIN_SECONDS
    assert is_reset_by_a_beat(watch, clock)


def is_reset_by_a_beat(watch: leases.Watch, clock: list[float]) -> bool:
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


SAME: dict[str, object] = {"from_epoch": 2, "epoch": 2}
DEAD = [{**SAME, "step": 5}, SAME, SAME]


@pytest.mark.parametrize(("deaths", "enough"), [
    (DEAD, True), (DEAD[:2], False), ([{}, {}, {}], True),
    # Each got somewhere: the next began later.
    ([{"from_epoch": 0, "epoch": 0}, {"from_epoch": 3, "epoch": 3}, {"from_epoch": 8, "epoch": 8}], False),
    # The last got somewhere.
    ([*DEAD[:2], {"from_epoch": 2, "epoch": 3}], False),
    # Each says that it finished an epoch, which never reached the storage.
    ([{"from_epoch": 2, "epoch": 3}] * 4, True), ([{"from_epoch": 2, "epoch": 3}] * 3, False),
    # Died while loading, between others.
    ([DEAD[0], {}, DEAD[0]], True),
    # An orderly end breaks the row.
    ([*DEAD[:2], {"state": "stopped"}, DEAD[0]], False)])
def test_deaths_that_count_are_those_after_which_the_next_began_where_they_had(
        folder: Folder, deaths: list[dict[str, object]], enough: bool) -> None:
    for number, what in enumerate(deaths, 1):
        leave_behind(folder, number, **what)
    lease = take(folder)
    if enough:
        with pytest.raises(DiedTooOften, match=r"3 attempts in a row .* node-9"), held(lease):
            lease.check_deaths()
        assert last(folder).state == "failed"
        # Counted once: the next try is a new one.
        lease = take(folder)
    lease.check_deaths()
    lease.end("done")


def test_claim_that_can_never_be_made_says_what_is_in_the_way(folder: Folder, tmp_path: Path, quick: None) -> None:
    (tmp_path / "sweep" / "trials" / "1" / "attempts" / "0001.json").mkdir(parents=True)
    with pytest.raises(BadConfig, match=r"0001\.json: it is in the way"):
        take(folder)


def test_storage_that_overwrites_is_refused(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(name: str, data: bytes) -> bool:
        folder.write(name, data)
        return True

    monkeypatch.setattr(folder, "write_once", careless)
    with pytest.raises(BadConfig, match="conditional writes"):
        take(folder)


def test_stray_files_are_no_attempts_and_a_damaged_one_is_waited_for(folder: Folder, quick: None) -> None:
    for name in ("7.json", "0007", "٠٠٠٩.json", "0003.json.bak"):
        folder.write(f"trials/1/attempts/{name}", b"{}")
    take(folder).end("done")
    assert attempts.num_attempts(folder, "trials/1") == 1
    folder.write(attempt_file("trials/1", 2), b"{")
    with pytest.raises(Busy):
        take(folder, wait=False)
    began = time.monotonic()
    assert take(folder).number == 3 and time.monotonic() - began > 3


def test_trial_that_dies_for_ever_becomes_a_failed_row_and_may_be_run_again(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    grid = make_grid(lr=[0.01], epochs=[2], batch_size=[2])
    assert job("prepare", shapes, sweep, "--grid", grid).code == 0
    for number in (1, 2, 3):
        # As a process leaves it that the system ends while it loads.
        gone = Attempt(at=now(), host="node-9", process=process_id() + "0")
        open_folder(str(sweep)).write(attempt_file("trials/1", number), as_json(gone))
    assert job("train", sweep, "--trial", "1").code == 70
    row = json.loads((sweep / "trials" / "1" / "row.json").read_text())
    assert row["status"] == "failed" and "3 attempts in a row" in row["cause"] and "memory" in row["cause"]
    assert job("train", sweep, "--trial", "1").code == 0
    assert json.loads((sweep / "trials" / "1" / "row.json").read_text())["status"] == "done"
    assert "  5 " in job("status", sweep).out


def test_two_processes_on_one_trial_leave_one_row_and_the_second_waits(shapes: Path, make_grid: Grid, s3: S3) -> None:
    uri = "s3://bucket/two"
    grid = make_grid(lr=[0.02], epochs=[3], batch_size=[2])
    assert job("prepare", shapes, uri, "--grid", grid, **s3.env).code == 0
    both = [start_job("train", uri, "--trial", "1", **s3.env, NODE_NAME=f"node-{i}") for i in (1, 2)]
    outs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    trained = [out for out in outs if "epoch 3/3" in out]
    waited = [out for out in outs if "is at work on it" in out]
    assert len(trained) == len(waited) == 1 and "already done" in waited[0]
    keys = [item["Key"] for item in s3.client().list_objects_v2(Bucket="bucket", Prefix="two/trials/1/attempts/")["Contents"]]
    assert keys == ["two/trials/1/attempts/0001.json"]


def test_trial_that_fails_while_another_process_waits_is_not_tried_by_that_one(shapes: Path, make_grid: Grid,
                                                                               tmp_path: Path) -> None:
    sweep, weights = tmp_path / "s", tmp_path / "weights.pt"
    assert job("prepare", shapes, sweep, "--grid", make_grid(lr=[0.02], epochs=[1], weights=[weights])).code == 0
    # Whoever reads from it waits until it is written to.
    os.mkfifo(weights)
    both = [start_job("train", sweep, "--trial", "1") for _ in range(2)]
    with weights.open("wb") as file:
        # Open at both ends now, so one of them holds the trial.
        holder = json.loads((sweep / "trials" / "1" / "attempts" / "0001.json").read_text())["process"]
        trying, waiting = sorted(both, key=lambda process: process_id(process.pid) != holder)
        wait_for_line(waiting, "is at work on it")
        file.write(b"these are no weights")
    outs = [process.communicate(timeout=100)[0] for process in (trying, waiting)]
    assert trying.returncode == 65 and waiting.returncode and all("not a state dict" in out for out in outs), outs
    assert [path.name for path in (sweep / "trials" / "1" / "attempts").iterdir()] == ["0001.json"]
    assert not list((sweep / "trials" / "1").glob("failed-*"))


def test_process_that_was_frozen_gives_way_to_the_one_that_took_over(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    """A lost node that comes back: its process wakes up when another one trains, or has trained, the trial."""
    sweep = tmp_path / "s"
    grid = make_grid(lr=[0.02], epochs=[4000], batch_size=[2])
    process = start_job("sweep", "--images", shapes, "--grid", grid, sweep)
    wait_for_line(process, "epoch 2/4000")
    process.send_signal(signal.SIGSTOP)
    path = sweep / "trials" / "1" / "attempts" / "0001.json"
    # As if its process were known to be gone; waiting until it has been silent for long is another test's.
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "process": told["process"] + "0"}))
    second = start_job("train", sweep, "--trial", "1")
    wait_for_line(second, "goes on after epoch")
    process.send_signal(signal.SIGCONT)
    wait_for_line(process, "another one has taken over")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    second.send_signal(signal.SIGTERM)
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 143, out
    assert json.loads((sweep / "trials" / "1" / "attempts" / "0002.json").read_text())["state"] == "stopped"
    assert "stopped" in job("status", sweep).out


def test_trials_that_start_before_the_pack_share_one_builder_and_a_dead_one_is_replaced(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    sweep.mkdir()
    (sweep / "grid.csv").write_bytes(make_grid(lr=[0.02, 0.01], epochs=[1, 1]).read_bytes())
    os.mkfifo(tmp_path / "slow.csv")
    builder = start_job("prepare", tmp_path / "slow.csv", sweep)  # waits for its CSV for ever
    deadline = time.monotonic() + 60
    while not (sweep / "pack" / "attempts" / "0001.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    trials = [start_job("train", sweep, "--trial", str(i), "--images", shapes) for i in (1, 2)]
    for process in trials:
        wait_for_line(process, "pack: ")
    assert "the pack is being built" in job("status", sweep).out
    builder.kill()
    builder.wait()
    outs = [process.communicate(timeout=120)[0] for process in trials]
    assert [process.returncode for process in trials] == [0, 0], outs
    attempts = sorted(path.name for path in (sweep / "pack" / "attempts").glob("*.json"))
    assert attempts == ["0001.json", "0002.json"]
    assert json.loads((sweep / "pack" / "attempts" / "0002.json").read_text())["state"] == "done"


def test_two_machines_share_the_trials_of_one_sweep(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid, sweep = make_grid(lr=[0.02, 0.01, 0.03, 0.04], epochs=[3] * 4, batch_size=[2] * 4), tmp_path / "s"
    assert job("prepare", shapes, sweep, "--grid", grid).code == 0
    both = [start_job("sweep", sweep, NODE_NAME=f"node-{i}", OMP_NUM_THREADS="1") for i in (1, 2)]
    outs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    hosts = [json.loads((sweep / "trials" / str(i) / "row.json").read_text())["host"] for i in (1, 2, 3, 4)]
    assert set(hosts) == {"node-1", "node-2"}
    assert all("best trial" in out for out in outs)
    assert not list((sweep / "trials").glob("*/attempts/0002.json"))


def test_trial_that_is_killed_again_and_again_but_gets_on_is_not_given_up(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    assert job("prepare", shapes, sweep, "--grid", make_grid(lr=[0.01], epochs=[4000], batch_size=[2])).code == 0
    epoch = 0
    for _ in range(3):
        process = start_job("train", sweep, "--trial", "1")
        wait_for_line(process, f"epoch {epoch + 3}/4000")
        process.kill()
        process.wait()
        epoch = len((sweep / "trials" / "1" / "epochs.csv").read_text().splitlines()) - 1
    assert not attempts.deaths_in_vain(open_folder(str(sweep)), "trials/1", 3)


def test_images_that_cannot_be_packed_are_a_row_of_each_trial(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep, source = tmp_path / "s", tmp_path / "bad"
    sweep.mkdir()
    (sweep / "grid.csv").write_bytes(make_grid(lr=[0.02, 0.01], epochs=[1, 1]).read_bytes())
    for label in "ab":
        (source / label).mkdir(parents=True)
        for number in range(5):
            (source / label / f"{number}.jpg").write_bytes(b"no image")
    watch = start_job("gather", sweep, "--watch")
    for trial in ("1", "2"):
        done = job("train", sweep, "--trial", trial, "--images", source)
        assert done.code == 65 and "cannot be used" in done.err
        row = json.loads((sweep / "trials" / trial / "row.json").read_text())
        assert row["status"] == "failed" and "there is no pack: 10 of 10 images" in row["cause"]
    assert "2 failed" in job("status", sweep).out
    watch.communicate(timeout=60)
    assert job("train", sweep, "--trial", "1", "--images", shapes).code == 0


def test_waiter_ends_as_the_builder_did_that_it_waited_for(folder: Folder, quick: None) -> None:
    builder = take(folder)
    builder.attempt = replace(builder.attempt, process="elsewhere x 1 1")
    builder.beat()
    threading.Timer(1.0, lambda: builder.end("failed", "BadData: no good")).start()
    lease = take(folder)
    assert lease.waited_for and isinstance(attempts.failure_of(lease.waited_for), BadData)
    lease.end("done")
