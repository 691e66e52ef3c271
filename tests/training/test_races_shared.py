"""A race among several processes, or of one that is killed: the same trials stop, whoever trains them."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from races import NAMES, outcome, statuses
from support import job, row, start_job, wait_for_line

pytestmark = pytest.mark.slow
# A resnet18 that forgets what it learned.
SLOW = "1,1.0,9,constant,8,40,none,resnet18,100-50-25-12-6,0"


def test_a_race_that_is_killed_and_stopped_ends_the_same(
        raced: Path, shapes: Path, race_grid: Path, tmp_path: Path) -> None:
    for line, number in (("trial 6 (6 of 10)  epoch 1/9", signal.SIGKILL), ("epoch 3/9", signal.SIGTERM),
                         ("epoch 5/9", signal.SIGKILL)):
        process = start_job("sweep", "--images", shapes, "--grid", race_grid, "--race", tmp_path / "sweep")
        wait_for_line(process, line)
        os.kill(process.pid, number)
        process.communicate(timeout=60)
    done = job("sweep", tmp_path / "sweep")
    assert done.code == 0, done.err
    assert all(outcome(tmp_path / "sweep", name) == outcome(raced, name) for name in NAMES)


def test_a_damaged_row_of_one_trial_is_no_failure_of_the_others(
        raced: Path, shapes: Path, race_grid: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    process = start_job("sweep", "--images", shapes, "--grid", race_grid, "--race", sweep)
    wait_for_line(process, "trial 2 (2 of 10)  epoch 1/9")
    damaged = sweep / "trials" / "10" / "row.json"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_text("{")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 78 and "delete it to train the trial again" in out and "FAILED" not in out, out
    assert [*sweep.glob("trials/*/row.json")] == [damaged]
    damaged.unlink()
    assert job("sweep", sweep).code == 0
    assert all(outcome(sweep, name) == outcome(raced, name) for name in NAMES)


@pytest.mark.parametrize("kind", ["workers", "machines"])
def test_several_processes_decide_as_one_does(kind: str, raced: Path, shapes: Path, race_grid: Path,
                                              tmp_path: Path) -> None:
    args = ("sweep", "--images", shapes, "--grid", race_grid, "--race", tmp_path / "sweep")
    if kind == "workers":
        done = job(*args, "--workers", 3)
        assert done.code == 0, done.err
    else:
        both = [start_job(*args), start_job(*args)]
        for process in both:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, out + err
    assert all(outcome(tmp_path / "sweep", name) == outcome(raced, name) for name in NAMES)


def test_jobs_of_single_trials_wait_for_nobody_and_stop_late_ones(
        never_raced: Path, shapes: Path, race_grid: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    assert job("prepare", shapes, sweep, "--grid", race_grid).code == 0
    for name in NAMES:
        done = job("train", sweep, "--trial", name, "--race")
        assert done.code == 0, done.err
    ended = statuses(sweep)
    # The first three meet nobody, and so run to their ends.
    assert [ended[name] for name in NAMES[:3]] == ["done"] * 3 and ended["10"] == "raced"
    seen = {name: set(row(sweep, name)["race"]["seen"]) for name in NAMES if ended[name] == "raced"}
    assert all(found == {str(number) for number in range(1, int(name) + 1)} - {
        other for other in NAMES if ended[other] == "raced" and row(sweep, other)["epochs_run"] < row(sweep, name)[
            "epochs_run"]} for name, found in seen.items())
    for name in (name for name, status in ended.items() if status == "done"):
        found = outcome(sweep, name)
        assert {key: found[key] for key in found if not key.endswith(".json")} == outcome(never_raced, name), name
    # A trial that was raced is done: its Job, run again, trains nothing, and with --no-race it trains on.
    again = job("train", sweep, "--trial", "10")
    assert again.code == 0 and "already raced" in again.out
    on = job("train", sweep, "--trial", "10", "--no-race")
    assert on.code == 0 and outcome(sweep, "10")["best.safetensors"] == outcome(never_raced, "10")["best.safetensors"]


def test_a_trial_looks_after_each_epoch_and_stops_once_others_put_it_out(
        shapes: Path, race_grid: Path, raced: Path, tmp_path: Path) -> None:
    """Trial 1, a slow one, trains alone; the rungs of the others come while it is beyond its own."""
    sweep, text = tmp_path / "sweep", race_grid.read_text()
    (tmp_path / "g.csv").write_text(text.replace("1,0.5,9,constant,8,16,none,mlp,16,0", SLOW, 1))
    assert job("prepare", shapes, sweep, "--grid", tmp_path / "g.csv").code == 0
    process = start_job("train", sweep, "--trial", "1", "--race")
    wait_for_line(process, "epoch 3/9")
    process.send_signal(signal.SIGSTOP)
    for name in NAMES[1:]:
        shutil.copytree(raced / "trials" / name / "rungs", sweep / "trials" / name / "rungs")
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    found = row(sweep, "1")
    assert found["status"] == "raced" and 2 < found["epochs_run"] < 9 and found["race"]["epoch"] == 2
    assert set(found["race"]["seen"]) == set(NAMES)
