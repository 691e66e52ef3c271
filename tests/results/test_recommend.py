"""One recommendation, the same everywhere: whose weights to use, or that no trial beats always saying one class."""

import html
import json
import re
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from scipy.stats import binomtest

import job as package
from job.folder.local import LocalFolder
from job.results.summary import collect
from job.trial import Trial
from support import job, leave_predictions, leave_row, make_epochs, on_terminal, plain

GREEN = re.compile(r"\x1b\[[0-9;]*32m[^\x1b]*(?:first|second|third|1|2)")


def leave(folder: LocalFolder, trial: Trial, wrong: range, wrong_on_test: range = range(0), **more: Any) -> None:
    """Write the row and the predictions of a trial with these mistakes among 100 validation and 50 test images."""
    leave_row(folder, trial, make_epochs(1, 1.5 * len(wrong) / 100), num_val=100, num_test=50,
              test_acc=1 - len(wrong_on_test) / 50, **more)
    leave_predictions(folder, trial.trial, wrong, 100, wrong_on_test, 50)


@pytest.fixture
def good(tmp_path: Path) -> LocalFolder:
    """first: 5 wrong of 100, dear; second: 8 wrong, cheap; third: as cheap and no better than always saying `no`."""
    folder = LocalFolder(str(tmp_path / "good"))
    leave(folder, Trial(trial="first", lr=0.0003, epochs=20), range(5), range(4), seconds=100.0)
    leave(folder, Trial(trial="second", lr=0.01, epochs=10), range(3, 11), range(6), seconds=50.0)
    leave(folder, Trial(trial="third", lr=0.1, epochs=10), range(45), range(25), seconds=40.0)
    return folder


@pytest.fixture
def tied(tmp_path: Path) -> LocalFolder:
    """Two trials, neither distinguishable from always saying `no`, the first at the edge of the grid."""
    folder = LocalFolder(str(tmp_path / "tied"))
    leave(folder, Trial(trial="1", lr=0.1, epochs=4), range(45), range(24))
    leave(folder, Trial(trial="2", lr=0.01, epochs=4), range(48), range(26))
    return folder


def test_first_sentence_names_the_trial_its_accuracies_with_exact_intervals_and_the_baseline(good: LocalFolder) -> None:
    found = collect(good).recommendation
    val, test = (binomtest(hits, num).proportion_ci(0.95, "exact") for hits, num in ((95, 100), (46, 50)))
    assert found.trial == "first" and found.sentences[0] == (
        f"Use trial first (lr 0.0003, epochs 20): it reaches accuracy 0.9500 (95 of 100; 95% interval {val.low:.3f} to "
        f"{val.high:.3f}) on validation and 0.9200 (46 of 50; 95% interval {test.low:.3f} to {test.high:.3f}) on test; "
        "always saying 'no' reaches 0.5000 (50 of 100) on validation and 0.5000 (25 of 50) on test.")


def test_second_sentence_names_cheaper_settings_that_beat_the_baseline_and_are_not_distinguishable(
        good: LocalFolder) -> None:
    found = collect(good).recommendation
    assert found.cheaper == ["second"] and "settings of trial second (lr 0.01, epochs 10)" in found.sentences[1]
    assert "50 s instead of 100 s" in found.sentences[1] and "Holm" in found.sentences[1]
    leave(good, Trial(trial="second", lr=0.01, epochs=10), range(3, 11), range(6), seconds=95.0)
    assert collect(good).recommendation.cheaper == []


def test_the_same_sentences_stand_on_screen_page_workbook_in_json_and_in_python(good: LocalFolder) -> None:
    sentences = collect(good).recommendation.sentences
    assert len(sentences) == 2
    shown = job("gather", good.uri)
    assert shown.code == 0 and shown.out.splitlines()[:2] == sentences
    about = json.loads(good.read("summary.json"))
    assert about["recommendation"]["sentences"] == sentences
    assert about["best"] == about["recommendation"]["trial"] == "first"
    assert json.loads(job("gather", good.uri, "--json").out)["recommendation"] == about["recommendation"]
    assert package.open(good.uri).recommendation.sentences == sentences
    book = openpyxl.load_workbook(good.path / "summary.xlsx")
    cells = {str(cell.value) for sheet in book for line in sheet.iter_rows() for cell in line}
    page = html.unescape(re.sub(r"<[^>]+>", "", good.read("summary.html").decode()))
    assert all(sentence in cells and sentence in page for sentence in sentences)


def test_where_no_trial_beats_the_baseline_none_is_recommended_nor_advice_given(tied: LocalFolder) -> None:
    done = job("gather", tied.uri)
    assert done.code == 0 and done.out.startswith("No trial beats always saying 'no'; use none of them.\n")
    assert "next" not in done.out and "best trial" not in done.out and "*" not in done.out
    assert not (tied.path / "next-grid.csv").exists()
    about = json.loads(tied.read("summary.json"))
    assert about["best"] is None and about["recommendation"]["trial"] is None
    assert about["recommendation"]["commonest"] == "no" and about["recommendation"]["baseline_val"]["num_right"] == 50


def test_only_a_trial_that_beats_the_baseline_is_green_on_screen(good: LocalFolder, tied: LocalFolder) -> None:
    shown = on_terminal(160, "gather", good.uri)
    assert [line for line in shown.splitlines() if GREEN.search(line) and "first *" in plain(line)]
    assert not re.search(r"\x1b\[[0-9;]*32m", on_terminal(160, "gather", tied.uri))


def test_trial_that_ranks_higher_but_does_not_beat_the_baseline_is_passed_over_and_named(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    for name, loss, wrong in (("lossy", 0.9, 5), ("calm", 0.1, 45)):
        epoch = make_epochs(1, 0.5)[0]
        leave_row(folder, Trial(trial=name, best_monitor="val_loss"), [epoch], best_val_loss=loss)
        leave_predictions(folder, name, range(wrong))
    leave_row(folder, Trial(trial="old", best_monitor="val_loss"), [epoch], best_val_loss=0.01)
    assert collect(folder).table["trial"].tolist() == ["old", "calm", "lossy"]
    found = collect(folder).recommendation
    assert found.trial == "lossy"
    assert "Ranked higher by val_loss, but not shown to beat always saying 'no': calm." in found.sentences
    assert any("predictions.csv" in sentence and sentence.endswith(": old.") for sentence in found.sentences)


def test_baseline_test_is_corrected_for_the_number_of_trials(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    # Of the images of `yes` 8 more are right than images of `no` are wrong: 27 against 15, p = 0.044.
    wrong = [*range(0, 30, 2), *range(1, 47, 2)]
    leave_row(folder, Trial(trial="1"), make_epochs(4, 0.5))
    leave_predictions(folder, "1", wrong)
    p = binomtest(27, 42, 0.5, alternative="greater").pvalue
    found = collect(folder)
    assert p < 0.05 and found.recommendation.trial == "1" and found.recommendation.p_vs_baseline == pytest.approx(p)
    leave_row(folder, Trial(trial="2"), make_epochs(4, 0.9))
    leave_predictions(folder, "2", range(60))
    found = collect(folder)
    line = found.table.set_index("trial").loc["1"]
    assert found.recommendation.trial == "" and line["p_vs_baseline_holm"] == pytest.approx(2 * p)
    assert not line["beats_baseline"]


def test_too_few_images_for_any_trial_to_beat_the_baseline_is_said(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    leave_row(folder, Trial(trial="1"), make_epochs(4, 0.0))
    leave_predictions(folder, "1", [], count=8)
    found = collect(folder).recommendation
    assert found.trial == "" and "4 of the 8 validation images are of another class" in found.sentences[-1]
    assert "the test needs 5 or more" in found.sentences[-1]
    leave_predictions(folder, "1", [], count=10)
    assert collect(folder).recommendation.trial == "1"


def test_threshold_of_a_wanted_recall_is_told_with_what_it_reaches_on_test(good: LocalFolder) -> None:
    leave(good, Trial(trial="first", lr=0.0003, epochs=20, recall=0.95), range(5), range(4), seconds=100.0,
          threshold=0.25, threshold_margin=-1.1, val_recall_at_threshold=0.96, test_recall=0.84,
          test_recall_at_threshold=0.92, test_confusion=[[25, 0], [4, 21]],
          test_confusion_at_threshold=[[20, 5], [2, 23]])
    sentence = collect(good).recommendation.sentences[2]
    assert "threshold 0.25 of 'yes'" in sentence and "recall is 0.9200 (23 of 25;" in sentence
    assert "accuracy 0.8600 (43 of 50;" in sentence and "(wanted: 0.95)" in sentence
    lines = job("gather", good.uri).out.splitlines()
    heading = next(line for line in lines if line.split()[:1] == ["trial"])
    assert "test recall at 0.5" in heading and "recall at threshold" in heading
    assert any("0.840" in line and "0.920" in line for line in lines if "first *" in line)


def test_sweep_of_failed_trials_and_one_without_predictions_recommend_none_and_say_why(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    leave_row(folder, Trial(trial="1"), [], status="failed", cause="no weights")
    assert collect(folder).recommendation.sentences == [
        "No trial is recommended: none has finished with usable figures."]
    leave_row(folder, Trial(trial="2"), make_epochs(4, 0.1))
    found = job("gather", folder.uri)
    assert found.code == 0 and "without predictions.csv it is not known" in found.out and "32m" not in found.out
