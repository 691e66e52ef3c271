"""The state of a race: who is paused at which rung, in which place, and who waits for whom."""

import json
import re
import signal
import time
from pathlib import Path

import pytest

from job.cluster.status import sweep_status
from job.folder.local import LocalFolder
from job.results import waiting
from support import EASY, S3, job, start_job, tint, wait_for_line

NAMES = [str(number) for number in range(1, 9)]


@pytest.fixture(scope="module")
def paused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A race of 8 trials, stopped after the first one has paused at its rung."""
    top = tmp_path_factory.mktemp("paused")
    for number in range(30):
        for label in ("warm", "cold"):
            tint(top / "images" / label / f"{label}{number}.png", label, number)
    lrs = [word for number in range(7) for word in ("--lr", f"0.00{number + 1}")]
    (top / "grid.csv").write_text(job("grid", *EASY, *lrs, "--epochs", 9).out)
    process = start_job("sweep", "--images", top / "images", "--grid", top / "grid.csv", "--race", top / "sweep")
    wait_for_line(process, "trial 1  paused after epoch 2, at its rung")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    return top / "sweep"


def test_status_tells_paused_trials_with_their_rung_and_place(paused: Path) -> None:
    done = job("status", paused)
    assert done.code == 0, done.err
    found = {trial["trial"]: trial for trial in json.loads(job("status", "--json", paused).out)["trials"]}
    num = len(list(paused.glob("trials/*/rungs/0002.json")))
    assert 0 < num < len(NAMES)
    assert found["1"]["state"] == "paused" and found["1"]["rung"] == 1 and found["1"]["num_at_rung"] == num
    assert re.search(rf"^ 1 .* paused +1: {found['1']['place']} of {num} +2/9 ", done.out, re.MULTILINE)
    places = sorted(trial["place"] for trial in found.values() if trial["rung"])
    assert places == list(range(1, num + 1))
    last = found[NAMES[-1]]
    assert last["state"] == "waiting" and last["rung"] is last["place"] is last["num_at_rung"] is None
    assert "its place there now" in done.out and "trial 1: paused" not in done.out


def test_gather_that_watches_says_that_nothing_trains_only_if_the_pause_lasts(
        paused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = LocalFolder(str(paused))
    monkeypatch.setattr(waiting, "SILENT_SECONDS", 1e9)
    assert waiting.idle_text(sweep, ["1"]) == ""
    monkeypatch.setattr(waiting, "SILENT_SECONDS", 0.0)
    text = waiting.idle_text(sweep, ["1"])
    assert "1 (paused after epoch 2, at its rung, until the other trials are there)" in text
    assert f"`job sweep {sweep.uri}` goes on with those that are paused" in text


def test_rerun_takes_paused_trials_for_missing_ones(paused: Path, s3: S3) -> None:
    sweep = s3.upload(paused, "paused")
    done = job("rerun", sweep, "--missing", "--image", "registry.example/x@sha256:" + "0" * 64, **s3.env)
    assert done.code == 0, done.err
    assert done.out.count("kind: Job") == len(NAMES)


def test_damaged_rung_is_named_and_the_trial_has_no_place(paused: Path, tmp_path: Path) -> None:
    sweep = LocalFolder(str(tmp_path / "sweep"))
    for name in (*LocalFolder(str(paused)).names("trials/"), "race.json", "grid.csv"):
        sweep.write(name, (paused / name).read_bytes())
    sweep.write("trials/1/rungs/0002.json", b"{}")
    found = sweep_status(sweep)
    first = next(item for item in found if item.trial.trial == "1")
    assert (first.state, first.rung) == ("stopped", None) and not found.damaged
    assert "trials/1/rungs/0002.json" in job("status", sweep.path).out


def test_race_that_goes_on_ends_with_every_trial_raced_or_done(paused: Path) -> None:
    watching = start_job("status", "--watch", paused)
    time.sleep(0.1)
    assert job("sweep", paused).code == 0
    out, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0 and "5 raced" in out and "3 done" in out
    found = {item.trial.trial: item for item in sweep_status(LocalFolder(str(paused)))}
    assert all(item.has_row and item.num_at_rung for item in found.values())
    assert all(found[name].state == "done" for name in NAMES if found[name].is_best)
