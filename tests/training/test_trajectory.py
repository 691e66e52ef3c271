"""Trials that differ in epochs alone are trained once, and each row is what the trial alone would have written."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from job.record import CLOCKS_AND_HOST
from support import Grid, job, start_job, wait_for_line

pytestmark = pytest.mark.slow


def files(sweep: Path, trial: str) -> dict[str, Any]:
    """What a trial leaves behind that does not depend on the clock."""
    folder = sweep / "trials" / trial
    row = json.loads((folder / "row.json").read_text())
    found: dict[str, Any] = {"row": {key: value for key, value in row.items() if key not in CLOCKS_AND_HOST}}
    results = [folder / name for name in ("best.safetensors", "predictions.csv")]
    found |= {path.name: path.read_bytes() for path in results if path.exists()}
    found["events"] = sorted(path.name for path in (folder / "events").glob("*.trialgrid"))
    figures = [line.split(",")[:6] for line in (folder / "epochs.csv").read_text().splitlines()]
    return found | {"epochs": figures}


def trained_by(sweep: Path) -> list[str]:
    return [json.loads((sweep / "trials" / str(i) / "row.json").read_text())["trained_by"] for i in range(1, 10)]


def test_rows_and_weights_of_a_trajectory_are_those_of_its_trials_alone_to_the_last_bit(
        nine_alone: Path, shapes: Path, tmp_path: Path) -> None:
    done = job("sweep", "--images", shapes, "--grid", nine_alone / "grid.csv", tmp_path / "sweep")
    assert done.code == 0, done.err
    assert [len(re.findall(rf"trial {i} \(\d of 9\)  epoch ", done.out)) for i in (1, 2, 3)] == [0, 7, 0]
    for i in range(1, 10):
        assert files(tmp_path / "sweep", str(i)) == files(nine_alone, str(i)), i
    # Early stopping and divergence end the shorter trials together with the longest.
    assert trained_by(tmp_path / "sweep") == ["2", "", "2", "6", "6", "", "8", "", ""]


def test_trajectory_that_is_killed_and_stopped_on_its_way_writes_the_same_rows(
        nine_alone: Path, shapes: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    args = ("train", sweep, "--trial", "2", "--shorter", "1=2", "--shorter", "3=4", "--lr", "0.02", "--epochs", "7",
            "--batch-size", "8", "--image-size", "40", "--weights", "none", "--images", shapes)
    for line, number in (("epoch 2/7", signal.SIGKILL), ("epoch 4/7", signal.SIGTERM)):
        process = start_job(*args)
        wait_for_line(process, line)
        os.kill(process.pid, number)
        process.communicate(timeout=60)
    done = job(*args)
    assert done.code == 0, done.err
    for trial in ("1", "2", "3"):
        assert files(sweep, trial) == files(nine_alone, trial), trial


def test_shorter_trial_that_was_added_later_is_passed_through_or_trained_alone(
        nine_alone: Path, shapes: Path, tmp_path: Path) -> None:
    sweep, grid = tmp_path / "sweep", tmp_path / "grid.csv"
    header, *lines = (nine_alone / "grid.csv").read_text().splitlines()
    grid.write_text(f"{header}\n{lines[1]}\n")
    process = start_job("sweep", "--images", shapes, "--grid", grid, sweep)
    wait_for_line(process, "epoch 3/7")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    grid.write_text("\n".join([header, *lines[:3]]) + "\n")
    done = job("sweep", "--grid", grid, sweep)
    assert done.code == 0, done.err
    # The run was beyond the second epoch by then, and before the fourth.
    assert "trial 1 (3 of 3)  epoch 2/2" in done.out
    assert [json.loads((sweep / "trials" / i / "row.json").read_text())["trained_by"] for i in "123"] == ["", "", "2"]
    for trial in ("1", "2", "3"):
        assert files(sweep, trial) == files(nine_alone, trial), trial


def test_failure_of_the_longest_leaves_the_others_their_own_try(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    """A row of other settings stands in the way of the longest alone."""
    grid, sweep = make_grid(lr=[0.02, 0.02], epochs=[1, 2], weights=["/no/such.pt"] * 2), tmp_path / "sweep"
    done = job("sweep", "--images", shapes, "--grid", grid, sweep)
    assert done.code == 66 and "2 of 2 trials failed" in done.err
    for trial in ("1", "2"):
        assert "/no/such.pt" in json.loads((sweep / "trials" / trial / "row.json").read_text())["cause"]
