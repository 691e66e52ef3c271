"""The state of each trial, told from the sweep folder alone, once or while the sweep goes on."""

import json
import re
import time
from pathlib import Path

from job.folder.attempts import Attempt, as_json, attempt_file, now
from job.folder.storage import open_folder
from support import S3, Grid, job, start_job, wait_for_line


def test_status_tells_state_epoch_attempts_and_node_from_the_folder_alone(cluster_sweep: str, s3: S3) -> None:
    done = job("status", cluster_sweep, **s3.env)
    assert done.code == 0, done.err
    # Whether trial 1 is marked as the best depends on the processor that trained it.
    lines = {line.split()[0]: line.replace("*", " ").split() for line in done.out.splitlines()
             if re.match(r" [1-5] ", line)}
    assert [lines[number][2] for number in "12345"] == ["done", "failed", "waiting", "running", "interrupted"]
    assert lines["1"][3] == "2/2" and lines["4"][3] == "2/4"
    assert lines["4"][-1] == "node-7/pod-x" and lines["4"][-2] == "1"
    assert "trial 2 failed: /no/such.pt" in done.out
    assert "1 done, 1 failed, 1 waiting, 1 running, 1 interrupted" in done.out


def test_gather_and_status_that_watch_follow_the_sweep_to_its_end(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    gather = start_job("gather", sweep, "--watch")  # before there is even a grid
    assert job("prepare", shapes, sweep, "--grid", make_grid(lr=[0.02, 0.01], epochs=[1, 1])).code == 0
    status = start_job("status", sweep, "--watch")
    wait_for_line(status, "2 waiting")
    assert job("train", sweep, "--trial", "2").code == 0
    wait_for_line(gather, "trial 2 (lr 0.01")
    wait_for_line(status, "1 waiting, 1 done")
    assert job("train", sweep, "--trial", "1").code == 0
    for process, part in ((gather, "2 trials, sorted by"), (status, "2 done")):
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0 and part in out, out
    assert json.loads((sweep / "summary.json").read_text())


def test_gather_that_watches_goes_on_while_its_only_row_is_tried_again(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
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
    beat = Attempt(host="node", process="boot ns 1 1", from_epoch=0, epoch=3, step=1, num_steps=4, at=now(),
                   shorter=["a", "b"])
    open_folder(str(tmp_path)).write(attempt_file("trials/c", 1), as_json(beat))
    done = job("status", tmp_path)
    states = {line.split()[0]: line.split()[2:4] for line in done.out.splitlines() if re.match(r" [a-e] ", line)}
    assert [states[name][0] for name in "acde"] == ["waiting", "running", "waiting", "waiting"]
    assert states["b"] == ["with", "c"]
