"""`job.open`: a sweep in a notebook, without torch."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import job as package
from job.errors import BadConfig, MissingInput
from job.folder.local import LocalFolder
from support import ROOT, S3, environment


def test_open_gives_table_epochs_predictions_and_passport(finished: Path) -> None:
    sweep = package.open(str(finished))
    assert sweep.table["trial"].tolist() == ["1"] and sweep.table["rank"].tolist() == [1]
    epochs = sweep.epochs("1")
    assert epochs["epoch"].tolist() == [1] and epochs["val_acc"].iloc[0] == sweep.table["best_val_acc"].iloc[0]
    predictions = sweep.predictions(1)
    assert predictions.columns.tolist() == ["split", "image", "label", "predicted", "correct", "p_bar", "p_disc"]
    val = predictions[predictions["split"] == "val"]
    assert (val["label"] == val["predicted"]).mean() == pytest.approx(epochs["val_acc"].iloc[0])
    assert (predictions["correct"] == (predictions["label"] == predictions["predicted"])).all()
    assert sweep.recommendation.trial == "" and "No trial beats" in sweep.recommendation.sentences[0]
    assert sweep.passport.classes == ["bar", "disc"] and sweep.passport.num_images == 40


def test_open_needs_no_torch_and_reads_what_is_new(three_rows: LocalFolder) -> None:
    program = ("import sys, job\n"
               f"table = job.open({three_rows.uri!r}).table\n"
               "assert len(table) == 3 and table.trial[0] == '2'\n"
               "assert not {'torch', 'torchvision', 'tensorboard'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(), check=True)
    sweep = package.open(three_rows.uri)
    before = len(sweep.table)
    three_rows.delete("trials/3/row.json")
    assert (before, len(sweep.table)) == (3, 2)


def test_what_is_not_there_is_named(three_rows: LocalFolder, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="nowhere: there is no such folder"):
        package.open(str(tmp_path / "nowhere"))
    with pytest.raises(BadConfig, match="not supported"):
        package.open("gs://bucket/sweep")
    sweep = package.open(three_rows.uri)
    with pytest.raises(MissingInput, match="trials with epochs are: 1, 2, 3"):
        sweep.epochs("9")
    with pytest.raises(MissingInput, match=r"trials/9/predictions\.csv"):
        sweep.predictions("9")
    with pytest.raises(MissingInput, match="no pack yet"):
        _ = sweep.passport


def test_open_reads_from_object_storage(finished: Path, s3_here: S3) -> None:
    sweep = package.open(s3_here.upload(finished, "opened"))
    pd.testing.assert_frame_equal(sweep.table, package.open(str(finished)).table)
    assert len(sweep.predictions("1")) and sweep.passport.pack_hash
