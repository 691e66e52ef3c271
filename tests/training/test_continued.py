"""A trial that is longer than a finished one begins from its last checkpoint, and its row is that of one training."""

import io
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from job.data.pack import Passport
from job.folder.layout import trial_file
from job.folder.local import LocalFolder
from job.folder.storage import Folder
from job.training.continued import Predecessor, predecessors
from job.training.run import resume_or_start
from job.trial import Trial
from loops import MLP, begin
from support import Grid, job, leave_row, make_epochs, row, start_job, timeless, wait_for_line
from test_features import backbone, write_grid
from test_trajectory import files

pytestmark = pytest.mark.slow
__all__ = ["backbone"]


def lines_of(nine_alone: Path, path: Path, trials: str) -> Path:
    """Write the lines of these trials to a grid."""
    header, *lines = (nine_alone / "grid.csv").read_text().splitlines()
    path.write_text("\n".join([header, *(line for line in lines if line[0] in trials)]) + "\n")
    return path


def stamps(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_longer_trials_continue_finished_ones_and_leave_what_one_training_would(
        nine_alone: Path, shapes: Path, tmp_path: Path) -> None:
    """5 stops early and 7 diverges, so what continues them has nothing left to train; 9 has a cosine schedule."""
    sweep, some = tmp_path / "sweep", lines_of(nine_alone, tmp_path / "some.csv", "157")
    assert job("sweep", "--images", shapes, "--grid", some, sweep).code == 0
    before = {name: stamps(sweep / "trials" / name) for name in "157"}
    rest = lines_of(nine_alone, tmp_path / "rest.csv", "234689")
    ran = row(sweep, "5")["epochs_run"]
    plan = job("plan", "--grid", rest, sweep)
    # 5 epochs of 2, which passes through 3; none of 6; those of 4 that 5 has passed; none of 8; 3 of 9.
    assert f"in 4 runs: {5 + (4 if ran > 4 else 0) + 3} epochs to train" in plan.out, plan.out + plan.err
    done = job("sweep", "--grid", rest, sweep)
    assert done.code == 0, done.err
    assert "continues trial 1 after epoch 2\n" in done.out and f"continues trial 5 after epoch {ran}\n" in done.out
    for i in range(1, 10):
        assert files(sweep, str(i)) == files(nine_alone, str(i)), i
    found = {name: row(sweep, name) for name in "123456789"}
    assert [found[name]["continued_from"] for name in "12356789"] == ["", "1", "1", "", "5", "", "7", ""]
    assert found["3"]["trained_by"] == "2" and found["2"]["started_at"] == found["1"]["started_at"]
    # The seconds of both: the epochs before are in the table with their own.
    assert found["2"]["seconds"] > found["1"]["seconds"] and found["6"]["seconds"] == found["5"]["seconds"]
    assert {name: stamps(sweep / "trials" / name) for name in "157"} == before


def test_trial_that_was_stopped_after_it_continued_another_needs_that_one_no_more(
        nine_alone: Path, shapes: Path, tmp_path: Path) -> None:
    sweep, grid = tmp_path / "sweep", tmp_path / "g.csv"
    assert job("sweep", "--images", shapes, "--grid", lines_of(nine_alone, grid, "1"), sweep).code == 0
    lines_of(nine_alone, grid, "12")
    process = start_job("sweep", "--grid", grid, sweep)
    wait_for_line(process, "epoch 4/7")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    shutil.rmtree(sweep / "trials" / "1")
    done = job("train", sweep, "--trial", "2")
    assert done.code == 0 and "resumes after epoch" in done.out, done.err
    assert files(sweep, "2") == files(nine_alone, "2") and row(sweep, "2")["continued_from"] == "1"


def test_trial_continues_on_the_features_of_a_frozen_backbone_and_an_independent_one_begins_anew(
        shapes: Path, backbone: Path, tmp_path: Path) -> None:
    def sweep(name: str, *lines: str, more: tuple[str, ...] = ()) -> Path:
        grid = write_grid(tmp_path / "g.csv", backbone, [f"{line},0,0.2,fp32" for line in lines])
        done = job("sweep", "--images", shapes, "--grid", grid, *more, tmp_path / name)
        assert done.code == 0, done.err
        return tmp_path / name

    longer = ("b,0.02,4", "c,0.02,7")
    sweep("parts", "a,0.02,2")
    parts, whole = sweep("parts", *longer), sweep("whole", *longer)
    for name in "bc":
        assert timeless(row(parts, name)) == timeless(row(whole, name)) and row(parts, name)["features"]
        assert [row(found, name)["continued_from"] for found in (parts, whole)] == ["a", ""]
    alone = sweep("parts", "d,0.02,6", "e,0.02,7", more=("--independent",))
    assert [row(alone, name)["continued_from"] for name in "de"] == ["", ""]


def test_trial_that_continues_another_in_a_race_leaves_the_rungs_that_it_is_beyond(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for name, epochs in (("a", [3]), ("b", [3, 9])):
        grid = make_grid(trial=["short", "long"][:len(epochs)], lr=[0.02] * len(epochs), epochs=epochs)
        done = job("sweep", "--images", shapes, "--grid", grid, *(("--race",) if name == "a" else ()), parts)
        assert done.code == 0, done.err
    assert job("sweep", "--images", shapes, "--grid", parts / "grid.csv", "--race", whole).code == 0
    assert timeless(row(parts, "long")) == timeless(row(whole, "long"))
    assert [row(sweep, "long")["continued_from"] for sweep in (parts, whole)] == ["short", ""]
    for sweep in (parts, whole):
        assert sorted(path.name for path in (sweep / "trials/long/rungs").iterdir()) == ["0002.json", "0003.json"]


def test_predecessor_is_the_longest_finished_trial_of_the_trajectory_that_is_shorter(tmp_path: Path) -> None:
    folder, new = LocalFolder(str(tmp_path)), Trial(trial="new", lr=0.1, epochs=50)

    def leave(name: str, epochs: int, changes: dict[str, Any] | None = None, **more: Any) -> None:
        run = more.pop("run", epochs)
        leave_row(folder, replace(new, trial=name, epochs=epochs, **changes or {}), make_epochs(run, 0.5), **more)
        folder.write(trial_file(name, "last.pt"), b"")

    leave("small", 10)
    leave("found", 25)
    others: list[dict[str, Any]] = [{"lr": 0.2}, {"fold": 1}, {"schedule": "cosine"}, {"seed": 1}]
    for number, changes in enumerate(others):
        leave(f"other-{number}", 30, changes)
    leave("longer", 60)
    leave("pack", 31, pack="q")
    leave("passed", 32, trained_by="longer")
    leave("failed", 33, status="failed")
    leave("raced", 36, run=5, status="raced")
    leave("damaged", 34)
    folder.write(trial_file("damaged", "row.json"), b"{")
    leave("no-checkpoint", 35)
    folder.delete(trial_file("no-checkpoint", "last.pt"))
    cosine = Trial(trial="cosine", lr=0.1, epochs=60, schedule="cosine")
    trials = [new, replace(new, trial="short", epochs=10), cosine, replace(new, trial="alone", momentum=0.5)]
    assert predecessors(folder, trials, "p") == {"new": Predecessor(replace(new, trial="found", epochs=25), 25, False)}
    assert predecessors(folder, [cosine], "p") == {}
    leave("diverged", 45, run=3, status="diverged")
    leave("stopped", 40, run=30)
    assert predecessors(folder, [new], "p")["new"] == Predecessor(replace(new, trial="stopped", epochs=40), 30, True)


@pytest.mark.parametrize(("fault", "reason"), [
    ("none", ""), ("cut", "damaged checkpoint"), ("gone", "last.pt"), ("pack", "the pack was qqqq"),
    ("fp16", "needs a GPU"), ("other", "lr was 0.5"), ("shape", "damaged checkpoint")])
def test_checkpoint_that_cannot_be_used_is_said_and_the_longer_trial_begins_anew(
        fault: str, reason: str, packed: tuple[Folder, Passport], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    from job.training.checkpoint import state_to_bytes
    from job.training.fit import fit

    monkeypatch.setenv("TRIALGRID_DEVICE", "cpu")
    sweep, passport, shorter = LocalFolder(str(tmp_path)), packed[1], replace(MLP, trial="3")
    machine, batches, state = begin(packed, shorter)
    next(iter(fit(shorter, state, batches, machine, lambda *_: False)))
    saved = torch.load(io.BytesIO(state_to_bytes(state, shorter, passport.pack_hash, "fp32")), weights_only=True)
    if fault == "pack":
        saved["pack_hash"] = "q" * 64
    elif fault == "fp16":
        scale = dict.fromkeys(("growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"), 1)
        saved |= {"precision": "fp16", "scaler": {"scale": 1.0, **scale}}
    elif fault == "other":
        saved["trial"]["lr"] = 0.5
    elif fault == "shape":
        saved["loss_sum"] = torch.zeros(3)
    buffer, said = io.BytesIO(), list[str]()
    torch.save(saved, buffer)
    if fault != "gone":
        sweep.write(trial_file("3", "last.pt"), buffer.getvalue()[:500 if fault == "cut" else None])
    longer = replace(shorter, trial="4", epochs=9)
    _, begun, how = resume_or_start(sweep, longer, passport, Predecessor(shorter, 2, False), said.append)
    if not reason:
        assert (begun.epoch, begun.continued_from, how, said) == (1, "3", "continues trial 3", [])
        return
    assert (begun.epoch, begun.continued_from, how, len(said)) == (0, "", "", 1)
    assert said[0].startswith("trial 4 does not continue trial 3, and begins anew: ") and reason in said[0]
    _, _, fresh = begin(packed, longer)
    assert all(torch.equal(value, fresh.model.state_dict()[key]) for key, value in begun.model.state_dict().items())
