"""Trials that differ in epochs alone are trained once, and each row is what the trial alone would have written."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import job, start_job, wait_for_line
from job.record import CLOCKS_AND_HOST
from job.trial import Trial, trajectories

Grid = Callable[..., Path]
COLUMNS: dict[str, list[Any]] = {
    "lr": [0.02, 0.02, 0.02, 0.03, 0.03, 0.03, "1e18", "1e18", 0.02],
    "epochs": [2, 7, 4, 4, 30, 40, 3, 6, 3],
    "schedule": ["step", "step", "step", "constant", "constant", "constant", "step", "step", "cosine"],
    "stop_monitor": ["none", "none", "none", "val_loss", "val_loss", "val_loss", "none", "none", "none"],
    "stop_patience": [0, 0, 0, 1, 1, 1, 0, 0, 0]}


def files(sweep: Path, trial: str) -> dict[str, Any]:
    """What a trial leaves behind that does not depend on the clock."""
    folder = sweep / "trials" / trial
    row = json.loads((folder / "row.json").read_text())
    found: dict[str, Any] = {"row": {key: value for key, value in row.items() if key not in CLOCKS_AND_HOST}}
    found |= {name: (folder / name).read_bytes() for name in ("best.safetensors", "predictions.csv") if (folder / name).exists()}
    found["events"] = sorted(path.name for path in (folder / "events").glob("*.trialgrid"))
    figures = [line.split(",")[:6] for line in (folder / "epochs.csv").read_text().splitlines()]
    return found | {"epochs": figures}


def trained_by(sweep: Path) -> list[str]:
    return [json.loads((sweep / "trials" / str(i) / "row.json").read_text())["trained_by"] for i in range(1, 10)]


@pytest.fixture(scope="module")
def alone(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid with each trial trained on its own."""
    folder = tmp_path_factory.mktemp("alone")
    lines = ["trial,batch_size,image_size,weights," + ",".join(COLUMNS)]
    lines += [f"{i + 1},8,40,none," + ",".join(str(values[i]) for values in COLUMNS.values()) for i in range(9)]
    (folder / "grid.csv").write_text("\n".join(lines) + "\n")
    done = job("sweep", "--images", shapes, "--grid", folder / "grid.csv", "--independent", folder / "sweep")
    assert done.code == 0, done.err
    assert trained_by(folder / "sweep") == [""] * 9
    return folder / "sweep"


def test_rows_and_weights_of_a_trajectory_are_those_of_its_trials_alone_to_the_last_bit(
        alone: Path, shapes: Path, tmp_path: Path) -> None:
    done = job("sweep", "--images", shapes, "--grid", alone / "grid.csv", tmp_path / "sweep")
    assert done.code == 0, done.err
    assert done.out.count("trial 2  epoch ") == 7 and "trial 1  epoch " not in done.out and "trial 3  epoch " not in done.out
    for i in range(1, 10):
        assert files(tmp_path / "sweep", str(i)) == files(alone, str(i)), i
    # Early stopping and divergence end the shorter trials together with the longest.
    assert trained_by(tmp_path / "sweep") == ["2", "", "2", "6", "6", "", "8", "", ""]


def test_trajectory_that_is_killed_and_stopped_on_its_way_writes_the_same_rows(alone: Path, shapes: Path, tmp_path: Path) -> None:
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
        assert files(sweep, trial) == files(alone, trial), trial


def test_shorter_trial_that_was_added_later_is_passed_through_or_trained_alone(alone: Path, shapes: Path, tmp_path: Path) -> None:
    sweep, grid = tmp_path / "sweep", tmp_path / "grid.csv"
    header, *lines = (alone / "grid.csv").read_text().splitlines()
    grid.write_text(f"{header}\n{lines[1]}\n")
    process = start_job("sweep", "--images", shapes, "--grid", grid, sweep)
    wait_for_line(process, "epoch 3/7")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    grid.write_text("\n".join([header, *lines[:3]]) + "\n")
    done = job("sweep", "--grid", grid, sweep)
    assert done.code == 0, done.err
    # The run was beyond the second epoch by then, and before the fourth.
    assert "trial 1  epoch 2/2" in done.out
    assert [json.loads((sweep / "trials" / i / "row.json").read_text())["trained_by"] for i in "123"] == ["", "", "2"]
    for trial in ("1", "2", "3"):
        assert files(sweep, trial) == files(alone, trial), trial


def test_failure_of_the_longest_leaves_the_others_their_own_try(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    """A row of other settings stands in the way of the longest alone."""
    grid, sweep = make_grid(lr=[0.02, 0.02], epochs=[1, 2], weights=["/no/such.pt"] * 2), tmp_path / "sweep"
    done = job("sweep", "--images", shapes, "--grid", grid, sweep)
    assert done.code == 66 and "2 of 2 trials failed" in done.err
    for trial in ("1", "2"):
        assert "/no/such.pt" in json.loads((sweep / "trials" / trial / "row.json").read_text())["cause"]


def test_trajectories_are_what_differs_in_epochs_alone_under_a_schedule_that_ignores_the_total() -> None:
    trials = [Trial(trial="a", epochs=9), Trial(trial="b", epochs=3), Trial(trial="c", epochs=3, lr=0.1),
              Trial(trial="d", epochs=3, schedule="cosine"), Trial(trial="e", epochs=5, schedule="cosine"),
              Trial(trial="f", epochs=5, seed=1), Trial(trial="g", epochs=3)]
    assert [[trial.trial for trial in group] for group in trajectories(trials)] == [["b", "g", "a"], ["c"], ["d"], ["e"], ["f"]]


def test_shorter_options_that_make_no_trajectory_are_refused(tmp_path: Path) -> None:
    for text, part in (("2=9", "fewer than 9"), ("two", "NAME=EPOCHS"), ("a/b=2", "--trial")):
        done = job("train", tmp_path, "--trial", "1", "--epochs", "9", "--shorter", text)
        assert done.code == 78 and part in done.err, done.err
    twice = job("train", tmp_path, "--trial", "1", "--epochs", "9", "--shorter", "1=3")
    assert twice.code == 78 and "twice" in twice.err
    cosine = job("train", tmp_path, "--trial", "1", "--epochs", "9", "--schedule", "cosine", "--shorter", "2=3")
    assert cosine.code == 78 and "cosine" in cosine.err


def test_plan_says_what_will_run_and_what_it_costs_and_trains_nothing(alone: Path, shapes: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    done = job("plan", "--images", shapes, "--grid", alone / "grid.csv", sweep, "--price", "3600")
    assert done.code == 0, done.err
    assert "9 of 9 trials are left, 99 epochs; 56 are to be trained, 43 saved" in done.out
    runs = {line.split()[0]: line.split("  ")[0:3] for line in done.out.splitlines() if re.match(r" \d ", line)}
    assert runs.keys() == {"2", "6", "8", "9"}
    seconds = re.search(r"about (\d+)s on this machine, about (\d+\.\d+) at 3600 an hour", done.out)
    assert seconds and float(seconds[2]) == pytest.approx(float(seconds[1]), abs=0.6)
    assert not (sweep / "trials").exists() and not (sweep / "grid.csv").exists()
    alone_too = job("plan", "--grid", alone / "grid.csv", sweep, "--independent")
    assert "99 are to be trained, 0 saved" in alone_too.out
    assert "0 of 9 trials are left" in job("plan", alone).out
