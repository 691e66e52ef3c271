"""The summary workbook: Summary, Condensed (the first study's layout) and a sheet a trial, with live medians and charts."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pandas as pd
import xlsxwriter
from xlsxwriter.format import Format
from xlsxwriter.utility import xl_rowcol_to_cell
from xlsxwriter.worksheet import Worksheet

from job.record import FIGURES
from job.trial import Trial

TITLES = {"train_loss": "Train_Loss", "train_acc": "Train_Acc", "val_loss": "Val_Loss", "val_acc": "Val_Acc"}
CONDENSED = {"lr": "lr", "step_size": "Step Size", "gamma": "Gamma", "momentum": "Momentum", "epochs": "Epoch#",
             "seconds": "Time(s)"}
SUMMARY_FIGURES = ["best_epoch", "best_val_acc", "best_val_loss", "best_train_acc", "best_train_loss", "test_acc",
                   "test_loss", "test_precision", "test_recall", "test_f1", "test_false_negatives", "test_confusion",
                   *(f"median_{name}" for name in FIGURES), *(f"last_{name}" for name in FIGURES), "epochs_run",
                   "seconds", "images_per_second", "device", "precision_used", "host", "git_commit", "pack_hash", "cause"]
EPOCH_COLUMN = 3
FIRST_EPOCH_ROW = 1


class Book:
    """An XlsxWriter workbook with this project's formats; text is always written as text, never as a formula."""

    def __init__(self, buffer: io.BytesIO) -> None:
        options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
        self.workbook = xlsxwriter.Workbook(buffer, options)
        add = self.workbook.add_format
        self.head = add({"bold": True, "bg_color": "#D9E2EC", "bottom": 1})
        self.bold = add({"bold": True})
        self.formats = {"figure": add({"num_format": "0.0000"}), "seconds": add({"num_format": "#,##0.0"}),
                        "plain": add({}), "whole": add({"num_format": "#,##0"})}
        self.best_formats = {name: add({"num_format": kind, "bg_color": "#E3F4E1", "bold": True}) for name, kind in
                             (("figure", "0.0000"), ("seconds", "#,##0.0"), ("plain", "General"), ("whole", "#,##0"))}
        self.taken: set[str] = set()

    def sheet(self, name: str) -> Worksheet:
        r"""A new sheet under an allowed, unused name: 31 characters, none of []:*?/\, told apart without case."""
        clean = re.sub(r"[\[\]:*?/\\']", "_", name)[:31]
        number = 2
        while clean.lower() in self.taken:
            clean = f"{re.sub(r'[^A-Za-z0-9._ -]', '_', name)[:27]}~{number}"
            number += 1
        self.taken.add(clean.lower())
        sheet = self.workbook.add_worksheet(clean)
        sheet.set_landscape()
        sheet.fit_to_pages(1, 0)
        return sheet


def kind_of(name: str) -> str:
    """Which of the number formats a column has."""
    if name.endswith(("_loss", "_acc", "_precision", "_recall", "_f1")):
        return "figure"
    return "seconds" if "second" in name else "plain"


def put(sheet: Worksheet, row: int, column: int, value: Any, form: Format | None = None) -> None:
    """Write a number as a number and everything else as text; nothing for None, NaN and infinity."""
    if isinstance(value, (list, dict)):
        value = str(value)
    if isinstance(value, str):
        if value:
            sheet.write_string(row, column, value, form)
        return
    if value is None or not math.isfinite(value):
        sheet.write_blank(row, column, None, form)
        return
    sheet.write_number(row, column, value, form)


def workbook_bytes(table: pd.DataFrame, epochs: dict[str, pd.DataFrame], monitor: str, notes: Sequence[str]) -> bytes:
    """The whole workbook. table: a line a trial, ranked; epochs: trial -> its per-epoch table; notes: lines of text."""
    buffer = io.BytesIO()
    book = Book(buffer)
    summary, condensed = book.sheet("Summary"), book.sheet("Condensed")
    in_order = table.iloc[natural_order(table["trial"])]
    places: dict[str, tuple[str, dict[str, str]]] = {}
    for _, line in in_order.iterrows():
        sheet = book.sheet(f"Trial {line['trial']}")
        places[line["trial"]] = (sheet.get_name(), write_trial(book, sheet, line, epochs[line["trial"]]))
    write_summary(book, summary, table, monitor, notes)
    write_condensed(book, condensed, in_order, places, epochs)
    book.workbook.close()
    return buffer.getvalue()


def natural_order(names: Sequence[str]) -> list[int]:
    """Positions of the names, numbers first and in their order."""
    keys = [(0, int(name), "") if name.isdecimal() else (1, 0, name) for name in names]
    return sorted(range(len(keys)), key=keys.__getitem__)


def settings_of(table: pd.DataFrame) -> list[str]:
    """The Trial fields worth a column: lr, epochs, batch_size, and each that is not at its default in some trial."""
    return [spec.name for spec in fields(Trial) if spec.name in table and spec.name != "trial"
            and (spec.name in ("lr", "epochs", "batch_size")
                 or (table[spec.name].notna() & (table[spec.name] != spec.default)).any())]


def write_summary(book: Book, sheet: Worksheet, table: pd.DataFrame, monitor: str, notes: Sequence[str]) -> None:
    """A line a trial, the best one first and marked, the notes below."""
    columns = ["rank", "trial", "status", *settings_of(table), *(name for name in SUMMARY_FIGURES if name in table)]
    for column, name in enumerate(columns):
        put(sheet, 0, column, f"{name} *" if name == f"best_{monitor}" else name, book.head)
    for number, (_, line) in enumerate(table.iterrows(), 1):
        formats = book.best_formats if line["rank"] == 1 else book.formats
        for column, name in enumerate(columns):
            value = line[name]
            if name == "rank" and value == 1:
                value = "1 best"
            put(sheet, number, column, value, formats[kind_of(name)])
    sheet.autofilter(0, 0, len(table), len(columns) - 1)
    sheet.freeze_panes(1, 2)
    sheet.autofit(300)
    where = f"* sorted by this figure of each trial's best epoch ({monitor})"
    for number, note in enumerate([where, *notes], len(table) + 2):
        put(sheet, number, 0, note)


def write_trial(book: Book, sheet: Worksheet, line: pd.Series, epochs: pd.DataFrame) -> dict[str, str]:
    """Settings and medians on the left, the epochs beside them, two charts; answers where the medians stand."""
    names = [spec.name for spec in fields(Trial) if spec.name in line.index]
    facts = [*names, "status", "cause", "best_epoch", "best_val_acc", "best_val_loss", "test_acc", "test_recall",
             "test_false_negatives", "seconds"]
    put(sheet, 0, 0, "Setting", book.head)
    put(sheet, 0, 1, "Value", book.head)
    for column, name in enumerate(epochs.columns, EPOCH_COLUMN):
        put(sheet, 0, column, TITLES.get(name, name), book.head)
    for number, (_, epoch) in enumerate(epochs.iterrows(), FIRST_EPOCH_ROW):
        for column, name in enumerate(epochs.columns, EPOCH_COLUMN):
            put(sheet, number, column, epoch[name], book.formats["figure" if name in TITLES else kind_of(name)])
    medians = {}
    for number, name in enumerate(FIGURES if len(epochs) else (), 1):
        first, last = (xl_rowcol_to_cell(row, column_of(epochs, name)) for row in (FIRST_EPOCH_ROW, len(epochs)))
        put(sheet, number, 0, f"Median_{TITLES[name]}", book.bold)
        sheet.write_formula(number, 1, f"=MEDIAN({first}:{last})", book.formats["figure"], median(epochs[name]))
        medians[name] = xl_rowcol_to_cell(number, 1, row_abs=True, col_abs=True)
    for number, name in enumerate([name for name in facts if name in line.index], len(FIGURES) + 2):
        put(sheet, number, 0, name)
        put(sheet, number, 1, line[name], book.formats[kind_of(name)])
    sheet.freeze_panes(1, 0)
    sheet.autofit(300)
    if len(epochs):
        add_charts(book, sheet, epochs)
    return medians


def median(values: pd.Series) -> float | str:
    """The median of the finite values, as MEDIAN gives it; '' where there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return float(pd.Series(finite).median()) if finite else ""


def column_of(epochs: pd.DataFrame, name: str) -> int:
    """The sheet's column of a figure."""
    return EPOCH_COLUMN + list(epochs.columns).index(name)


def add_charts(book: Book, sheet: Worksheet, epochs: pd.DataFrame) -> None:
    """Native line charts of train and validation loss and accuracy, beside the table."""
    last, beside = len(epochs), EPOCH_COLUMN + len(epochs.columns) + 1
    for number, (title, names) in enumerate((("Loss", ("train_loss", "val_loss")), ("Accuracy", ("train_acc", "val_acc")))):
        chart = book.workbook.add_chart({"type": "line"})
        for name in names:
            column = column_of(epochs, name)
            chart.add_series({"name": [sheet.get_name(), 0, column],
                              "categories": [sheet.get_name(), FIRST_EPOCH_ROW, EPOCH_COLUMN, last, EPOCH_COLUMN],
                              "values": [sheet.get_name(), FIRST_EPOCH_ROW, column, last, column],
                              "line": {"width": 2}, "marker": {"type": "circle", "size": 4} if last < 30 else {"type": "none"}})
        chart.set_title({"name": title})
        chart.set_x_axis({"name": "epoch"})
        chart.set_y_axis({"name": title.lower(), "num_format": "0.00"})
        chart.set_legend({"position": "bottom"})
        chart.set_size({"width": 560, "height": 300})
        sheet.insert_chart(1 + 16 * number, beside, chart)


def write_condensed(book: Book, sheet: Worksheet, table: pd.DataFrame, places: dict[str, tuple[str, dict[str, str]]],
                    epochs: dict[str, pd.DataFrame]) -> None:
    """The first study's own sheet: trials as columns; settings, then the medians, as rows, each linked to its sheet."""
    names = [*CONDENSED, *(name for name in settings_of(table) if name not in CONDENSED)]
    put(sheet, 0, 0, "", book.head)
    medians_from = len(names) + 3
    for row, name in enumerate(names, 1):
        put(sheet, row, 0, CONDENSED.get(name, name), book.bold)
    for row, name in enumerate(FIGURES, medians_from):
        put(sheet, row, 0, f"Median_{TITLES[name]}", book.bold)
    for column, (_, line) in enumerate(table.iterrows(), 1):
        put(sheet, 0, column, f"Trial {line['trial']}", book.head)
        for row, name in enumerate(names, 1):
            put(sheet, row, column, line.get(name), book.formats[kind_of(name)])
        sheet_name, medians = places[line["trial"]]
        for row, name in enumerate(FIGURES, medians_from):
            if name in medians:
                sheet.write_formula(row, column, f"='{sheet_name}'!{medians[name]}", book.formats["figure"],
                                    median(epochs[line["trial"]][name]))
    sheet.freeze_panes(1, 1)
    sheet.autofit(300)
