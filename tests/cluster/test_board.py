"""TensorBoard of a sweep that is under way, and the local copy that it reads."""

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from job.cluster.board import mirror, update
from job.errors import TryAgain
from job.folder.local import LocalFolder
from job.folder.storage import open_folder
from job.trial import Trial
from support import S3, Grid, job, leave_row, make_epochs, start_job, wait_for_line

pytestmark = pytest.mark.slow


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
    root, first, second = url[0].rstrip("/"), "1 lr 0.02 epochs 2", "2 lr 0.01 epochs 2"
    try:
        wait_until(lambda: ask(f"{root}/data/runs") == [first])
        assert job("train", uri, "--trial", "2", **s3.env).code == 0
        wait_until(lambda: ask(f"{root}/data/runs") == [first, second])
        wait_until(lambda: ask(f"{root}/data/plugin/scalars/tags").keys() == {first, second})
        tags = ask(f"{root}/data/plugin/scalars/tags")
        curves = {"loss/train", "loss/val", "metrics/train_acc", "metrics/val_acc", "schedule/lr"}
        assert curves <= tags[first].keys() and min(tags[first]) == "loss/train"
        points = ask(f"{root}/data/plugin/scalars/scalars?run={quote(first)}&tag=loss%2Fval")
        assert [step for _, step, _ in points] == [1, 2]
        layout = ask(f"{root}/data/plugin/custom_scalars/layout")
        charts = {chart["title"]: chart["multiline"]["tag"] for chart in layout["category"][0]["chart"]}
        assert charts == {"loss": ["loss/train", "loss/val"], "accuracy": ["metrics/train_acc", "metrics/val_acc"]}

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


@pytest.mark.parametrize(("host", "port", "part"), [
    ("127.0.0.1", "{taken}", "Address already in use; give a free port"), ("999.1.1.1", "0", "no such address"),
    ("", "0", "no such address"), ("192.0.2.1", "0", "assign requested address")])
def test_tensorboard_where_it_cannot_listen_says_so(
        host: str, port: str, part: str, cluster_sweep: str, s3: S3) -> None:
    taken = s3.env["AWS_ENDPOINT_URL"].rpartition(":")[2]
    done = job("tensorboard", cluster_sweep, "--host", host, "--port", port.format(taken=taken), **s3.env)
    assert done.code == 78 and "--host" in done.err and part in done.err and "Traceback" not in done.err


@pytest.mark.parametrize(("sweep", "changed", "part"), [
    ("cluster", {"AWS_SECRET_ACCESS_KEY": "other"}, "access denied"),
    ("cluster", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot be reached"),
    ("none", {}, "there is no such folder, or it is empty")])
def test_tensorboard_of_a_sweep_that_it_cannot_read_serves_says_why_and_waits(
        sweep: str, changed: dict[str, str], part: str, cluster_sweep: str, s3: S3) -> None:
    assert cluster_sweep == "s3://bucket/cluster"
    process = start_job("tensorboard", f"s3://bucket/{sweep}", "--port", "0",
                        **{**s3.env, **changed, "TRIALGRID_PATIENCE": "1"})
    try:
        wait_for_line(process, part)
        wait_for_line(process, "TensorBoard of")
        time.sleep(6)
        assert process.poll() is None
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and part not in out, "said once"


def test_tensorboard_begins_with_a_sweep_that_comes_later(tmp_path: Path) -> None:
    said: list[str] = []
    sweep, target = open_folder(str(tmp_path / "sweep")), tmp_path / "mirror"
    target.mkdir()
    text = update(sweep, target, {}, said.append, "")
    assert "there is no such folder" in text and update(sweep, target, {}, said.append, text) == text and len(said) == 1
    sweep.write("trials/a/events/0", b"x")
    assert update(sweep, target, {}, said.append, text) == "" and files_under(target) == ["a/0"] and len(said) == 1


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_mirror_copies_what_is_new_removes_what_is_gone_and_leaves_no_half_file(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, target = open_folder(str(tmp_path / "sweep")), tmp_path / "mirror"
    target.mkdir()
    for trial, number in (("a", 0), ("a", 1), ("b", 0)):
        sweep.write(f"trials/{trial}/events/{number}", b"x")
    sweep.write("trials/a/row.json", b"{}")
    assert mirror(sweep, target, {}) == 3
    assert mirror(sweep, target, {}) == 0
    assert files_under(target) == ["a/0", "a/1", "b/0"]
    sweep.delete("trials/a/events/1")
    sweep.write("trials/b/events/1", b"y")

    def broken(name: str, path: Path) -> None:
        path.write_bytes(b"ha")
        raise TryAgain("lost in the middle")

    monkeypatch.setattr(sweep, "fetch", broken)
    with pytest.raises(TryAgain):
        mirror(sweep, target, {})
    monkeypatch.undo()
    assert mirror(sweep, target, {}) == 1
    assert files_under(target) == ["a/0", "b/0", "b/1"]


def test_runs_are_named_by_lr_and_epochs_and_keep_their_names(three_rows: LocalFolder, tmp_path: Path) -> None:
    target = tmp_path / "mirror"
    runs: dict[str, str] = {}
    target.mkdir()
    three_rows.write("trials/2/events/0", b"x")
    three_rows.write("trials/other/events/0", b"x")
    assert mirror(three_rows, target, runs) == 2
    assert files_under(target) == ["2 lr 0.1 epochs 4/0", "other/0"]
    leave_row(three_rows, Trial(trial="other", lr=1e-05, epochs=7), make_epochs(7, 0.5))
    three_rows.write("grid.csv", b"damaged")
    three_rows.write("trials/3/events/0", b"x")
    three_rows.write("trials/2/events/1", b"x")
    assert mirror(three_rows, target, runs) == 2
    assert files_under(target) == ["2 lr 0.1 epochs 4/0", "2 lr 0.1 epochs 4/1", "3 lr 0.01 epochs 5/0", "other/0"]
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    mirror(three_rows, fresh, {})
    assert "other lr 1e-05 epochs 7/0" in files_under(fresh), "without the grid, by the row"


def test_settings_of_another_trial_in_a_row_name_no_run(tmp_path: Path) -> None:
    """A row is a file that anybody may have written: its settings must be those of a trial."""
    sweep, target = LocalFolder(str(tmp_path / "sweep")), tmp_path / "mirror"
    target.mkdir()
    for name, settings in (("a", {"trial": "a", "lr": "../../x", "epochs": 1}), ("b", {"trial": "../x", "lr": 0.1})):
        sweep.write(f"trials/{name}/row.json", json.dumps({**settings, "status": "done"}).encode())
        sweep.write(f"trials/{name}/events/0", b"x")
    assert mirror(sweep, target, {}) == 2
    assert files_under(target) == ["a/0", "b/0"]


def test_mirror_writes_nowhere_but_in_its_folder(tmp_path: Path) -> None:
    """A bucket may hold any keys; on this disk some of these names would lead elsewhere, or be no names."""
    keys = ["trials/../events/x", "trials/./events/x", "trials//events/x", "trials/a/events/..", "trials/a/events/.x",
            "trials/a/events/", "trials/..\\b/events/x", "trials/a/events/..\\x", "trials/a/events/x\0y",
            "trials/a\nb/events/x", f"trials/a/events/{'x' * 300}", f"trials/{'a' * 300}/events/x",
            "/etc/trials/a/events/x", "trials/a/events/x/y", "trials/a/events/-x", "trials/-rf/events/x"]

    class Bucket(LocalFolder):
        def names(self, prefix: str = "") -> Iterator[str]:
            yield from [*keys, "trials/a/events/events.out.tfevents.0000000001.trialgrid"]

        def fetch(self, name: str, path: Path) -> None:
            path.write_bytes(b"x")

    target = tmp_path / "board" / "mirror"
    target.mkdir(parents=True)
    assert mirror(Bucket(str(tmp_path / "sweep")), target, {}) == 1
    assert files_under(tmp_path) == ["board/mirror/a/events.out.tfevents.0000000001.trialgrid"]


def test_mirror_of_a_bucket_with_an_odd_key_stays_in_its_folder(s3_here: S3, tmp_path: Path) -> None:
    client = s3_here.client()
    for key in ("trials/a/events/1", "trials/-rf/events/x", "trials/a/events/.x", "trials/a b/events/x"):
        client.put_object(Bucket="bucket", Key=f"odd/{key}", Body=b"x")
    (tmp_path / "mirror").mkdir()
    assert mirror(open_folder("s3://bucket/odd"), tmp_path / "mirror", {}) == 1
    assert files_under(tmp_path) == ["mirror/a/1"]
