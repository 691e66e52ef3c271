"""The folds of a setting are pooled: more images, one line per setting, one recommendation, and what is missing."""

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import binomtest

import job as package
from job.folder.grid import format_grid, parse_grid
from job.folder.groups import all_folds
from job.folder.local import LocalFolder
from job.results.gather import gather
from job.results.summary import collect
from job.trial import Trial
from sheets import column, read
from support import job, leave_predictions, leave_row, make_epochs

ROUGH, FINE, SLOW = (Trial(trial=name, lr=lr, epochs=4, fold=1, folds=3) for name, lr in (
    ("rough", 0.1), ("fine", 0.01), ("slow", 0.001)))


def leave(folder: LocalFolder, trial: Trial, wrong: Iterable[int], count: int, seconds: float = 10.0) -> None:
    """Write the row and the predictions of a trial with these mistakes; folds differ in their images."""
    wrong = list(wrong)
    epochs = [replace(epoch, val_acc=1 - len(wrong) / count) for epoch in make_epochs(1, 0.3)]
    leave_row(folder, trial, epochs, num_val=count, num_test=10, test_acc=0.9, seconds=seconds)
    leave_predictions(folder, trial.trial, wrong, count, [0], 10, fold=f"fold{trial.fold}-" if trial.fold else "")


def leave_folds(folder: LocalFolder, trial: Trial, wrong: Sequence[Iterable[int]], count: int = 20) -> None:
    """Write as many folds of a setting as there are lists of mistakes."""
    for fold, missed in zip(all_folds(trial), wrong, strict=False):
        leave(folder, fold, missed, count, seconds=10.0 * fold.fold)


@pytest.fixture
def sweep(tmp_path: Path) -> LocalFolder:
    """Two settings with all three folds of 20 images (rough misses 3 + 2 + 1, fine 6 + 7 + 5), and one with two."""
    folder = LocalFolder(str(tmp_path / "sweep"))
    leave_folds(folder, ROUGH, [range(3), range(2), range(1)])
    leave_folds(folder, FINE, [range(1, 7), range(7), range(5)])
    leave_folds(folder, SLOW, [range(1), range(1)])
    return folder


def test_folds_of_a_setting_are_one_line_whose_figures_are_of_all_their_images(sweep: LocalFolder) -> None:
    summary = collect(sweep)
    lines = summary.lines[summary.lines["rank"].notna()]
    # The best fold comes first: it stands for a setting without a trial on the plain split.
    assert lines["trial"].tolist() == ["rough-f3", "fine-f3"]
    assert lines["best_val_acc"].tolist() == [54 / 60, 42 / 60]
    accs = pd.Series([17 / 20, 18 / 20, 19 / 20])
    found = summary.folds.iloc[0]
    assert (found["num_right"], found["num_images"], found["pooled_val_acc"]) == (54, 60, 54 / 60)
    interval = binomtest(54, 60).proportion_ci(0.95, "exact")
    assert (found["pooled_val_acc_low"], found["pooled_val_acc_high"]) == pytest.approx((interval.low, interval.high))
    assert found["mean_best_val_acc"] == pytest.approx(accs.mean())
    assert found["std_best_val_acc"] == pytest.approx(accs.std()) and found["mean_seconds"] == 20
    assert found["trials"] == "rough-f1, rough-f2, rough-f3" and found["model_of"] == "rough-f3"


def test_settings_are_compared_by_mcnemars_test_on_the_images_of_all_folds(sweep: LocalFolder) -> None:
    summary = collect(sweep)
    # Only fine is right: image 0 of fold 1. Only rough is right: 3 to 6, 2 to 6 and 1 to 4.
    p = binomtest(1, 1 + 4 + 5 + 4).pvalue
    line = summary.lines.set_index("trial").loc["fine-f3"]
    assert line["p_vs_best"] == pytest.approx(p) and line["verdict"] == "worse"
    # Of the 30 images of `yes`, the odd ones, rough misses image 1 of two folds; of `no` it misses 0, 2, 0 and 0.
    only_rough, only_no = 30 - 2, 4
    baseline = binomtest(only_no, only_rough + only_no, alternative="less").pvalue
    assert summary.recommendation.p_vs_baseline == pytest.approx(baseline)
    table = summary.table.set_index("trial")
    assert {table.loc[f"fine-f{k}", "p_vs_best"] for k in (1, 2, 3)} == {line["p_vs_best"]}
    assert table["rank"].dropna().tolist() == [1, 1, 1, 2, 2, 2]
    assert table.loc["fine-f1", "best_val_acc"] == pytest.approx(14 / 20)


def test_setting_without_all_its_folds_is_named_with_those_it_lacks_and_not_ranked(sweep: LocalFolder) -> None:
    summary = collect(sweep)
    assert any("setting of trial slow-f1 has 2 of 3 folds with usable figures; missing: 3" in note
               for note in summary.notes())
    assert summary.table.set_index("trial")["rank"][["slow-f1", "slow-f2"]].isna().all()
    assert summary.folds.iloc[2]["missing_folds"] == "3" and pd.isna(summary.folds.iloc[2]["pooled_val_acc"])
    # A fold without predictions is missing, too.
    sweep.delete("trials/rough-f2/predictions.csv")
    sweep.delete("trials/fine-f1/row.json")
    found = collect(sweep)
    assert found.recommendation.sentences == [
        "No trial is recommended: no setting has usable figures of all its folds."]
    assert found.table["rank"].isna().all() and found.label_issues is None


def test_plain_trial_of_the_setting_is_the_model_and_others_are_not_ranked_beside_more_images(
        sweep: LocalFolder) -> None:
    leave(sweep, replace(ROUGH, trial="plain", fold=0, folds=Trial.folds), range(4), 20)
    leave(sweep, Trial(trial="alone", lr=0.5, epochs=4), [], 20)
    summary = collect(sweep)
    found = summary.recommendation
    assert found.trial == "plain" and found.num_folds == 3 and found.val and found.val.num == 60
    assert found.sentences[0].startswith("Use trial plain (lr 0.1, epochs 4): the 3 folds of its setting together "
                                         "reach accuracy 0.9000 (54 of 60;")
    assert "and the trial itself 0.9000 (9 of 10;" in found.sentences[0]
    assert found.sentences[1] == "Its weights are those of the setting's trial on the plain split, plain."
    assert summary.table["trial"].tolist()[:4] == ["plain", "rough-f1", "rough-f2", "rough-f3"]
    assert summary.lines.set_index("trial").loc["alone", "rank"] != 1
    assert any(note.endswith("trials alone") and "on fewer images" in note for note in summary.notes())
    assert not any(trial.fold == 0 for trial in summary.next_trials)


def test_plain_trials_are_ranked_among_themselves_until_a_setting_has_all_its_folds(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    leave_folds(folder, SLOW, [range(1), range(1)])
    leave(folder, Trial(trial="1", lr=0.1, epochs=4), range(3), 40)
    leave(folder, Trial(trial="2", lr=0.01, epochs=4), range(20), 40)
    found = collect(folder)
    assert found.recommendation.trial == "1" and found.recommendation.num_folds == 0
    assert found.table[["trial", "rank"]].dropna().to_numpy().tolist() == [["1", 1.0], ["2", 2.0]]
    assert found.recommendation.val and found.recommendation.val.num == 40


def test_next_grid_offers_the_plain_trial_and_every_fold_of_what_to_try(sweep: LocalFolder) -> None:
    sweep.write("grid.csv", format_grid([*all_folds(ROUGH), *all_folds(FINE), *all_folds(SLOW)]).encode())
    gather(sweep)
    new = parse_grid(sweep.read("next-grid.csv").decode())[9:]
    assert new[0] == replace(ROUGH, trial="rough", fold=0, folds=Trial.folds)
    assert [(trial.trial, trial.lr, trial.fold, trial.folds) for trial in new[1:]] == [
        (f"rough-n{n}-f{k}", lr, k, 3) for n, lr in ((1, 1.0), (2, 10.0)) for k in (1, 2, 3)]


def test_folds_are_on_screen_in_the_workbook_on_the_page_and_in_json(sweep: LocalFolder) -> None:
    shown = job("gather", sweep.uri)
    assert ", one line per setting, sorted by val_acc" in shown.out
    assert shown.code == 0 and "sd over folds" in shown.out and "compared by their folds, on all 60" in shown.out
    assert "rough-f3 *" in shown.out and "rough-f1 " not in shown.out.split("\n\n")[0]
    book = read(sweep)
    sheet = book["Folds"]
    assert [sheet.cell(2, column(sheet, name)).value for name in ("rank", "num_images", "num_right", "verdict")] == [
        1, 60, 54, "best"]
    assert [sheet.cell(4, column(sheet, name)).value for name in ("trials", "missing_folds")] == [
        "slow-f1, slow-f2", "3"]
    assert book["Summary"].max_row == 9 and book["Mistakes"].max_row == 1 + 6 + 1
    page = html.unescape(re.sub(r"<[^>]+>", "", sweep.read("summary.html").decode()))
    assert "rough-f1, rough-f2, rough-f3" in page and "0.9000 (54 of 60; 95% interval" in page
    assert "Validation, 60 images" in page and "of 3 folds these are missing: 3" in page
    about = json.loads(sweep.read("summary.json"))
    assert about["folds"][0]["num_right"] == 54 and about["folds"][2]["pooled_val_acc"] is None
    assert about["recommendation"]["num_folds"] == 3
    assert package.open(sweep.uri).folds["num_right"].tolist()[:2] == [54, 42]
    assert not any(item["is_best"] for item in json.loads(job("status", sweep.uri, "--json").out)["trials"])


def test_seeds_of_a_setting_with_folds_are_repeats_of_pooled_figures(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    for seed, wrong in ((0, 2), (1, 4)):
        leave_folds(folder, replace(ROUGH, trial=f"s{seed}", seed=seed), [range(wrong)] * 3)
    found = collect(folder).repeats.iloc[0]
    assert found["num_seeds"] == 2 and found["mean_best_val_acc"] == pytest.approx((54 + 48) / 120)


def test_fold_that_shares_images_with_another_is_not_pooled(sweep: LocalFolder) -> None:
    # As after the pack was made again with another --near: fold 2 validated on images of fold 1.
    leave_predictions(sweep, "fine-f2", range(7), 20, [0], 10, fold="fold1-")
    summary = collect(sweep)
    assert summary.lines["trial"][summary.lines["rank"].notna()].tolist() == ["rough-f3"]
    assert summary.folds.set_index("trials").loc["fine-f1, fine-f3, fine-f2", "missing_folds"] == "2"
    assert any(note.startswith("trial fine-f2 validated on images of another fold") for note in summary.notes())
