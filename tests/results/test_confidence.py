"""Calibration and sets of a trained sweep, against scipy and figures by hand; on page, workbook and screen."""

import json
import math
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from html_tables import Reader
from job.folder.local import LocalFolder
from job.folder.storage import open_folder
from job.results.gather import gather
from job.results.reliability import reliability
from job.results.sets import sets_of
from job.training.weights import read_about
from support import leave_predictions, row

CLASSES = ["bar", "disc", "ring"]


def predictions(sweep: Path, trial: str) -> pd.DataFrame:
    """The trial's table of predictions."""
    return pd.read_csv(sweep / "trials" / trial / "predictions.csv")


def shares(found: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of some predictions."""
    return found[[f"p_{name}" for name in CLASSES]].to_numpy(), np.array([CLASSES.index(x) for x in found["label"]])


def nll(logits: np.ndarray, labels: np.ndarray) -> float:
    """The negative log-likelihood, by hand."""
    top = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(top).sum(1)) - top[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("trial", ["1", "2"])
def test_row_holds_the_temperature_of_scipy_and_figures_by_hand(calibrated: Path, trial: str) -> None:
    """Trial 1 is a shorter one of the trajectory. Calibrated probabilities give the logits, but for a sum per image."""
    found, table = row(calibrated, trial), predictions(calibrated, trial)
    assert (table["split"] == "val").sum() == 42 and (table["split"] == "test").sum() == 45
    logits = {split: np.log(shares(part)[0]) * found["temperature"] for split, part in table.groupby("split")}
    labels = {split: shares(part)[1] for split, part in table.groupby("split")}
    best = minimize_scalar(lambda t: nll(logits["val"] / math.exp(t), labels["val"]), method="bounded",
                           bounds=(math.log(0.05), math.log(20)), options={"xatol": 1e-9})
    assert found["temperature"] == pytest.approx(math.exp(best.x), rel=1e-3)
    for split, part in table.groupby("split"):
        chances, truth = shares(part)
        assert found[f"{split}_nll"] == pytest.approx(nll(logits[split], truth))
        assert found[f"{split}_nll_calibrated"] == pytest.approx(nll(np.log(chances), truth))
        assert found[f"{split}_brier"] == pytest.approx(((chances - np.eye(3)[truth]) ** 2).sum(1).mean())
        order = np.argsort(chances.max(1), kind="stable")
        gaps = ((chances.argmax(1) == truth) - chances.max(1))[order]
        by_hand = sum(abs(bin.sum()) for bin in np.array_split(gaps, round(len(gaps) ** (1 / 3)))) / len(gaps)
        assert found[f"{split}_ece"] == pytest.approx(by_hand)
        assert found[f"{split}_ece_low"] <= found[f"{split}_ece_high"]
    assert found["val_nll_calibrated"] <= found["val_nll"] and found["calibration_note"] == ""
    about = read_about((calibrated / "trials" / trial / "best.safetensors").read_bytes(), "weights")
    assert about.temperature == found["temperature"]


def test_bins_of_the_diagram_give_the_error_of_the_row_and_exact_intervals(calibrated: Path) -> None:
    table = predictions(calibrated, "2").assign(probability=lambda t: shares(t)[0].max(1))
    found = reliability(table)
    for split, part in found.groupby("split"):
        error = (part["images"] * (part["accuracy"] - part["confidence"]).abs()).sum() / part["images"].sum()
        assert error == pytest.approx(row(calibrated, "2")[f"{split}_ece"])
        assert part["images"].max() - part["images"].min() <= 1
        for line in part.to_dict("records"):
            exact = binomtest(round(line["accuracy"] * line["images"]), line["images"]).proportion_ci(0.95, "exact")
            assert (line["accuracy_low"], line["accuracy_high"]) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_sets_of_the_trained_sweep_are_those_of_a_quantile_by_hand(calibrated: Path) -> None:
    table = predictions(calibrated, "2")
    val, test = (shares(table[table["split"] == split]) for split in ("val", "test"))
    scores = np.sort(1 - val[0][np.arange(42), val[1]])
    limit = scores[math.ceil(43 * 0.9) - 1]
    inside = 1 - test[0] <= limit + 1e-9
    found = sets_of(table, CLASSES, 0.9)
    assert found.limit == limit and found.mean_size == inside.sum(1).mean()
    assert found.num_covered == inside[np.arange(45), test[1]].sum() and found.num_test == 45
    exact = binomtest(int(found.num_covered), 45).proportion_ci(0.95, "exact")
    assert found.covered and (found.covered.low, found.covered.high) == pytest.approx((exact.low, exact.high))


def test_page_workbook_and_screen_show_the_diagram_its_bins_and_the_sets(calibrated: Path) -> None:
    summary, _, _ = gather(open_folder(str(calibrated)))
    trial = summary.shown_trial
    said = json.loads((calibrated / "summary.json").read_text())
    assert {item["trial"]: item["num_test"] for item in said["sets"]}[trial] == 45
    assert any("prediction sets of coverage 0.9" in note for note in said["notes"])
    wanted = reliability(summary.predictions[trial])
    text = (calibrated / "summary.html").read_text()
    bins = Reader(text).table(data_bins="reliability").texts()
    assert len(bins) == 1 + len(wanted) and 'data-chart="reliability"' in text and text.count("whisker") > len(wanted)
    assert str(summary.sets[trial]) in text and f"{row(calibrated, trial)['temperature']:.4f}" in text
    book = openpyxl.load_workbook(calibrated / "summary.xlsx")
    sheet = book["Confidence"]
    lines = [[cell.value for cell in line[:8]] for line in sheet.iter_rows(min_row=2, max_row=1 + len(wanted))]
    for line, bin in zip(lines, wanted.to_dict("records"), strict=True):
        assert line[0] == bin.pop("split") and line[1:] == pytest.approx(list(bin.values()))
    assert [len(chart.series) for chart in sheet._charts] == [3] and sheet._charts[0].series[1].errBars
    summary_sheet = [cell.value for cell in book["Summary"][1]]
    assert {"temperature", "val_ece", "test_nll", "test_nll_calibrated"} <= set(summary_sheet)


def test_old_sweep_without_temperature_is_shown_with_raw_probabilities(three_rows: LocalFolder) -> None:
    summary, _, _ = gather(three_rows)
    notes = summary.notes()
    assert not any("temperature" in note for note in notes) and any("prediction sets" in note for note in notes)
    assert summary.sets["2"].num_test == 10 and pd.isna(summary.table["temperature"]).all()


def test_too_few_validation_images_give_no_sets_and_the_words_why(three_rows: LocalFolder) -> None:
    for trial in "123":
        leave_predictions(three_rows, trial, count=8)
    summary, _, _ = gather(three_rows)
    assert any("no prediction sets: a coverage of 0.9 needs 9 validation images, and there are 8" in note
               for note in summary.notes())
