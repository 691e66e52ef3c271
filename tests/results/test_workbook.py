"""The workbook: whole tables, the study's layout with live medians, native charts, and text that stays text."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from job.folder.local import LocalFolder
from job.record import Epoch
from job.results.gather import gather
from job.results.summary import collect
from job.trial import Trial
from sheets import column, read
from support import leave_row, make_epochs, shared


def name_of(series: Any) -> str:
    """The name of a chart's series."""
    return str(series.tx.v or series.tx.strRef.f)


def test_sheets_come_in_the_order_of_reading(three_rows: LocalFolder) -> None:
    gather(three_rows)
    assert read(three_rows).sheetnames == ["Start here", "Summary", "Mistakes", "Per class", "Confidence", "Condensed",
                                           "Columns", "Trial 1", "Trial 2", "Trial 3"]


def test_summary_has_a_line_per_trial_by_rank_whose_filter_arrows_hide_no_header(three_rows: LocalFolder) -> None:
    gather(three_rows)
    sheet = read(three_rows)["Summary"]
    trials = [sheet.cell(row, column(sheet, "trial")) for row in (2, 3, 4)]
    assert [cell.value for cell in trials] == ["2", "3", "1"] and sheet.max_row == 4
    assert [cell.hyperlink.location for cell in trials] == [f"'Trial {name}'!A1" for name in ("2", "3", "1")]
    best = sheet.cell(2, column(sheet, "best_val_acc"))
    assert best.value == pytest.approx(1 - 0.2 / 4 / 1.5) and best.number_format == "0.0000"
    assert sheet.auto_filter.ref == f"A1:{sheet.cell(1, sheet.max_column).coordinate[:-1]}4"
    # The arrow is 17 pixels high, at the bottom of the cell; the text is at the top.
    assert sheet.row_dimensions[1].height >= 28 and all(cell.alignment.vertical == "top" for cell in sheet[1])
    assert sheet.freeze_panes == "C2" and (sheet.print_title_rows, sheet.print_title_cols) == ("$1:$1", "$A:$B")
    # One entry stands for neighbours of the same width.
    widths = {number: shape.width for shape in sheet.column_dimensions.values()
              for number in range(shape.min, shape.max + 1)}
    assert all(widths[cell.column] >= len(str(cell.value)) for cell in sheet[1])


def test_provenance_medians_and_last_figures_are_grouped_and_folded(three_rows: LocalFolder) -> None:
    gather(three_rows)
    sheet = read(three_rows)["Summary"]
    folded = set()
    for shape in sheet.column_dimensions.values():
        if shape.hidden:
            assert shape.outlineLevel == 1
            # One entry stands for neighbours of the same width.
            folded |= {sheet.cell(1, number).value for number in range(shape.min, shape.max + 1)}
    figures = ("train_loss", "train_acc", "val_loss", "val_acc")
    assert folded >= {f"{part}_{name}" for part in ("median", "last") for name in figures} | {"pack_hash"}
    assert not folded & {"rank", "trial", "lr", "epochs", "best_val_acc", "test_acc", "seconds", "verdict"}


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


def test_trial_sheet_has_its_epochs_live_medians_and_two_native_charts_with_the_best_epoch_marked(
        three_rows: LocalFolder) -> None:
    gather(three_rows)
    formulas, values = read(three_rows, values=False)["Trial 2"], read(three_rows)["Trial 2"]
    assert [cell.value for cell in values[1]][3:8] == ["epoch", "train_loss", "train_acc", "val_loss", "val_acc"]
    assert [values.cell(row, 4).value for row in range(2, 6)] == [1, 2, 3, 4]
    assert formulas["B2"].value == "=MEDIAN(E2:E5)" and formulas["B5"].value == "=MEDIAN(H2:H5)"
    assert values["A2"].value == "median_train_loss" and values["B2"].value == pytest.approx((0.2 / 2 + 0.2 / 3) / 2)
    assert values.freeze_panes == "A2"
    assert [values.cell(row, 4).font.bold for row in range(2, 6)] == [False, False, False, True]
    charts = formulas._charts
    assert [[name_of(one) for one in chart.series] for chart in charts] == [
        ["train_loss", "val_loss", "best epoch"], ["train_acc", "val_acc", "best epoch"]]
    assert charts[0].series[1].yVal.numRef.f == "'Trial 2'!$G$2:$G$5"
    best = charts[1].series[2]
    assert (best.xVal.numRef.f, best.yVal.numRef.f) == ("'Trial 2'!$D$5", "'Trial 2'!$H$5")


def test_seconds_have_the_digits_that_they_need(three_rows: LocalFolder) -> None:
    gather(three_rows)
    sheet = read(three_rows)["Summary"]
    assert sheet.cell(2, column(sheet, "seconds")).number_format == "[<10]0.00;[<1000]0.0;#,##0"


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
    assert collect(folder).table["trial"].iloc[0] == "8"


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
    assert len(book.sheetnames) == 12 and all(len(name) <= 31 for name in book.sheetnames)
    assert book.sheetnames[7:9] == ["Trial 9", "Trial 10"]
    sheet = book["Condensed"]
    row = next(r for r in sheet.iter_rows() if r[0].value == "Median_Val_Loss")
    assert all(cell.value == pytest.approx(1.1 * 0.5 * 0.75) for cell in row[1:])
