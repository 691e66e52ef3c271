"""The workbook in the study's layout: live medians, native charts, and text that stays text."""

import csv
import io
from pathlib import Path

import pytest

from job.folder.local import LocalFolder
from job.record import Epoch
from job.results.gather import gather
from job.results.summary import collect
from job.trial import Trial
from sheets import column, read
from support import leave_row, make_epochs, shared


def test_settings_are_columns_only_where_the_grid_uses_them(three_rows: LocalFolder) -> None:
    def shown() -> tuple[set[object], set[object]]:
        gather(three_rows)
        book = read(three_rows)
        return {cell.value for cell in book["Summary"][1]}, {row[0].value for row in book["Condensed"].iter_rows()}

    summary, condensed = shown()
    assert not {"dropout", "freeze", "threshold"} & (summary | condensed) and "batch_size" in summary & condensed
    trial = Trial(trial="4", lr=0.001, epochs=6, dropout=0.2, freeze=True)
    leave_row(three_rows, trial, make_epochs(6, 0.9), threshold=0.25)
    summary, condensed = shown()
    assert {"dropout", "freeze", "threshold"} <= summary and {"dropout", "freeze"} <= condensed
    sheet = read(three_rows)["Summary"]
    assert {sheet.cell(row, column(sheet, "freeze")).value for row in range(2, 6)} == {"yes", "no"}


def test_trial_sheet_has_its_epochs_live_medians_and_two_native_charts(three_rows: LocalFolder) -> None:
    gather(three_rows)
    formulas, values = read(three_rows, values=False)["Trial 2"], read(three_rows)["Trial 2"]
    assert [cell.value for cell in values[1]][3:8] == ["epoch", "Train_Loss", "Train_Acc", "Val_Loss", "Val_Acc"]
    assert [values.cell(row, 4).value for row in range(2, 6)] == [1, 2, 3, 4]
    assert formulas["B2"].value == "=MEDIAN(E2:E5)" and formulas["B5"].value == "=MEDIAN(H2:H5)"
    assert values["A2"].value == "Median_Train_Loss" and values["B2"].value == pytest.approx((0.2 / 2 + 0.2 / 3) / 2)
    assert values.freeze_panes == "A2"
    charts = formulas._charts
    assert [type(chart).__name__ for chart in charts] == ["LineChart", "LineChart"]
    assert [len(chart.series) for chart in charts] == [2, 2]
    assert charts[0].series[1].val.numRef.f == "'Trial 2'!$G$2:$G$5"


def test_study_history_gives_the_studys_medians_to_four_decimals(tmp_path: Path) -> None:
    """The whole way: the study's recorded epochs as rows, `job gather`'s code, the workbook opened again."""
    texts = [(shared("seed") / name).read_text() for name in ("epochs.csv", "trials.csv")]
    history, published = ([*csv.DictReader(io.StringIO(text))] for text in texts)
    folder = LocalFolder(str(tmp_path))
    for line in published:
        trial = Trial(trial=line["trial"], lr=float(line["lr"]), epochs=int(line["epochs"]),
                      batch_size=int(line["batch_size"]), step_size=int(line["step_size"]),
                      gamma=float(line["gamma"]), momentum=float(line["momentum"]))
        figures = ("train_loss", "train_acc", "val_loss", "val_acc")
        epochs = [Epoch(epoch=int(e["epoch"]), **{key: float(e[key]) for key in figures})
                  for e in history if e["trial"] == line["trial"]]
        leave_row(folder, trial, epochs, seconds=float(line["time_seconds"]))
    gather(folder)
    sheet = read(folder)["Condensed"]
    rows = {row[0].value: [cell.value for cell in row[1:]] for row in sheet.iter_rows() if row[0].value}
    assert [cell.value for cell in sheet[1]][1:] == [f"Trial {n}" for n in range(1, 9)]
    medians = {name: name.lower() for name in ("Median_Train_Loss", "Median_Train_Acc", "Median_Val_Loss",
                                               "Median_Val_Acc")}
    for label, name in {"lr": "lr", "Step Size": "step_size", "Gamma": "gamma", "Momentum": "momentum",
                        "Epoch#": "epochs", "Time(s)": "time_seconds", **medians}.items():
        for found, line in zip(rows[label], published, strict=True):
            assert found == pytest.approx(float(line[name]), abs=5e-5), (label, line["trial"])
    best = collect(folder).best
    assert best is not None and best["trial"] == "8"


def test_text_that_begins_like_a_formula_stays_text(three_rows: LocalFolder) -> None:
    for number, cause in enumerate(("=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x")', "http://example.org"), 5):
        leave_row(three_rows, Trial(trial=str(number)), [], status="failed", cause=cause)
    gather(three_rows)
    sheet = read(three_rows, values=False)["Summary"]
    cells = [sheet.cell(row, column(sheet, "cause")) for row in range(5, 11)]
    shown = {cell.value for cell in cells}
    assert shown >= {"=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x")', "http://example.org"}
    assert all(cell.data_type == "s" and cell.hyperlink is None for cell in cells)


def test_long_and_odd_trial_names_make_allowed_sheets(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    names = ["a" * 40, "a" * 39 + "b", "x.y_z-1", "10", "9"]
    for name in names:
        leave_row(folder, Trial(trial=name), make_epochs(2, 0.5))
    gather(folder)
    book = read(folder)
    assert len(book.sheetnames) == 7 and all(len(name) <= 31 for name in book.sheetnames)
    assert book.sheetnames[2:4] == ["Trial 9", "Trial 10"]
    sheet = book["Condensed"]
    row = next(r for r in sheet.iter_rows() if r[0].value == "Median_Val_Loss")
    assert all(cell.value == pytest.approx(1.1 * 0.5 * 0.75) for cell in row[1:])
