"""One trial among several processes: they wait, die, wake up late and take over, and one row is left."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from job.data.pack import read_passport
from job.folder import attempts
from job.folder.attempts import Attempt, as_json, attempt_file, now
from job.folder.grid import parse_grid
from job.folder.local import LocalFolder
from job.folder.storage import open_folder
from job.process import process_id
from job.training.rungs import Race
from support import S3, Grid, job, start_job, wait_for_line

pytestmark = pytest.mark.slow


def test_trial_that_dies_for_ever_becomes_a_failed_row_and_may_be_run_again(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
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
    waited = [out for out in outs if "is working on it" in out]
    assert len(trained) == len(waited) == 1 and "already done" in waited[0]
    found = s3.client().list_objects_v2(Bucket="bucket", Prefix="two/trials/1/attempts/")["Contents"]
    assert [item["Key"] for item in found] == ["two/trials/1/attempts/0001.json"]


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
        wait_for_line(waiting, "is working on it")
        file.write(b"these are no weights")
    outs = [process.communicate(timeout=100)[0] for process in (trying, waiting)]
    assert trying.returncode == 65 and waiting.returncode and all("not a state dict" in out for out in outs), outs
    assert [path.name for path in (sweep / "trials" / "1" / "attempts").iterdir()] == ["0001.json"]
    assert not list((sweep / "trials" / "1").glob("failed-*"))


def test_process_that_was_frozen_gives_way_to_the_one_that_took_over(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
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
    wait_for_line(second, "resumes after epoch")
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
    assert all("sorted by val_acc" in out for out in outs)
    assert not list((sweep / "trials").glob("*/attempts/0002.json"))


def test_trial_that_is_killed_again_and_again_but_gets_on_is_not_given_up(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    assert job("prepare", shapes, sweep, "--grid", make_grid(lr=[0.01], epochs=[4000], batch_size=[2])).code == 0
    epoch = 0
    for _ in range(3):
        process = start_job("train", sweep, "--trial", "1")
        wait_for_line(process, f"epoch {epoch + 3}/4000")
        process.kill()
        process.wait()
        epoch = len((sweep / "trials" / "1" / "epochs.csv").read_text().splitlines()) - 1
    assert not attempts.too_many_deaths(open_folder(str(sweep)), "trials/1", 3)


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


def test_keys_that_may_not_write_fail_before_training(spare_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from job.errors import AccessDenied
    from job.training.claimed import run_trial
    from job.training.display import Display

    class ReadOnly(LocalFolder):
        def write(self, name: str, data: bytes) -> None:
            raise AccessDenied("read only")

    (spare_sweep / "trials" / "1" / "row.json").unlink()
    (spare_sweep / "trials" / "1" / "last.pt").unlink()
    folder = ReadOnly(str(spare_sweep))
    passport = read_passport(folder)
    assert passport
    trial = parse_grid((spare_sweep / "grid.csv").read_text())[0]
    began = time.monotonic()
    with pytest.raises(AccessDenied), Display(Console(quiet=True)) as display:
        run_trial(folder, [trial], passport, display, threading.Event(), {}, Race(folder, "off", display.say))
    assert time.monotonic() - began < 60
