"""What stands beside the trials in a cluster: TensorBoard, status and gather that follow a sweep, Jobs to run again."""

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import S3, job, start_job, wait_for_line
from job.cluster.board import mirror
from job.errors import TryAgain
from job.folder.attempts import Attempt, as_json, attempt_file, now
from job.folder.storage import open_folder

Grid = Callable[..., Path]
IMAGE = ("--image", "registry.example/trialgrid@sha256:" + "0" * 64)


@pytest.fixture(scope="module")
def sweep(shapes: Path, s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A sweep in S3: trial 1 done, 2 failed, 3 not begun, 4 under way on another node, 5 interrupted there."""
    lines = ["trial,lr,epochs,batch_size,image_size,weights", "1,0.02,2,8,40,none", "2,0.01,1,8,40,/no/such.pt"]
    lines += [f"{number},0.03,4,8,40,none" for number in (3, 4, 5)]
    path = tmp_path_factory.mktemp("grid") / "g.csv"
    path.write_text("\n".join(lines) + "\n")
    uri = "s3://bucket/cluster"
    assert job("prepare", shapes, uri, "--grid", path, **s3.env).code == 0
    assert job("train", uri, "--trial", "1", **s3.env).code == 0
    assert job("train", uri, "--trial", "2", **s3.env).code == 66
    beat = Attempt(host="node-7/pod-x", process="boot ns 1 1", from_epoch=0, epoch=2, step=1, num_steps=4, at=now())
    for trial, at in (("4", beat.at), ("5", "2026-01-01T00:00:00+00:00")):
        body = as_json(Attempt(**{**beat.__dict__, "at": at}))
        s3.client().put_object(Bucket="bucket", Key=f"cluster/{attempt_file(f'trials/{trial}', 1)}", Body=body)
    yield uri


def names_of(text: str) -> list[str]:
    return [item["metadata"]["labels"]["trialgrid/trial"] for item in yaml.safe_load_all(text) if item]


def test_status_tells_state_epoch_attempts_and_node_from_the_folder_alone(sweep: str, s3: S3) -> None:
    done = job("status", sweep, **s3.env)
    assert done.code == 0, done.err
    lines = {line.split()[0]: line.split() for line in done.out.splitlines() if re.match(r" [1-5] ", line)}
    assert [lines[number][2] for number in "12345"] == ["done", "failed", "waiting", "running", "interrupted"]
    assert lines["1"][3] == "2/2" and lines["4"][3] == "2/4" and lines["4"][-1] == "node-7/pod-x" and lines["4"][-2] == "1"
    assert "trial 2 failed: /no/such.pt" in done.out and "1 done, 1 failed, 1 waiting, 1 running, 1 interrupted" in done.out


def test_rerun_prints_the_jobs_of_failed_or_missing_trials_under_new_names(sweep: str, s3: S3) -> None:
    failed, missing = (job("rerun", sweep, flag, *IMAGE, **s3.env) for flag in ("--failed", "--missing"))
    assert names_of(failed.out) == ["2"] and names_of(missing.out) == ["3", "5"]
    assert names_of(job("rerun", sweep, "--failed", "--missing", *IMAGE, **s3.env).out) == ["2", "3", "5"]
    first = {item["metadata"]["labels"]["trialgrid/trial"]: item["metadata"]["name"]
             for item in yaml.safe_load_all(job("manifests", sweep, *IMAGE, **s3.env).out)}
    again = {item["metadata"]["labels"]["trialgrid/trial"]: item["metadata"]["name"]
             for text in (failed.out, missing.out) for item in yaml.safe_load_all(text)}
    for trial, name in again.items():
        assert re.fullmatch(re.escape(first[trial]) + r"-r\d{10}", name)
    assert job("rerun", sweep, *IMAGE, **s3.env).code == 2
    assert job("rerun", sweep, "--failed", **s3.env).code == 78


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
        assert tags.keys() == {"1", "2"} and {"loss/train", "loss/val", "acc/train", "acc/val", "lr"} <= tags["1"].keys()
        points = ask(f"{root}/data/plugin/scalars/scalars?run=1&tag=loss%2Fval")
        assert [step for _, step, _ in points] == [1, 2]
        layout = ask(f"{root}/data/plugin/custom_scalars/layout")
        charts = {chart["title"]: chart["multiline"]["tag"] for chart in layout["category"][0]["chart"]}
        assert charts == {"loss": ["loss/train", "loss/val"], "accuracy": ["acc/train", "acc/val"]}

        def learning_rates() -> set[float]:
            groups = ask(f"{root}/data/plugin/hparams/session_groups", {
                "experimentName": "", "allowedStatuses": ["STATUS_SUCCESS", "STATUS_RUNNING", "STATUS_UNKNOWN"], "colParams": [],
                "startIndex": 0, "sliceSize": 100})
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


def test_tensorboard_on_a_taken_port_or_a_server_that_is_down_says_so(sweep: str, s3: S3) -> None:
    port = s3.env["AWS_ENDPOINT_URL"].rpartition(":")[2]
    taken = job("tensorboard", sweep, "--port", port, "--host", "127.0.0.1", **s3.env)
    assert taken.code == 78 and port in taken.err and "Traceback" not in taken.err
    assert job("tensorboard", sweep, **{**s3.env, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}).code == 75


def test_mirror_copies_what_is_new_removes_what_is_gone_and_leaves_no_half_file(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, target = open_folder(str(tmp_path / "sweep")), tmp_path / "mirror"
    target.mkdir()
    for trial, number in (("a", 0), ("a", 1), ("b", 0)):
        sweep.write(f"trials/{trial}/events/{number}", b"x")
    sweep.write("trials/a/row.json", b"{}")
    assert mirror(sweep, target) == 3
    assert mirror(sweep, target) == 0
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()) == ["a/0", "a/1", "b/0"]
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
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()) == ["a/0", "b/0", "b/1"]


def test_gather_and_status_that_watch_follow_the_sweep_to_its_end(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    gather = start_job("gather", sweep, "--watch")  # before there is even a grid
    assert job("prepare", shapes, sweep, "--grid", make_grid(lr=[0.02, 0.01], epochs=[1, 1])).code == 0
    status = start_job("status", sweep, "--watch")
    wait_for_line(status, "2 waiting")
    assert job("train", sweep, "--trial", "2").code == 0
    wait_for_line(gather, "best trial: 2")
    wait_for_line(status, "1 waiting, 1 done")
    assert job("train", sweep, "--trial", "1").code == 0
    for process, part in ((gather, "best trial"), (status, "2 done")):
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0 and part in out, out
    assert json.loads((sweep / "summary.json").read_text())


def test_gather_that_watches_goes_on_while_its_only_row_is_tried_again(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep, weights = tmp_path / "s", tmp_path / "w.pt"
    grid = make_grid(lr=[0.02, 0.01], epochs=[1, 1], weights=[str(weights), "none"])
    assert job("prepare", shapes, sweep, "--grid", grid).code == 0
    assert job("train", sweep, "--trial", "1").code == 66
    gather = start_job("gather", sweep, "--watch")
    wait_for_line(gather, "workbook:")
    row = (sweep / "trials" / "1" / "row.json")
    text = row.read_text()
    row.unlink()
    time.sleep(6)
    row.write_text(text.replace('"failed"', '"diverged"'))
    wait_for_line(gather, "workbook:")
    assert job("train", sweep, "--trial", "2").code == 0
    out, _ = gather.communicate(timeout=60)
    assert gather.returncode == 0, out


def test_cause_with_brackets_is_shown_as_it_is(make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    assert job("prepare", "/no[/b]such", sweep, "--grid", make_grid(lr=[0.1], epochs=[1])).code == 66
    done = job("status", sweep)
    assert done.code == 0 and "/no[/b]such" in done.out and "the pack is not finished" in done.out


def test_status_says_which_waiting_trial_a_longer_one_passes_through(tmp_path: Path) -> None:
    (tmp_path / "grid.csv").write_text("trial,lr,epochs\na,0.1,2\nb,0.1,5\nc,0.1,9\nd,0.1,5\ne,0.1,20\n")
    beat = Attempt(host="node", process="boot ns 1 1", from_epoch=0, epoch=3, step=1, num_steps=4, at=now(), shorter=["a", "b"])
    open_folder(str(tmp_path)).write(attempt_file("trials/c", 1), as_json(beat))
    done = job("status", tmp_path)
    states = {line.split()[0]: line.split()[2:4] for line in done.out.splitlines() if re.match(r" [a-e] ", line)}
    assert [states[name][0] for name in "acde"] == ["waiting", "running", "waiting", "waiting"] and states["b"] == ["with", "c"]


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_job_that_paid_for_a_gpu_and_sees_none_fails_with_a_row(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    assert job("prepare", shapes, sweep, "--grid", make_grid(lr=[0.02], epochs=[1])).code == 0
    done = job("train", sweep, "--trial", "1", TRIALGRID_DEVICE="cuda")
    assert done.code == 78 and "no GPU is to be seen" in done.err
    row = json.loads((sweep / "trials" / "1" / "row.json").read_text())
    assert row["status"] == "failed" and "TRIALGRID_DEVICE" in row["cause"]
