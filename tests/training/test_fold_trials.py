"""A sweep of folds, from `job grid --folds` to predict and export; a fold that is killed ends as if undisturbed."""

import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

from job.folder.grid import parse_grid
from support import EASY, job, row, start_job, timeless, tint, wait_for_line


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of one setting in three folds of 36 painted images; 4 more are the test split."""
    folder = tmp_path_factory.mktemp("folded")
    for number in range(40):
        label = "warm" if number % 2 else "cold"
        tint(folder / "in" / label / f"{number}.jpg", label, number)
    (folder / "grid.csv").write_text(job("grid", "--folds", 3, *EASY, "--epochs", 60, "--noise", 0.1).out)
    done = job("sweep", "--images", folder / "in", "--grid", folder / "grid.csv", "--short-side", 40, folder / "sweep")
    assert done.code == 0, done.err
    return folder / "sweep"


def test_grid_multiplies_each_combination_by_its_folds_unless_folds_are_named() -> None:
    found = parse_grid(job("grid", "--folds", 3, "--lr", 0.1, "--lr", 0.01).out)
    assert [(trial.trial, trial.lr, trial.fold, trial.folds) for trial in found] == [
        (f"{n}-f{k}", lr, k, 3) for n, lr in ((1, 0.1), (2, 0.01)) for k in (1, 2, 3)]
    named = parse_grid(job("grid", "--folds", 3, "--fold", 1, "--fold", 3).out)
    assert [(trial.trial, trial.fold) for trial in named] == [("1", 1), ("2", 3)]
    refused = job("grid", "--folds", 3, "--fold", 4)
    assert refused.code == 78 and "give a fold from 1 to 3" in refused.err
    assert "no effect when fold is 0" in job("grid", "--folds", 3, "--fold", 0).err


def test_folds_validate_on_all_training_and_validation_images_and_test_on_the_same(folded: Path) -> None:
    found = [pd.read_csv(folded / "trials" / f"1-f{k}" / "predictions.csv") for k in (1, 2, 3)]
    val = pd.concat([table[table["split"] == "val"] for table in found])
    test = [set(table["image"][table["split"] == "test"]) for table in found]
    assert val["image"].is_unique and len(val) == 36 and len(test[0]) == 4 and test[0] == test[1] == test[2]
    assert not test[0] & set(val["image"])
    for k in (1, 2, 3):
        of = row(folded, f"1-f{k}")
        assert of["num_train"] + of["num_val"] == len(val) and of["num_val"] == 12


def test_killed_fold_resumes_and_ends_as_if_undisturbed(folded: Path, tmp_path: Path) -> None:
    killed = Path(shutil.copytree(folded, tmp_path / "killed"))
    shutil.rmtree(killed / "trials" / "1-f2")
    process = start_job("train", killed, "--trial", "1-f2")
    wait_for_line(process, "epoch 2/60")
    deadline = time.monotonic() + 60
    while not (killed / "trials" / "1-f2" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (killed / "trials" / "1-f2" / "row.json").exists()
    done = job("train", killed, "--trial", "1-f2")
    assert done.code == 0 and "resumes" in done.out
    assert timeless(row(killed, "1-f2")) == timeless(row(folded, "1-f2"))
    for name in ("predictions.csv", "best.safetensors"):
        one, other = ((sweep / "trials" / "1-f2" / name).read_bytes() for sweep in (killed, folded))
        assert one == other


def test_predict_and_export_use_the_best_fold_then_the_plain_trial_and_say_which(
        folded: Path, tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(folded, tmp_path / "sweep"))
    gathered = job("gather", sweep)
    rows = {f"1-f{k}": row(sweep, f"1-f{k}") for k in (1, 2, 3)}
    best = max(rows, key=lambda name: (rows[name]["best_val_acc"], -rows[name]["best_val_loss"]))
    assert gathered.out.startswith(f"Use trial {best} ("), gathered.out
    image = folded.parent / "in" / "warm" / "1.jpg"
    said = job("predict", sweep, image)
    assert said.code == 0 and f"Its weights are those of fold {best[-1]}, the best of the setting's 3 folds" in said.err
    done = job("export", sweep, tmp_path / "bundle", "--no-samples")
    assert done.code == 0 and f"bundle of trial {best} " in done.out
    assert f"trained without fold {best[-1]} of 3" in done.out
    assert f"validated on fold {best[-1]} of 3" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    grid = parse_grid((sweep / "next-grid.csv").read_text())
    assert [trial.trial for trial in grid][:4] == ["1-f1", "1-f2", "1-f3", "1"] and grid[3].fold == 0
    (sweep / "next-grid.csv").write_text("".join((sweep / "next-grid.csv").read_text().splitlines(True)[:5]))
    assert job("sweep", "--grid", sweep / "next-grid.csv", sweep).code == 0
    said = job("predict", sweep, image)
    assert "Use trial 1 (" in said.err and "the setting's trial on the plain split, 1." in said.err


def test_class_too_small_for_the_folds_is_a_failed_row_that_says_what_to_do(folded: Path, tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(folded, tmp_path / "sweep"))
    (sweep / "grid.csv").write_text("trial,epochs,image_size,model,weights,fold,folds\nmany,1,16,mlp,none,1,30\n")
    done = job("train", sweep, "--trial", "many")
    assert done.code == 65 and "too few for 30 folds; set folds to" in row(sweep, "many")["cause"]
