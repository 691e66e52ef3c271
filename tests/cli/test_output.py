"""--quiet, --verbose and --json: what goes to which stream, for people and for programs."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from job.folder.local import LocalFolder
from job.trial import Trial
from support import ROOT, Grid, job, start_job, wait_for_line

DOCUMENT = ROOT / "docs" / "sweep-folder.md"


def documented() -> set[str]:
    """The keys that the documentation of --json and of row.json names; a trial's settings are the grid's columns."""
    return set(re.findall(r"`([a-z_0-9]+)`", DOCUMENT.read_text())) | {spec.name for spec in fields(Trial)}


def keys_of(found: object) -> set[str]:
    """Every key of an object and of the objects within it."""
    if isinstance(found, dict):
        return set(found).union(*map(keys_of, found.values()))
    return set().union(*map(keys_of, found)) if isinstance(found, list) else set()


def test_status_and_gather_as_json_say_what_the_tables_say(three_rows: LocalFolder) -> None:
    status, gathered = (json.loads(job(command, three_rows.uri, "--json").out) for command in ("status", "gather"))
    assert (status["command"], gathered["command"]) == ("status", "gather")
    assert status["sweep"] == gathered["sweep"] == three_rows.uri
    states = {item["trial"]: item["state"] for item in status["trials"]}
    assert states == {"1": "done", "2": "done", "3": "done", "4": "waiting"}
    assert [item["trial"] for item in gathered["trials"]] == ["2", "3", "1"] and gathered["best"] == "2"
    assert gathered["missing"] == ["4"] and Path(gathered["workbook"]).exists()
    best = {item["trial"]: item["best_val_acc"] for item in status["trials"]}
    assert all(best[item["trial"]] == item["best_val_acc"] for item in gathered["trials"])
    assert next(item for item in status["trials"] if item["trial"] == "4")["best_val_acc"] is None


def test_every_key_of_the_json_is_documented(three_rows: LocalFolder, finished: Path, shapes: Path) -> None:
    for done in (job("status", three_rows.uri, "--json"), job("gather", three_rows.uri, "--json"),
                 job("plan", finished, "--price", "2.5", "--json"), job("status", finished, "--json")):
        found = json.loads(done.out)
        found["trials"] = [{name: value for name, value in item.items() if name not in ("versions", "test_confusion")}
                           for item in found["trials"]]
        assert keys_of(found) <= documented(), keys_of(found) - documented()


def test_plan_as_json_leaves_standard_output_to_the_object(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.02, 0.02], epochs=[1, 3], model=["mlp"] * 2)
    done = job("plan", "--images", shapes, "--grid", grid, "--price", "2.5", tmp_path / "s", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["num_trials"], found["trials_left"], found["epochs_left"], found["epochs_saved"]) == (2, 2, 3, 1)
    assert [run["trials"] for run in found["runs"]] == [["1", "2"]] and found["runs"][0]["epoch_seconds"] > 0
    assert found["cost"] == pytest.approx(2.5 * found["seconds_left"] / 3600)
    assert "pack " in done.err


def test_quiet_sweep_prints_the_summary_alone_and_errors_still(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.02, 0.02], epochs=[1, 1], weights=["none", "/no/such.pt"])
    loud = job("sweep", "--images", shapes, "--grid", grid, tmp_path / "loud")
    quiet = job("sweep", "--images", shapes, "--grid", grid, tmp_path / "quiet", "--quiet")
    assert loud.code == quiet.code == 66
    assert "epoch 1/1" in loud.out and "pack " in loud.out
    assert "epoch 1/1" not in quiet.out and "pack " not in quiet.out
    assert "trial 1 (lr 0.02" in quiet.out and "/no/such.pt" in quiet.err
    assert job("prepare", shapes, tmp_path / "p", "-q").out == ""
    assert job("sample", tmp_path / "drawn", "--num", "20", TRIALGRID_QUIET="1").out == ""


def test_verbose_names_each_file_that_is_read_and_written(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid, sweep = make_grid(lr=[0.02], epochs=[1], model=["mlp"]), tmp_path / "s"
    done = job("sweep", "--images", shapes, "--grid", grid, sweep, "--verbose")
    assert done.code == 0, done.err
    assert re.search(rf"^read {grid}  \d+ bytes  \d+\.\d+ s$", done.err, re.MULTILINE)
    assert re.search(rf"^read {shapes}/disc/disc00.jpg  \d+ bytes", done.err, re.MULTILINE), "of decoding processes too"
    assert re.search(rf"^write once {sweep}/trials/1/row.json  \d+ bytes", done.err, re.MULTILINE)
    assert f"read {sweep}/pack/passport.json  MissingInput: " in done.err
    quiet = job("status", sweep)
    assert quiet.err == ""


def test_status_that_watches_as_json_prints_an_object_per_change(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    assert job("prepare", shapes, sweep, "--grid", make_grid(lr=[0.02], epochs=[1], model=["mlp"])).code == 0
    status = start_job("status", sweep, "--watch", "--json")
    wait_for_line(status, '"state": "waiting"')
    assert job("train", sweep, "--trial", "1").code == 0
    out, _ = status.communicate(timeout=60)
    last = [json.loads(line) for line in out.splitlines()][-1]
    assert status.returncode == 0 and last["trials"][0]["state"] == "done"
