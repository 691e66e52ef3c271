"""A sweep whose Jobs were made from a grid that is not in its folder; and what waits for Jobs that do not come."""

from pathlib import Path

import pytest
import yaml

from job.folder.attempts import Attempt, as_json, attempt_file
from job.folder.grid import known_trials
from job.folder.local import LocalFolder
from job.folder.storage import Folder, open_folder
from job.results import gather as gathering
from job.results import waiting
from support import S3, Grid, job, start_job, wait_for_line

IMAGE = ("--image", "registry.example/trialgrid@sha256:" + "0" * 64)


@pytest.fixture
def begun(shapes: Path, s3_here: S3, request: pytest.FixtureRequest) -> Folder:
    """Trial 1 has a row, trial 2 failed, and 3 was interrupted; there is no grid."""
    sweep = open_folder(f"s3://bucket/{request.node.name}")
    small = ("--image-size", "40", "--batch-size", "8", "--epochs", "1", "--images", shapes)
    assert job("train", sweep.uri, "--trial", "1", *small, "--weights", "none", **s3_here.env).code == 0
    assert job("train", sweep.uri, "--trial", "2", *small, "--weights", "/no/such.pt", **s3_here.env).code == 66
    made = Attempt(host="node-7/pod-x", at="2026-01-01T00:00:00+00:00", settings={"trial": "3", "lr": 0.5, "epochs": 9})
    sweep.write(attempt_file("trials/3", 1), as_json(made))
    return sweep


def test_status_rerun_and_gather_know_the_trials_that_have_begun(begun: Folder, s3_here: S3) -> None:
    status = job("status", begun.uri, **s3_here.env)
    assert status.code == 0 and "1 done, 1 failed, 1 interrupted" in status.out and "there is no grid.csv" in status.err
    again = job("rerun", begun.uri, "--failed", "--missing", *IMAGE, **s3_here.env)
    args = {item["metadata"]["labels"]["trialgrid/trial"]: item["spec"]["template"]["spec"]["containers"][0]["args"]
            for item in yaml.safe_load_all(again.out)}
    assert again.code == 0 and args.keys() == {"2", "3"} and args["3"][2:8] == [
        "--trial", "3", "--lr", "0.5", "--epochs", "9"]
    assert job("gather", begun.uri, **s3_here.env).code == 0


def test_gather_that_watches_gathers_without_a_grid_and_ends_by_the_grid_that_comes(
        begun: Folder, s3_here: S3, make_grid: Grid) -> None:
    gather = start_job("gather", begun.uri, "--watch", **s3_here.env)
    wait_for_line(gather, "workbook:")
    wait_for_line(gather, "it is not known which trials are to come")
    begun.write("grid.csv", make_grid(lr=[0.01] * 2, epochs=[1] * 2).read_bytes())
    gather.communicate(timeout=60)
    assert gather.returncode == 0


@pytest.mark.parametrize("settings", [
    {}, {"trial": "4"}, {"trial": "3", "epochs": "9"}, {"trial": "3", "epochs": -1}, {"trial": "3", "lr": [1]}])
def test_attempt_with_settings_of_no_trial_names_none(settings: dict[str, object], tmp_path: Path) -> None:
    sweep = LocalFolder(str(tmp_path))
    for name, found in (("1", {"trial": "1", "epochs": 3}), ("3", settings)):
        sweep.write(attempt_file(f"trials/{name}", 1), as_json(Attempt(settings=found)))
    assert [trial.trial for trial in known_trials(sweep)] == ["1"]


def test_gather_says_that_nothing_trains_what_it_waits_for_and_ends_when_that_leaves_the_grid(
        three_rows: LocalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(gathering, "WAIT_SECONDS", 0.01)
    said: list[str] = []
    lines = three_rows.read("grid.csv").decode().splitlines()
    stopped = Attempt(state="stopped", cause="no usable AWS credentials")

    def person(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            three_rows.write(attempt_file("trials/4", 1), as_json(stopped))
        else:
            three_rows.write("grid.csv", "\n".join(lines[:-1]).encode())

    assert list(gathering.wait_for_rows(three_rows, person)) == [3]
    assert len(said) == 2 and "have no row: 4 (not begun)" in said[0]
    assert "4 (stopped: no usable AWS credentials)" in said[1] and "--missing" in said[1]
