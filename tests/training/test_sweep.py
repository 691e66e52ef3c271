"""Whole sweeps on disk: trained, killed, stopped, resumed, failed and diverged."""

import json
import signal
import time
from pathlib import Path

import openpyxl
import pytest
import torch
from torchvision.models import resnet18

from support import Grid, job, row, start_job, timeless, wait_for_line


def final_weights(sweep: Path, trial: str) -> dict[str, torch.Tensor]:
    return dict(torch.load(sweep / "trials" / trial / "last.pt", weights_only=True)["model"])


def assert_same_outcome(one: Path, other: Path, trial: str) -> None:
    """Rows equal but for clocks and host; last and best weights equal to the last bit."""
    assert timeless(row(one, trial)) == timeless(row(other, trial))
    first, second = final_weights(one, trial), final_weights(other, trial)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    best = "best.safetensors"  # written deterministically, so the whole file must agree
    assert (one / "trials" / trial / best).read_bytes() == (other / "trials" / trial / best).read_bytes()


def test_sweep_trains_gathers_predicts_and_picks_up_what_exists(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep, grid = tmp_path / "sweep", make_grid(lr=[0.05, 0.01], epochs=[2, 3])
    done = job("sweep", "--images", shapes, "--grid", grid, sweep)
    assert done.code == 0, done.err
    assert "trial 1 (1 of 2)  epoch 2/2" in done.out and "always saying 'disc'" in done.out
    assert str(sweep / "summary.xlsx") in done.out
    first = row(sweep, "2")
    assert (first["status"], first["epochs_run"], first["lr"]) == ("done", 3, 0.01)
    assert first["num_train"] + first["num_val"] + first["num_test"] == 40
    assert sum(map(sum, first["test_confusion"])) == first["num_test"]
    files = {path.name for path in (sweep / "trials" / "2").iterdir()}
    assert files == {"events", "predictions.csv", "last.pt", "best.safetensors", "epochs.csv", "epochs-0003.csv",
                     "attempts", "row.json"}
    assert len((sweep / "trials" / "2" / "epochs.csv").read_text().splitlines()) == 4
    assert openpyxl.load_workbook(sweep / "summary.xlsx").sheetnames[-2:] == ["Trial 1", "Trial 2"]

    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*") if path.is_file() and path.parent != sweep}
    again = job("sweep", sweep)
    assert again.code == 0 and "trial 1  already done" in again.out
    assert {p: p.stat().st_mtime_ns for p in before} == before

    status = job("status", sweep)
    assert status.code == 0 and "2 done" in status.out

    image = next((shapes / "disc").iterdir())
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    found = job("predict", sweep, image, tmp_path / "bad.jpg", tmp_path / "gone.jpg", "--trial", "2")
    assert found.code == 65 and "bad.jpg  not read: not an image" in found.out and "there is no such file" in found.out
    line = next(line for line in found.out.splitlines() if line.startswith(str(image)))
    assert line.split()[1] in ("bar", "disc") and 0.5 <= float(line.split()[2]) <= 1


def test_trial_killed_in_the_middle_of_an_epoch_ends_as_if_undisturbed(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.02], epochs=[6], batch_size=[2])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert job("sweep", "--images", shapes, "--grid", grid, whole).code == 0
    for epoch in (1, 3):
        process = start_job("sweep", "--images", shapes, "--grid", grid, killed)
        wait_for_line(process, f"epoch {epoch}/6")
        deadline = time.monotonic() + 60
        while not (killed / "trials" / "1" / "last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert not (killed / "trials" / "1" / "row.json").exists()
    # As if the kill had come between the checkpoint and what tells of its epoch.
    next((killed / "trials" / "1" / "events").glob("*1.trialgrid")).unlink()
    (killed / "trials" / "1" / "epochs.csv").unlink()
    done = job("train", killed, "--trial", "1")
    assert done.code == 0 and "resumes after epoch" in done.out
    assert_same_outcome(whole, killed, "1")
    assert (killed / "trials" / "1" / "epochs.csv").read_text().count("\n") == 7
    assert len(list((killed / "trials" / "1" / "events").glob("*.trialgrid"))) == 8


def test_sigterm_saves_within_the_epoch_exits_143_and_resumes_exactly(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.02], epochs=[5], batch_size=[2])
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert job("sweep", "--images", shapes, "--grid", grid, whole).code == 0
    process = start_job("sweep", "--images", shapes, "--grid", grid, stopped)
    wait_for_line(process, "epoch 2/5")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143, out
    assert "saved" in out and not (stopped / "trials" / "1" / "row.json").exists()
    saved = torch.load(stopped / "trials" / "1" / "last.pt", weights_only=True)
    assert saved["epoch"] >= 2
    assert job("train", stopped, "--trial", "1").code == 0
    assert_same_outcome(whole, stopped, "1")


def test_failed_trial_is_a_row_with_its_cause_and_the_others_go_on(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    grid = make_grid(lr=[0.02, 0.01], epochs=[1, 1], weights=[str(weights), "none"])
    sweep = tmp_path / "sweep"
    done = job("sweep", "--images", shapes, "--grid", grid, sweep)
    assert done.code == 66 and "1 of 2 trials failed" in done.err and str(weights) in done.err
    assert row(sweep, "1")["status"] == "failed" and str(weights) in row(sweep, "1")["cause"]
    assert row(sweep, "2")["status"] == "done" and "trial 2 (lr 0.01" in done.out
    torch.save(resnet18(num_classes=1000).state_dict(), weights)
    mended = job("sweep", sweep)
    assert mended.code == 0, mended.err
    assert row(sweep, "1")["status"] == "done"
    assert json.loads((sweep / "trials" / "1" / "failed-1.json").read_text())["status"] == "failed"


def test_diverged_trial_is_a_result(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=["1e18"], epochs=[5])
    done = job("sweep", "--images", shapes, "--grid", grid, tmp_path / "sweep")
    assert done.code == 0, done.err
    found = row(tmp_path / "sweep", "1")
    assert found["status"] == "diverged" and found["epochs_run"] < 5 and "not finite" in found["cause"]


def test_imagenet_weights_out_of_reach_exit_66_with_both_ways_out(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.02], epochs=[1], weights=["imagenet"])
    blocked = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"), "http://127.0.0.1:9")
    done = job("sweep", "--images", shapes, "--grid", grid, tmp_path / "sweep", TORCH_HOME=str(tmp_path / "cache"),
               **blocked)
    assert done.code == 66 and "column weights" in done.err and "weights to none" in done.err


def test_wanted_recall_sets_the_threshold_of_row_and_prediction(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.02], epochs=[2], recall=[0.9])
    assert job("sweep", "--images", shapes, "--grid", grid, tmp_path / "sweep").code == 0
    found = row(tmp_path / "sweep", "1")
    assert 0 < found["threshold"] <= 1 and found["val_recall_at_threshold"] >= 0.9
    assert found["test_false_negatives_at_threshold"] == found["test_confusion_at_threshold"][1][0]
    images = sorted((shapes / "disc").iterdir())[:5]
    said = job("predict", tmp_path / "sweep", *images, "--trial", "1").out
    share = f"{found['val_recall_at_threshold']:.0%}"
    assert f"'disc' if its probability is at least {found['threshold']:.6g} (validation recall {share})" in said
    table = (tmp_path / "sweep" / "trials" / "1" / "predictions.csv").read_text().splitlines()
    assert table[0] == "split,image,label,predicted,correct,p_bar,p_disc"
    assert len(table) == 1 + found["num_val"] + found["num_test"]
    discs = [line.split(",")[1] for line in table[1:] if line.startswith("val,disc")]
    images = [shapes / name for name in discs]
    lines = job("predict", tmp_path / "sweep", *images, "--trial", "1").out.splitlines()[2:]
    labels = [line.split()[1] for line in lines]
    assert labels.count("disc") / len(labels) == found["val_recall_at_threshold"]
    likeliest = {line.split(",")[1]: line.split(",")[-2:] for line in table[1:]}
    for name, line in zip(discs, lines, strict=True):
        p_bar, p_disc = map(float, likeliest[name])
        assert float(line.split()[2]) == pytest.approx(p_disc if line.split()[1] == "disc" else p_bar, abs=0.01)
