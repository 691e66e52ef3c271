"""The command line, in a subprocess: whole sweeps on disk and in S3, killed and resumed, with bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from conftest import ROOT, S3, environment, job, shared, start_job, wait_for_line
from job.record import CLOCKS_AND_HOST

Grid = Callable[..., Path]


def row(sweep: Path, trial: str) -> dict[str, Any]:
    return dict(json.loads((sweep / "trials" / trial / "row.json").read_text()))


def timeless(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in CLOCKS_AND_HOST}


def final_weights(sweep: Path, trial: str) -> dict[str, torch.Tensor]:
    return dict(torch.load(sweep / "trials" / trial / "last.pt", weights_only=True)["model"])


def assert_same_outcome(one: Path, other: Path, trial: str) -> None:
    """Rows equal but for clocks and host; last and best weights equal to the last bit."""
    assert timeless(row(one, trial)) == timeless(row(other, trial))
    first, second = final_weights(one, trial), final_weights(other, trial)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    best = "best.safetensors"  # written deterministically, so the whole file must agree
    assert (one / "trials" / trial / best).read_bytes() == (other / "trials" / trial / best).read_bytes()


def test_help_imports_nothing_heavy() -> None:
    code = ("import sys; sys.argv = ['job', '--help']\nfrom job.cli.main import main\ntry:\n    main()\nfinally:\n"
            "    heavy = {'torch', 'pandas', 'boto3', 'PIL', 'numpy', 'tensorboard'} & set(sys.modules)\n"
            "    print('HEAVY', heavy)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert "HEAVY set()" in done.stdout and "sweep" in done.stdout


def test_sweep_trains_gathers_predicts_and_picks_up_what_exists(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep, grid = tmp_path / "sweep", make_grid(lr=[0.05, 0.01], epochs=[2, 3])
    done = job("sweep", "--images", shapes, "--grid", grid, sweep)
    assert done.code == 0, done.err
    assert "trial 1  epoch 2/2" in done.out and "best trial: " in done.out and str(sweep / "summary.xlsx") in done.out
    first = row(sweep, "2")
    assert (first["status"], first["epochs_run"], first["lr"], first["num_train"] + first["num_val"] + first["num_test"]) == (
        "done", 3, 0.01, 40)
    assert sum(map(sum, first["test_confusion"])) == first["num_test"]
    files = {path.name for path in (sweep / "trials" / "2").iterdir()}
    assert files == {"events", "predictions.csv", "last.pt", "best.safetensors", "epochs.csv", "attempts", "row.json"}
    assert len((sweep / "trials" / "2" / "epochs.csv").read_text().splitlines()) == 4
    assert openpyxl.load_workbook(sweep / "summary.xlsx").sheetnames == ["Summary", "Condensed", "Trial 1", "Trial 2"]

    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*") if path.is_file() and path.parent != sweep}
    again = job("sweep", sweep)
    assert again.code == 0 and "trial 1  already done" in again.out
    assert {p: p.stat().st_mtime_ns for p in before} == before

    status = job("status", sweep)
    assert status.code == 0 and "2 done" in status.out

    image = next((shapes / "disc").iterdir())
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    found = job("predict", sweep, image, tmp_path / "bad.jpg", tmp_path / "gone.jpg")
    assert found.code == 65 and "bad.jpg  not read: not an image" in found.out and "there is no such file" in found.out
    line = next(line for line in found.out.splitlines() if line.startswith(str(image)))
    assert line.split()[1] in ("bar", "disc") and 0.5 <= float(line.split()[2]) <= 1


def test_trial_killed_in_the_middle_of_an_epoch_ends_as_if_undisturbed(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
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
    assert done.code == 0 and "goes on after epoch" in done.out
    assert_same_outcome(whole, killed, "1")
    assert (killed / "trials" / "1" / "epochs.csv").read_text().count("\n") == 7
    assert len(list((killed / "trials" / "1" / "events").glob("*.trialgrid"))) == 8


def test_sigterm_saves_within_the_epoch_exits_143_and_resumes_exactly(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
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


def test_failed_trial_is_a_row_with_its_cause_and_the_others_go_on(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    grid = make_grid(lr=[0.02, 0.01], epochs=[1, 1], weights=[str(weights), "none"])
    sweep = tmp_path / "sweep"
    done = job("sweep", "--images", shapes, "--grid", grid, sweep)
    assert done.code == 66 and "1 of 2 trials failed" in done.err and str(weights) in done.err
    assert row(sweep, "1")["status"] == "failed" and str(weights) in row(sweep, "1")["cause"]
    assert row(sweep, "2")["status"] == "done" and "best trial: 2" in done.out
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


def test_changed_settings_under_an_old_name_are_refused_not_mixed(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    assert job("sweep", "--images", shapes, "--grid", make_grid(lr=[0.02], epochs=[1]), sweep).code == 0
    before = row(sweep, "1")
    done = job("sweep", "--grid", make_grid(lr=[0.03], epochs=[1]), sweep)
    assert done.code == 78 and "lr was 0.02, now 0.03" in done.err
    assert row(sweep, "1") == before and "0.02" in (sweep / "grid.csv").read_text()
    assert job("sweep", "--positive", "bar", sweep).code == 78
    shorter = job("sweep", "--grid", make_grid(lr=[0.01], epochs=[1], trial=["other"]), sweep)
    assert shorter.code == 0 and job("status", sweep).out.count(" done ") == 2


def test_train_builds_the_pack_and_names_unknown_trials(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "grid.csv").write_text(make_grid(lr=[0.02], epochs=[1]).read_text())
    lost = job("train", sweep, "--trial", "1")
    assert lost.code == 66 and "--images" in lost.err
    assert job("train", sweep, "--trial", "9").code == 78
    assert job("status", sweep).out.count("waiting") == 2
    assert job("train", sweep, "--trial", "1", "--images", shapes).code == 0
    assert row(sweep, "1")["pack_hash"] == json.loads((sweep / "pack" / "passport.json").read_text())["pack_hash"]


def test_imagenet_weights_out_of_reach_exit_66_with_both_ways_out(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.02], epochs=[1], weights=["imagenet"])
    blocked = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"), "http://127.0.0.1:9")
    done = job("sweep", "--images", shapes, "--grid", grid, tmp_path / "sweep", TORCH_HOME=str(tmp_path / "cache"), **blocked)
    assert done.code == 66 and "column weights" in done.err and "weights to none" in done.err


@pytest.mark.parametrize(("args", "code", "part"), [
    (("sweep", "--grid", "{tmp}/absent.csv", "{tmp}/s"), 66, "absent.csv"),
    (("sweep", "--grid", "{tmp}/bad.csv", "{tmp}/s"), 78, "bad.csv: line 2, column lr"),
    (("sweep", "--grid", "{tmp}/good.csv", "{tmp}/s"), 66, "--images"),
    (("sweep", "--grid", "{tmp}/good.csv", "--images", "{tmp}/nothing", "{tmp}/s"), 66, "no images"),
    (("sweep", "--grid", "{tmp}/good.csv", "--images", "{tmp}/nothing", "--val", "0", "{tmp}/s"), 78, "--val is 0"),
    (("prepare", "{tmp}/nothing", "ftp://x/y"), 78, "ftp:// is not supported"),
    (("sweep", "{tmp}/s", "--no-such-option"), 2, "No such option"),
    (("grid", "--lr", "0", "--epochs", "10"), 78, "--lr is 0"),
    (("gather", "{tmp}/s"), 66, "no trial has a row"),
    (("status", "{tmp}/s"), 66, "grid.csv"),
    (("predict", "{tmp}/s", "x.jpg"), 66, "no trial has a row"),
    (("sample", "{tmp}"), 78, "not empty"),
])
def test_bad_input_exits_with_its_code_and_says_where(args: tuple[str, ...], code: int, part: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("trial,lr,epochs\n1,quick,2\n")
    (tmp_path / "good.csv").write_text("trial,lr,epochs\n1,0.1,2\n")
    done = job(*(arg.format(tmp=tmp_path) for arg in args))
    assert done.code == code, done.err
    assert part in done.err and "Traceback" not in done.err


def test_grid_prints_every_combination_and_sweep_reads_it() -> None:
    done = job("grid", "--lr", "0.1", "--lr", "0.01", "--epochs", "10", "--epochs", "20")
    assert done.out == "trial,lr,epochs\n1,0.1,10\n2,0.1,20\n3,0.01,10\n4,0.01,20\n"


def test_augment_draws_a_sheet_of_plain_and_augmented_images(shapes: Path, tmp_path: Path) -> None:
    done = job("augment", shapes, "--out", tmp_path / "sheet.png", "--image-size", "40", "--rotation", "30", "--noise", "0.1")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 * 44 + 4, 6 * 44 + 4)
        tiles = [sheet.crop((4 + 44 * k, 4, 44 + 44 * k, 44)).tobytes() for k in range(8)]
    assert len(set(tiles)) == 8
    still = job("augment", shapes, "--out", tmp_path / "still.png", "--image-size", "40", "--crop", "0", "--flip", "0")
    assert still.code == 0
    with Image.open(tmp_path / "still.png") as sheet:
        plain, *others = (np.asarray(sheet.crop((4 + 44 * k, 4, 44 + 44 * k, 44))).astype(int) for k in range(8))
    assert all(np.abs(other - plain).max() <= 1 for other in others)


def test_wanted_recall_sets_the_threshold_of_row_and_prediction(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.02], epochs=[2], recall=[0.9])
    assert job("sweep", "--images", shapes, "--grid", grid, tmp_path / "sweep").code == 0
    found = row(tmp_path / "sweep", "1")
    assert 0 < found["threshold"] <= 1 and found["val_recall_at_threshold"] >= 0.9
    assert found["test_false_negatives_at_threshold"] == found["test_confusion_at_threshold"][1][0]
    images = sorted((shapes / "disc").iterdir())[:5]
    said = job("predict", tmp_path / "sweep", *images).out
    share = f"{found['val_recall_at_threshold']:.0%}"
    assert f"disc from a probability of {found['threshold']:.6g} on, which found {share} of it in validation" in said
    table = (tmp_path / "sweep" / "trials" / "1" / "predictions.csv").read_text().splitlines()
    assert table[0] == "split,image,label,predicted,p bar,p disc" and len(table) == 1 + found["num_val"] + found["num_test"]
    discs = [line.split(",")[1] for line in table[1:] if line.startswith("val,disc")]
    lines = job("predict", tmp_path / "sweep", *(shapes / name for name in discs)).out.splitlines()[1:]
    labels = [line.split()[1] for line in lines]
    assert labels.count("disc") / len(labels) == found["val_recall_at_threshold"]
    likeliest = {line.split(",")[1]: line.split(",")[-2:] for line in table[1:]}
    for name, line in zip(discs, lines, strict=True):
        p_bar, p_disc = map(float, likeliest[name])
        assert float(line.split()[2]) == pytest.approx(p_disc if line.split()[1] == "disc" else p_bar, abs=0.01)


def test_sample_images_are_all_different_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert job("sample", tmp_path / name, "--num", "40").code == 0
    one, other = ({p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.jpg")} for n in ("a", "b"))
    assert one == other and len(set(one.values())) == len(one) == 40
    assert {path.parent.name for path in one} == {"phone", "tablet", "laptop", "washing_machine", "dishwasher"}


def test_sweep_in_s3_equals_the_one_on_disk(shapes: Path, make_grid: Grid, tmp_path: Path, s3: S3) -> None:
    grid, uri = make_grid(lr=[0.02], epochs=[2]), "s3://bucket/study"
    images = s3.upload(shapes, "shapes")
    s3.client().put_object(Bucket="bucket", Key="grids/g.csv", Body=grid.read_bytes())
    done = job("sweep", "--images", images, "--grid", "s3://bucket/grids/g.csv", uri, **s3.env)
    assert done.code == 0, done.err
    assert job("sweep", "--images", shapes, "--grid", grid, tmp_path / "local").code == 0
    remote = json.loads(s3.client().get_object(Bucket="bucket", Key="study/trials/1/row.json")["Body"].read())
    assert timeless(remote) == timeless(row(tmp_path / "local", "1"))
    keys = {item["Key"] for item in s3.client().list_objects_v2(Bucket="bucket", Prefix="study/")["Contents"]}
    assert {"study/summary.xlsx", "study/pack/passport.json", "study/trials/1/best.safetensors", "study/trials/1/last.pt"} <= keys
    image = f"{images}/disc/disc00.jpg"
    assert f"{image}  " in job("predict", uri, image, **s3.env).out
    assert "1 done" in job("status", uri, **s3.env).out
    again = job("train", uri, "--trial", "1", **s3.env)
    assert again.code == 0 and "already done" in again.out


def test_wrong_and_absent_keys_exit_77_and_a_server_that_is_down_75(shapes: Path, make_grid: Grid, s3: S3) -> None:
    grid = make_grid(lr=[0.02], epochs=[1])
    args = ("sweep", "--images", shapes, "--grid", grid, "s3://bucket/denied")
    wrong = job(*args, **{**s3.env, "AWS_SECRET_ACCESS_KEY": "wrong"})
    assert wrong.code == 77 and "AWS_SECRET_ACCESS_KEY" in wrong.err and "Traceback" not in wrong.err
    absent = job(*args, AWS_ENDPOINT_URL=s3.env["AWS_ENDPOINT_URL"], AWS_REGION="us-east-1")
    assert absent.code == 77 and "no usable AWS credentials" in absent.err
    down = job(*args, **{**s3.env, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    assert down.code == 75 and "AWS_ENDPOINT_URL" in down.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_the_right_to_write_exits_77(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    done = job("sweep", "--images", shapes, "--grid", make_grid(lr=[0.1], epochs=[1]), closed / "sweep")
    assert done.code == 77 and "Permission denied" in done.err


def test_trial_survives_an_outage_of_its_storage(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    """The S3 server dies during training and comes back at the same place before the end."""
    from conftest import KEYS, make_bucket, start_s3

    folder = tmp_path / "server"
    folder.mkdir()
    server, endpoint = start_s3(folder)
    env = {**KEYS, "AWS_ENDPOINT_URL": endpoint}
    make_bucket(server, S3("bucket", env))
    grid = make_grid(lr=[0.02], epochs=[12], batch_size=[2])
    process = start_job("sweep", "--images", shapes, "--grid", grid, "s3://bucket/s", **env)
    wait_for_line(process, "epoch 1/12")
    server.send_signal(signal.SIGSTOP)
    wait_for_line(process, "epoch 4/12")
    server.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=150)
    server.kill()
    server.wait()
    assert process.returncode == 0, out
    assert "trial 1  done" in out


def test_real_phones_against_the_rest(make_grid: Grid, tmp_path: Path) -> None:
    phones = shared("data", "phones")
    done = job("sweep", "--images", phones, "--positive", "cellphone", "--grid", make_grid(lr=[0.02, 0.005], epochs=[2, 2]),
               tmp_path / "sweep")
    assert done.code == 0, done.err
    found = row(tmp_path / "sweep", "1")
    assert found["classes"] == ["other", "cellphone"] and (found["num_train"], found["num_val"], found["num_test"]) == (180, 45, 25)


def test_real_emergency_vehicles_from_their_csv(make_grid: Grid, tmp_path: Path) -> None:
    source = shared("data", "emergency") / "emergency_classification.csv"
    done = job("sweep", "--images", source, "--grid", make_grid(lr=[0.01], epochs=[2]), tmp_path / "sweep")
    assert done.code == 0, done.err
    assert row(tmp_path / "sweep", "1")["test_false_negatives"] <= 8


def test_real_ants_and_bees_keep_their_folders_split_and_have_no_test_figures(make_grid: Grid, tmp_path: Path) -> None:
    done = job("sweep", "--images", shared("data", "ants_bees"), "--grid", make_grid(lr=[0.01], epochs=[1]), tmp_path / "sweep")
    assert done.code == 0, done.err
    found = row(tmp_path / "sweep", "1")
    assert (found["num_train"], found["num_val"], found["num_test"], found["test_acc"]) == (245, 153, 0, None)
