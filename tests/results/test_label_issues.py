"""Likely wrong labels: the confident joint by hand, planted ones found, and shown wherever the sweep is shown."""

import csv
import html
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import job as package
from job.folder.local import LocalFolder
from job.results.gather import gather
from job.results.label_issues import label_issues
from job.trial import Trial
from sheets import read
from support import EASY, job, leave_predictions, leave_row, make_epochs, tint


def table(lines: list[tuple[str, float, float, float]]) -> pd.DataFrame:
    """A table of predictions of three classes."""
    found = pd.DataFrame(lines, columns=["label", "p_a", "p_b", "p_c"])
    return found.assign(split="val", image=[f"{n}.jpg" for n in range(len(found))])


def test_an_image_is_an_issue_where_another_class_reaches_that_classs_mean_self_confidence() -> None:
    # Mean self-confidence: of a (0.9 + 0.5 + 0.1) / 3 = 0.5, of b (0.8 + 0.6) / 2 = 0.7, of c 0.4.
    found = label_issues(table([
        ("a", 0.9, 0.1, 0.0), ("a", 0.5, 0.3, 0.2), ("a", 0.1, 0.75, 0.15), ("b", 0.1, 0.8, 0.1), ("b", 0.0, 0.6, 0.4),
        ("c", 0.55, 0.05, 0.4)]), ["a", "b", "c"])
    # 1.jpg: only a. 4.jpg: b misses its 0.7, and c reaches its 0.4. 5.jpg: a and c reach theirs, a is likelier.
    assert found["image"].tolist() == ["2.jpg", "5.jpg", "4.jpg"] and found["rank"].tolist() == [1, 2, 3]
    assert found["likely_label"].tolist() == ["b", "a", "c"] and found["label_probability"].tolist() == [0.1, 0.4, 0.6]
    assert found["likely_probability"].tolist() == [0.75, 0.55, 0.4]


def test_class_that_no_image_is_labelled_with_is_never_likely_and_right_labels_are_no_issues() -> None:
    assert label_issues(table([("a", 0.2, 0.1, 0.7), ("b", 0.1, 0.9, 0.0)]), ["a", "b", "c"]).empty
    rng = np.random.default_rng(0)
    lines = [("abc"[k], *np.where(np.arange(3) == k, 0.8, 0.1).tolist()) for k in rng.integers(0, 3, 60)]
    assert label_issues(table(lines), ["a", "b", "c"]).empty


def test_planted_wrong_labels_are_found_by_folds(tmp_path: Path) -> None:
    """Of 160 painted images 12 lie in the other class's folder: most are found, and little else."""
    planted = set()
    for label, other in (("warm", "cold"), ("cold", "warm")):
        for number in range(80):
            folder = other if number < 6 else label
            tint(tmp_path / "in" / folder / f"{label}{number:02d}.jpg", label, number)
            planted |= {f"{folder}/{label}{number:02d}.jpg"} if number < 6 else set()
    grid = job("grid", "--folds", 3, *EASY, "--epochs", 15).out
    (tmp_path / "grid.csv").write_text(grid)
    done = job("sweep", "--images", tmp_path / "in", "--test", 0, "--short-side", 48, "--grid", tmp_path / "grid.csv",
               tmp_path / "sweep")
    assert done.code == 0, done.err
    found = list(csv.DictReader(io.StringIO((tmp_path / "sweep" / "label-issues.csv").read_text())))
    hits = planted & {line["image"] for line in found}
    assert len(hits) >= 8 and len(hits) / len(found) >= 0.8, (sorted(planted), found)
    assert all(line["likely_label"] == line["image"].split("/")[1][:-6] for line in found if line["image"] in hits)
    assert f"{len(found)} of 160 labels may be wrong" in done.out
    assert package.open(str(tmp_path / "sweep")).label_issues["image"].tolist() == [line["image"] for line in found]


@pytest.fixture
def plain(tmp_path: Path) -> LocalFolder:
    """A sweep on the plain split whose best trial misses 3 of 100 validation and 1 of 10 test images."""
    folder = LocalFolder(str(tmp_path))
    leave_row(folder, Trial(trial="1"), make_epochs(1, 0.1), num_val=100, num_test=10)
    leave_predictions(folder, "1", [95, 97, 99], 100, [9], 10)
    return folder


def test_without_folds_validation_and_test_images_are_looked_at_and_the_number_is_said(plain: LocalFolder) -> None:
    summary, _, _ = gather(plain)
    assert summary.label_issues and summary.label_issues.num_images == 110
    names = [line["image"] for line in csv.DictReader(io.StringIO(plain.read("label-issues.csv").decode()))]
    assert set(names) == {"val95.jpg", "val97.jpg", "val99.jpg", "test9.jpg"}
    assert any(note.startswith("4 of 110 labels may be wrong") for note in summary.notes())
    sheet = read(plain)["Label issues"]
    assert [sheet.cell(row, 2).value for row in range(2, 6)] == names
    page = html.unescape(re.sub(r"<[^>]+>", "", plain.read("summary.html").decode()))
    assert "The likely wrong labels come first: 4 of 110" in page


def test_where_no_trial_is_recommended_no_label_is_called_wrong_and_an_old_file_is_deleted(plain: LocalFolder) -> None:
    gather(plain)
    leave_predictions(plain, "1", range(50), 100)
    summary, _, _ = gather(plain)
    assert summary.label_issues is None and not plain.exists("label-issues.csv")
    assert "Label issues" not in read(plain).sheetnames
