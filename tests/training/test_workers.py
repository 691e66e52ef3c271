"""Several processes of one machine share the trials of a sweep."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from support import Grid, job, row, start_job, wait_for_line

pytestmark = pytest.mark.slow


def attempts(sweep: Path, trial: int) -> list[dict[str, Any]]:
    # A process that is killed as it writes leaves a file of another name.
    files = sorted((sweep / "trials" / str(trial) / "attempts").glob("*.json"))
    return [json.loads(path.read_text()) for path in files]


def processes(sweep: Path, trials: range) -> set[str]:
    return {attempt["process"] for trial in trials for attempt in attempts(sweep, trial)}


def test_two_workers_share_the_trials_and_a_failure_is_tried_once(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.02, 0.01, 0.03, 0.04], epochs=[2, 2, 2, 2], weights=["none", "none", "gone.pt", "none"])
    done = job("sweep", "--images", shapes, "--grid", grid, "--workers", 2, tmp_path / "s")
    assert done.code == 66 and "1 of 4 trials failed" in done.err and "gone.pt" in done.err, done.err
    assert "2 workers on" in done.out and done.out.count("trial 3  FAILED") == 1 and "workbook: " in done.out
    assert [row(tmp_path / "s", trial)["status"] for trial in (1, 2, 3, 4)] == ["done", "done", "failed", "done"]
    assert len(processes(tmp_path / "s", range(1, 5))) == 2
    assert [len(attempts(tmp_path / "s", trial)) for trial in (1, 2, 3, 4)] == [1, 1, 1, 1]


def test_trials_that_had_failed_before_are_tried_once_more_by_one_worker(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    # Their causes are more than a pipe holds at once (64 KiB), and all but one are the same.
    weights = ["gone.pt", *["lost/" * 700 + "lost.pt"] * 24]
    grid = make_grid(lr=[0.001 * number for number in range(1, 26)], epochs=[1] * 25, weights=weights)
    for tries in (1, 2):
        done = job("sweep", "--images", shapes, "--grid", grid, "--workers", 2, tmp_path / "s")
        assert "2 workers on" in done.out and done.code == 66, done.err
        assert re.search("25 of 25 trials failed; the first: .*gone.pt", done.err), done.err
        assert [len(attempts(tmp_path / "s", trial)) for trial in range(1, 26)] == [tries] * 25, done.out


def test_killed_worker_is_replaced_by_another_and_sigterm_reaches_them(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.02, 0.01], epochs=[2, 60])
    process = start_job("sweep", "--images", shapes, "--grid", grid, "--workers", 2, tmp_path / "s")
    wait_for_line(process, "trial 2 (1 of 2)  epoch 1/60")
    while not (tmp_path / "s" / "trials" / "2" / "last.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    os.kill(int(attempts(tmp_path / "s", 2)[0]["process"].split()[-2]), signal.SIGKILL)
    wait_for_line(process, "resumes after epoch")
    wait_for_line(process, "trial 2 (2 of 2)  epoch ")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert row(tmp_path / "s", 1)["epochs_run"] == 2 and not (tmp_path / "s" / "trials" / "2" / "row.json").exists()
    assert attempts(tmp_path / "s", 2)[1]["state"] == "stopped"
