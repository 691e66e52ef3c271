"""summary.csv is one table that pandas reads as it is, and predictions.csv has a column per class."""

import csv
import io
import json
import math
from pathlib import Path

import pandas as pd
import pytest

import job as package
from job.folder.local import LocalFolder
from job.results.gather import gather
from job.results.summary import collect
from job.trial import Trial
from support import Grid, job, leave_predictions, leave_row, make_epochs

HOST = '=cmd|"/C calc"!A1'
# Read as text: pandas rounds the last digit of a number.
EXACT = ("best_val_acc", "best_val_loss", "median_train_loss", "p_vs_best", "p_vs_best_holm", "p_vs_baseline")


@pytest.fixture
def eight(tmp_path: Path) -> LocalFolder:
    """Eight trials with rows: one failed, one of another pack, and learning rates that a program has multiplied."""
    folder = LocalFolder(str(tmp_path))
    for number in range(8):
        trial = Trial(trial=f"{number:02d}", lr=0.0001 * (number + 1), epochs=4)
        status, cause = ("failed", "weights, gone\nfor good") if number == 6 else ("done", "")
        leave_row(folder, trial, [] if number == 6 else make_epochs(4, 0.1 * number), status=status, cause=cause,
                  pack="other" if number == 7 else "p", host=HOST, test_false_negatives=number,
                  test_confusion=[[1, 2], [3, 4]])
        leave_predictions(folder, trial.trial, range(5 * number))
    return folder


def test_summary_csv_has_a_line_per_trial_and_nothing_else(eight: LocalFolder) -> None:
    gather(eight)
    found = pd.read_csv(eight.path / "summary.csv")
    assert len(found) == 8 and found["rank"].tolist()[:6] == [1, 2, 3, 4, 5, 6] and found["rank"].isna().sum() == 2
    named = pd.read_csv(eight.path / "summary.csv", dtype={"trial": str, **dict.fromkeys(EXACT, str)})
    table = collect(eight).table
    assert named["trial"].tolist() == table["trial"].tolist() and "01" in set(named["trial"])
    for name in EXACT:
        assert all(float(ours) == theirs or (math.isnan(float(ours)) and math.isnan(theirs))
                   for ours, theirs in zip(named[name], table[name], strict=True))
    first = named.iloc[0]
    assert json.loads(first["test_confusion"]) == [[1, 2], [3, 4]] and json.loads(first["classes"]) == ["no", "yes"]
    assert first["verdict"] == "best" and str(first["beats_baseline"]) == "True"


def test_summary_csv_has_numbers_as_users_write_them_and_no_formula(eight: LocalFolder) -> None:
    gather(eight)
    text = (eight.path / "summary.csv").read_text()
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert 0.0001 * 3 != 0.0003 and {line["lr"] for line in lines} == {
        "0.0001", "0.0002", "0.0003", "0.0004", "0.0005", "0.0006", "0.0007", "0.0008"}
    assert {line["test_false_negatives"] for line in lines} == set("01234567")
    assert {line["host"] for line in lines} == {f"'{HOST}"}
    assert {line["cause"] for line in lines} == {"", "weights, gone\nfor good"}
    assert "nan" not in text.lower()


def test_learning_rates_that_a_schedule_has_multiplied_are_short_in_epochs_csv(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.003], epochs=[2], step_size=[1], model=["mlp"])
    assert job("sweep", "--images", shapes, "--grid", grid, tmp_path / "sweep").code == 0
    lines = list(csv.DictReader((tmp_path / "sweep" / "trials" / "1" / "epochs.csv").open()))
    assert 0.003 * 0.1 != 0.0003 and [line["lr"] for line in lines] == ["0.003", "0.0003"]


def test_predictions_of_older_versions_have_todays_columns(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    leave_row(folder, Trial(trial="1"), make_epochs(4, 0.1), classes=["=a", "p b"])
    folder.write("trials/1/predictions.csv", b"split,picture,label,predicted,p =a,p p b\n"
                 b"val,x.jpg,'=a,p b,0.25,0.75\nval,'=y.jpg,p b,p b,0.5,0.5\n")
    found = package.open(str(tmp_path)).predictions("1")
    assert found.columns.tolist() == ["split", "image", "label", "predicted", "correct", "p_=a", "p_p b"]
    assert found["correct"].tolist() == [False, True] and found["image"].tolist() == ["x.jpg", "=y.jpg"]
    summary = collect(folder)
    assert summary.damaged == [] and summary.predictions["1"]["probability"].tolist() == [0.75, 0.5]


def test_predictions_csv_says_what_is_correct_and_pandas_reads_it(finished: Path) -> None:
    found = pd.read_csv(finished / "trials" / "1" / "predictions.csv")
    assert found["correct"].dtype == bool and (found["correct"] == (found["label"] == found["predicted"])).all()
    likeliest = found[["p_bar", "p_disc"]].idxmax(axis=1).str.removeprefix("p_")
    assert (likeliest == found["predicted"]).all() and found[["p_bar", "p_disc"]].sum(axis=1).round(9).eq(1).all()
