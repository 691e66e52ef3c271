"""A frozen backbone's features: computed once for all trials, and the same rows as from the images."""

import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

from job.data.features import Features
from job.data.pack import Passport
from job.folder.layout import read_epochs
from job.folder.storage import Folder, open_folder
from job.training.features import with_features
from job.trial import Trial
from loops import begin
from support import job, row, start_job, timeless, wait_for_line

pytestmark = pytest.mark.slow
COLUMNS = "trial,lr,epochs,batch_size,image_size,weights,freeze,crop,flip,dropout,precision"
# As good as never: the images are those of flip 0, and yet each epoch runs the backbone.
RARELY = "1e-12"


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose features tell images apart: random ones."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "r18.pt"
    torch.save(resnet18().state_dict(), path)
    return path


def write_grid(path: Path, weights: Path, lines: Sequence[str]) -> Path:
    """Write trials of the columns trial, lr, epochs, then flip, dropout and precision."""
    cells = [line.split(",") for line in lines]
    text = [",".join([*line[:3], "8,40", str(weights), "yes,0", *line[3:]]) for line in cells]
    path.write_text("\n".join([COLUMNS, *text]) + "\n")
    return path


def folders(sweep: Path) -> list[Path]:
    return sorted((sweep / "features").glob("*"))


def test_trials_trained_on_features_have_the_rows_of_trials_trained_on_images(
        shapes: Path, backbone: Path, tmp_path: Path) -> None:
    once, each = tmp_path / "once", tmp_path / "each"
    for sweep, flip in ((once, "0"), (each, RARELY)):
        lines = [f"a,0.02,4,{flip},0,fp32", f"b,0.05,3,{flip},0.3,fp32", f"c,0.02,2,{flip},0,bf16"]
        done = job("sweep", "--images", shapes, "--grid", write_grid(tmp_path / "g.csv", backbone, lines), sweep)
        assert done.code == 0, done.err
        # Once for each precision.
        assert done.out.count("computes the features of 40 images") == (2 if flip == "0" else 0)
    assert len(folders(once)) == 2 and not folders(each)
    for name in "abc":
        ours, theirs = row(once, name), row(each, name)
        for figure in ("val_loss", "train_loss"):
            assert ours[f"last_{figure}"] == pytest.approx(theirs[f"last_{figure}"], rel=2e-5 if name < "c" else 2e-2)
        assert ours["last_val_acc"] == theirs["last_val_acc"] and ours["num_train"] == theirs["num_train"]
        assert ours.keys() == theirs.keys()
    predicted = [job("predict", sweep, "--trial", "a", next(shapes.rglob("*.jpg"))).out for sweep in (once, each)]
    assert predicted[0] == predicted[1] != ""


def test_augmentation_and_smaller_images_in_training_need_the_images(
        packed: tuple[Folder, Passport], backbone: Path) -> None:
    trial = Trial(trial="1", weights=str(backbone), image_size=40, batch_size=8, freeze=True, crop=0, flip=0)
    changes: dict[str, Any] = {"flip": 0.5, "crop": 0.5, "rotation": 5.0, "noise": 0.1, "blur": 0.5, "shift": 0.1,
                               "flip_up": 0.1, "freeze": False}
    for name, changed in {"": trial, **{name: replace(trial, **{name: changes[name]}) for name in changes}}.items():
        machine, batches, state = begin(packed, changed)
        found = with_features(*packed, changed, state, batches, machine, print, lambda seconds: None)
        assert isinstance(found, Features) == (name == "") == bool(state.features), name


def test_trial_that_began_on_images_goes_on_with_images(packed: tuple[Folder, Passport], backbone: Path) -> None:
    trial = Trial(trial="1", weights=str(backbone), image_size=40, batch_size=8, freeze=True, crop=0, flip=0)
    machine, batches, state = begin(packed, trial)
    state.epoch = 1
    assert with_features(*packed, trial, state, batches, machine, print, lambda seconds: None) is batches


def test_trial_killed_on_features_ends_as_if_undisturbed(shapes: Path, backbone: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    grid = write_grid(tmp_path / "g.csv", backbone, ["1,0.02,200,0,0.2,fp32"])
    assert job("sweep", "--images", shapes, "--grid", grid, whole).code == 0
    process = start_job("sweep", "--images", shapes, "--grid", grid, killed)
    deadline = time.monotonic() + 60
    while not (killed / "trials/1/last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (killed / "trials/1/row.json").exists()
    done = job("sweep", killed)
    assert done.code == 0 and "computes the features" not in done.out
    for name in ("best.safetensors", "predictions.csv"):
        assert (whole / "trials/1" / name).read_bytes() == (killed / "trials/1" / name).read_bytes()
    assert timeless(row(whole, 1)) == timeless(row(killed, 1))
    assert [e.val_loss for e in read_epochs(open_folder(str(killed)), "1")] == [
        e.val_loss for e in read_epochs(open_folder(str(whole)), "1")]


def test_workers_and_processes_share_the_features_and_a_killed_one_is_replaced(
        shapes: Path, backbone: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    grid = write_grid(tmp_path / "g.csv", backbone, [f"{n},0.0{n},3,0,0,fp32" for n in range(1, 5)])
    process = start_job("sweep", "--images", shapes, "--grid", grid, sweep)
    wait_for_line(process, "computes the features")
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = job("sweep", sweep, "--workers", "2")
    assert done.code == 0, done.err
    (folder,) = folders(sweep)
    assert len(list(folder.glob("*.safetensors"))) == 1
    ended = [path.read_text() for path in sorted((folder / "attempts").glob("*.json"))]
    assert sum('"state": "done"' in text for text in ended) == 1 and len(ended) <= 2


def test_damaged_features_name_the_file_to_delete_and_what_is_deleted_is_made_again(
        shapes: Path, backbone: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    grid = write_grid(tmp_path / "g.csv", backbone, ["1,0.02,2,0,0,fp32", "2,0.05,2,0,0,fp32"])
    assert job("sweep", "--images", shapes, "--grid", grid, sweep).code == 0
    shutil.rmtree(sweep / "trials/2")
    (folder,) = folders(sweep)
    (file,) = folder.glob("*.safetensors")
    good = file.read_bytes()
    record = (folder / "made.json").read_text()
    for damage, word in ((lambda: file.write_bytes(good[:-4] + b"abcd"), "hash"), (file.unlink, "no such file"),
                         (lambda: (folder / "made.json").write_text(record.replace(': 40,', ': 41,')), "for 40 images"),
                         (lambda: (folder / "made.json").write_text(record.replace('F32', 'F64')), "dtype"),
                         (lambda: (folder / "made.json").write_text("[]"), "its keys are not name, sha256"),
                         (lambda: (folder / "made.json").write_text(record.replace(": 512,", ": 513,")), "of 512")):
        damage()
        done = job("train", sweep, "--trial", "2")
        assert done.code in (65, 66) and f"delete {folder / 'made.json'}" in done.err and word in done.err, done.err
        file.write_bytes(good)
        (folder / "made.json").write_text(record)
        shutil.rmtree(sweep / "trials/2")
    (folder / "made.json").unlink()
    assert job("train", sweep, "--trial", "2").code == 0 and (folder / "made.json").read_text() == record


def test_features_that_are_not_finite_are_not_written_and_the_cause_is_told(
        shapes: Path, backbone: Path, tmp_path: Path) -> None:
    weights = torch.load(backbone)
    weights["conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(weights, tmp_path / "nan.pt")
    grid = write_grid(tmp_path / "g.csv", tmp_path / "nan.pt", ["1,0.02,1,0,0,fp32"])
    done = job("sweep", "--images", shapes, "--grid", grid, tmp_path / "s")
    assert done.code == 65 and "features that are not finite in fp32" in done.err and "Traceback" not in done.err
    assert not list((tmp_path / "s" / "features").glob("*/*.safetensors"))
