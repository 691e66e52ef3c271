"""Benchmarks, run with tiny sizes on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, row

pytestmark = pytest.mark.slow


def test_benchmark_of_a_gpu_runs_to_its_end_and_says_what_it_skipped(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/bench.py", "gpu", "--dry", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False,
                          env={**os.environ, "TRIALGRID_DEVICE": "cpu"})
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out" / "gpu.md").read_text()
    assert table in done.stdout and "Skipped: grid of timm: it is not installed." in table
    assert "Skipped: tests/training/test_gpu.py: " in table
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    figures = {line["what"]: line["value"] for line in lines if line["table"] == "gpu"}
    assert all(value > 0 for value in figures.values())
    assert {"steps, batch 4: images/s", "steps, batch 4, torch renders: images/s", "grid: times the study's loop",
            "epoch: times study", "2 workers: images/s of all"} <= figures.keys()
    assert sum(line["table"] == "start" for line in lines) == 2
    speeds = [line for line in lines if line.get("what", "").endswith("images/s") and "bottleneck" in line]
    assert len(speeds) == 3 and all(line["bottleneck"] in json.loads(line["milliseconds_of"]) for line in speeds)


def test_benchmark_of_a_gpu_needs_one(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "scripts/bench.py", "gpu", str(tmp_path)], cwd=ROOT, text=True,
                          capture_output=True, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2 and "there is no GPU here; --dry runs everything on the CPU" in done.stderr


def test_benchmarks_of_cheaper_epochs_compare_with_what_they_replace(shapes: Path) -> None:
    lines = []
    for command in (["features", str(shapes), "--image-size", "40", "--without", "1"],
                    ["train-size", "--source", str(shapes), "--image-size", "60", "--epochs", "2", "--seeds", "1"]):
        done = subprocess.run([sys.executable, "scripts/bench.py", *command], cwd=ROOT, text=True, capture_output=True,
                              check=False, env=dict(os.environ))
        assert done.returncode == 0, done.stderr
        lines += [json.loads(line) for line in done.stdout.splitlines()]
    probes, *sizes = lines
    assert probes["trials"] == 20 and probes["times"] > 0 and probes["seconds_a_trial_on_images"] > 0
    assert [line["train_size"] for line in sizes] == [60, 52, 47, 43]
    assert sizes[0]["only_full_size_right"] == sizes[0]["only_smaller_right"] == 0 and sizes[0]["speed"] == 1
    assert all(line["num_val"] == 15 and 0 < line["p"] <= 1 for line in sizes)


def test_benchmark_of_the_race_compares_it_with_the_full_grid(shapes: Path, tmp_path: Path) -> None:
    command = [sys.executable, "scripts/bench.py", "race", str(tmp_path), "--images", str(shapes), "--lr", "0.1",
               "--epochs", "9", "--num-seeds", "1", "--against", ""]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    race, *others = [line for line in lines if "seed" in line]
    # Of four trials three go on after 2 of 9 epochs; then the grid is completed.
    assert race["who"] == "race" and race["share_of_epochs"] == round((3 * 9 + 2) / 36, 4) and race["ended"] == 3
    assert sorted(json.loads((tmp_path / "0-raced.json").read_text()).values()) == [2, 9, 9, 9]
    assert all(row(tmp_path / "0", trial)["status"] == "done" for trial in range(1, 5))
    assert not race["simulated"] and others and all(line["simulated"] for line in others)
    assert all(line["seeds"] == 1 and line["trials"] == 4 for line in lines if "seed" not in line)
