"""TensorBoard of a sweep that is under way, and the local copy that it reads."""

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job.cluster.board import mirror
from job.errors import TryAgain
from job.folder.storage import open_folder
from support import S3, Grid, job, start_job


def ask(url: str, body: Any = None) -> Any:
    """A JSON answer of the server."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_tensorboard_shows_each_trial_as_one_run_with_its_settings_and_follows_the_sweep(
        shapes: Path, make_grid: Grid, s3: S3) -> None:
    uri = "s3://bucket/board"
    assert job("prepare", shapes, uri, "--grid", make_grid(lr=[0.02, 0.01], epochs=[2, 2]), **s3.env).code == 0
    assert job("train", uri, "--trial", "1", **s3.env).code == 0
    process = start_job("tensorboard", uri, "--port", "0", **s3.env)
    assert process.stdout
    line = next(line for line in process.stdout if "TensorBoard of" in line)
    url = re.search(r"http://\S+", line)
    assert url and uri in line
    root = url[0].rstrip("/")
    try:
        wait_until(lambda: ask(f"{root}/data/runs") == ["1"])
        assert job("train", uri, "--trial", "2", **s3.env).code == 0
        wait_until(lambda: ask(f"{root}/data/runs") == ["1", "2"])
        tags = ask(f"{root}/data/plugin/scalars/tags")
        assert tags.keys() == {"1", "2"}
        assert {"loss/train", "loss/val", "acc/train", "acc/val", "lr"} <= tags["1"].keys()
        points = ask(f"{root}/data/plugin/scalars/scalars?run=1&tag=loss%2Fval")
        assert [step for _, step, _ in points] == [1, 2]
        layout = ask(f"{root}/data/plugin/custom_scalars/layout")
        charts = {chart["title"]: chart["multiline"]["tag"] for chart in layout["category"][0]["chart"]}
        assert charts == {"loss": ["loss/train", "loss/val"], "accuracy": ["acc/train", "acc/val"]}

        def learning_rates() -> set[float]:
            groups = ask(f"{root}/data/plugin/hparams/session_groups", {
                "experimentName": "", "allowedStatuses": ["STATUS_SUCCESS", "STATUS_RUNNING", "STATUS_UNKNOWN"],
                "colParams": [], "startIndex": 0, "sliceSize": 100})
            return {group["hparams"]["lr"] for group in groups["sessionGroups"]}

        wait_until(lambda: learning_rates() == {0.02, 0.01})
    finally:
        process.terminate()
        # Shown where the test fails.
        print(process.communicate(timeout=30)[0])
    assert process.returncode == 143


def wait_until(happens: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.3)


def test_tensorboard_on_a_taken_port_or_a_server_that_is_down_says_so(cluster_sweep: str, s3: S3) -> None:
    port = s3.env["AWS_ENDPOINT_URL"].rpartition(":")[2]
    taken = job("tensorboard", cluster_sweep, "--port", port, "--host", "127.0.0.1", **s3.env)
    assert taken.code == 78 and port in taken.err and "Traceback" not in taken.err
    assert job("tensorboard", cluster_sweep, **{**s3.env, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}).code == 75


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_mirror_copies_what_is_new_removes_what_is_gone_and_leaves_no_half_file(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, target = open_folder(str(tmp_path / "sweep")), tmp_path / "mirror"
    target.mkdir()
    for trial, number in (("a", 0), ("a", 1), ("b", 0)):
        sweep.write(f"trials/{trial}/events/{number}", b"x")
    sweep.write("trials/a/row.json", b"{}")
    assert mirror(sweep, target) == 3
    assert mirror(sweep, target) == 0
    assert files_under(target) == ["a/0", "a/1", "b/0"]
    sweep.delete("trials/a/events/1")
    sweep.write("trials/b/events/1", b"y")

    def broken(name: str, path: Path) -> None:
        path.write_bytes(b"ha")
        raise TryAgain("lost in the middle")

    monkeypatch.setattr(sweep, "fetch", broken)
    with pytest.raises(TryAgain):
        mirror(sweep, target)
    monkeypatch.undo()
    assert mirror(sweep, target) == 1
    assert files_under(target) == ["a/0", "b/0", "b/1"]
