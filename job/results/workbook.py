"""The summary workbook: Summary, Condensed (the first study's layout), and one sheet per trial with live medians."""

import io
import math
from collections.abc import Sequence

import pandas as pd
from xlsxwriter.utility import xl_rowcol_to_cell

from job.folder.escape import for_workbook
from job.record import FIGURES
from job.results.spreadsheet import Book, Page, kind_of
from job.results.summary import has_values, natural, settings_of

TITLES = {"train_loss": "Train_Loss", "train_acc": "Train_Acc", "val_loss": "Val_Loss", "val_acc": "Val_Acc"}
CONDENSED = {"lr": "lr", "step_size": "Step Size", "gamma": "Gamma", "momentum": "Momentum", "epochs": "Epoch#",
             "seconds": "Time(s)"}
SUMMARY_FIGURES = ["best_epoch", "best_val_acc", "best_val_loss", "p_vs_best", "verdict", "best_train_acc",
                   "best_train_loss", "test_acc", "test_loss", "test_precision", "test_recall", "test_f1",
                   "test_false_negatives", "test_confusion", "test_roc_auc", "test_average_precision", "last_test_acc",
                   "last_test_false_negatives", "threshold", "val_recall_at_threshold", "test_acc_at_threshold",
                   "test_precision_at_threshold", "test_recall_at_threshold", "test_f1_at_threshold",
                   "test_false_negatives_at_threshold", "test_confusion_at_threshold",
                   *(f"median_{name}" for name in FIGURES), *(f"last_{name}" for name in FIGURES), "epochs_run",
                   "seconds", "images_per_second", "device", "precision_used", "host", "image", "git_commit",
                   "pack_hash", "best_reason", "trained_by", "cause"]
EPOCH_COLUMN = 3
FIRST_EPOCH_ROW = 1
MOST_MARKERS = 30


def workbook_bytes(table: pd.DataFrame, epochs: dict[str, pd.DataFrame], repeats: pd.DataFrame, monitor: str,
                   notes: Sequence[str]) -> bytes:
    """Return the workbook as the bytes of an xlsx file.

    table: one line per trial, ranked. epochs: trial -> its table of epochs. repeats: one line per setting with several
    seeds, or empty. monitor: the figure that the table is sorted by. notes: lines of text below the table.
    """
    buffer = io.BytesIO()
    book = Book(buffer)
    summary, condensed = book.page("Summary"), book.page("Condensed")
    if len(repeats):
        write_repeats(book.page("Repeats"), repeats)
    names = list(table["trial"])
    in_order = table.iloc[sorted(range(len(names)), key=lambda position: natural(names[position]))]
    pages = {line["trial"]: book.page(f"Trial {line['trial']}") for _, line in in_order.iterrows()}
    settings = ["trial", *(name for name in CONDENSED if name != "seconds"), *settings_of(table)]
    medians = {}
    for _, line in in_order.iterrows():
        trial = line["trial"]
        medians[trial] = write_trial(pages[trial], line, epochs[trial], list(dict.fromkeys(settings)))
    below = write_summary(summary, table, monitor, notes)
    places = [(below, 2), (below + 16, 2)]
    for best in table[table["rank"] == 1]["trial"]:
        add_charts(summary, pages[best].name, epochs[best], f" of the best trial, {best}", places)
    write_condensed(condensed, in_order, pages, medians, epochs)
    book.workbook.close()
    return buffer.getvalue()


def write_summary(page: Page, table: pd.DataFrame, monitor: str, notes: Sequence[str]) -> int:
    """Write one line per trial, the best first and marked, and the notes below; return the first free row."""
    figures = [name for name in SUMMARY_FIGURES if name in table and has_values(table[name])]
    columns = ["rank", "trial", "status", *settings_of(table), *figures]
    for column, name in enumerate(columns):
        text = isinstance(table[name].iloc[0], (str, list))
        page.put(0, column, f"{name} *" if name == f"best_{monitor}" else name, "head" if text else "head right")
    for number, (_, line) in enumerate(table.iterrows(), 1):
        best = line["rank"] == 1
        for column, name in enumerate(columns):
            value = "1 best" if name == "rank" and best else line[name]
            if name in ("pack_hash", "git_commit"):
                value = str(value)[:12]
            page.put(number, column, value, f"best {kind_of(name)}" if best else kind_of(name))
    page.sheet.autofilter(0, 0, len(table), len(columns) - 1)
    page.close(1, 2)
    legend = f"* sorted by {monitor} of each trial's best epoch; best_ is the best epoch, last_ the last one"
    for number, note in enumerate([legend, *notes], len(table) + 2):
        # To the right of the frozen columns: those are printed on every page.
        page.sheet.write_string(number, 2, for_workbook(note))
    return len(table) + len(notes) + 4


def write_repeats(page: Page, repeats: pd.DataFrame) -> None:
    """Write mean and spread over seeds, one line per setting."""
    for column, name in enumerate(repeats.columns):
        page.put(0, column, name, "head" if isinstance(repeats[name].iloc[0], str) else "head right")
    for number, (_, line) in enumerate(repeats.iterrows(), 1):
        for column, name in enumerate(repeats.columns):
            page.put(number, column, line[name], kind_of(name))
    page.close(1, 0)


def write_trial(page: Page, line: pd.Series, epochs: pd.DataFrame, settings: Sequence[str]) -> dict[str, str]:
    """Write a trial's medians, settings, epochs and two charts; return figure -> the cell of its median."""
    facts = [*settings, "status", "cause", "best_epoch", "best_reason", "best_val_acc", "best_val_loss", "test_acc",
             "test_recall", "test_false_negatives", "seconds"]
    page.put(0, 0, "Setting", "head")
    page.put(0, 1, "Value", "head right")
    for column, name in enumerate(epochs.columns, EPOCH_COLUMN):
        page.put(0, column, TITLES.get(name, name), "head right")
    for number, (_, epoch) in enumerate(epochs.iterrows(), FIRST_EPOCH_ROW):
        for column, name in enumerate(epochs.columns, EPOCH_COLUMN):
            page.put(number, column, epoch[name], kind_of(name))
    medians = {}
    for number, name in enumerate(FIGURES if len(epochs) else (), 1):
        first, last = (xl_rowcol_to_cell(row, column_of(epochs, name)) for row in (FIRST_EPOCH_ROW, len(epochs)))
        page.put(number, 0, f"Median_{TITLES[name]}", "bold")
        page.formula(number, 1, f"=MEDIAN({first}:{last})", median(epochs[name]))
        medians[name] = xl_rowcol_to_cell(number, 1, row_abs=True, col_abs=True)
    for number, name in enumerate([name for name in facts if name in line.index], len(FIGURES) + 2):
        page.put(number, 0, name)
        page.put(number, 1, line[name], kind_of(name))
    page.close(1, 0)
    if len(epochs):
        beside = EPOCH_COLUMN + len(epochs.columns) + 1
        add_charts(page, page.name, epochs, "", [(1, beside), (17, beside)])
    return medians


def median(values: pd.Series) -> float | str:
    """Return the median of the finite values, as the formula MEDIAN gives it; '' if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return float(pd.Series(finite).median()) if finite else ""


def column_of(epochs: pd.DataFrame, name: str) -> int:
    """Return the sheet's column of a figure."""
    return EPOCH_COLUMN + list(epochs.columns).index(name)


def add_charts(page: Page, source: str, epochs: pd.DataFrame, of: str, places: Sequence[tuple[int, int]]) -> None:
    """Add native line charts of train and validation loss and accuracy, with the data of the trial sheet `source`."""
    last = len(epochs)
    kinds = (("Loss", ("train_loss", "val_loss")), ("Accuracy", ("train_acc", "val_acc")))
    for (title, names), place in zip(kinds, places, strict=True):
        chart = page.book.workbook.add_chart({"type": "line"})
        for name, colour in zip(names, ("#4C78A8", "#E4572E"), strict=True):
            column = column_of(epochs, name)
            circle = {"type": "circle", "size": 4, "fill": {"color": colour}, "border": {"color": colour}}
            chart.add_series({"name": [source, 0, column],
                              "categories": [source, FIRST_EPOCH_ROW, EPOCH_COLUMN, last, EPOCH_COLUMN],
                              "values": [source, FIRST_EPOCH_ROW, column, last, column],
                              "line": {"width": 2, "color": colour},
                              "marker": circle if last < MOST_MARKERS else {"type": "none"}})
        chart.set_title({"name": title + of, "name_font": {"size": 12}})
        chart.set_x_axis({"name": "epoch"})
        grid = {"visible": True, "line": {"color": "#DDDDDD"}}
        chart.set_y_axis({"name": title.lower(), "num_format": "0.00", "major_gridlines": grid})
        chart.set_legend({"position": "bottom"})
        chart.set_size({"width": 560, "height": 300})
        page.sheet.insert_chart(*place, chart)


def write_condensed(page: Page, table: pd.DataFrame, pages: dict[str, Page], medians: dict[str, dict[str, str]],
                    epochs: dict[str, pd.DataFrame]) -> None:
    """Write the first study's layout: trials as columns, settings and medians as rows; medians link to their sheets."""
    names = [*CONDENSED, *(name for name in settings_of(table) if name not in CONDENSED)]
    page.put(0, 0, "", "head")
    medians_from = len(names) + 3
    for row, name in enumerate(names, 1):
        page.put(row, 0, CONDENSED.get(name, name), "bold")
    for row, name in enumerate(FIGURES, medians_from):
        page.put(row, 0, f"Median_{TITLES[name]}", "bold")
    for column, (_, line) in enumerate(table.iterrows(), 1):
        page.put(0, column, f"Trial {line['trial']}", "head right")
        for row, name in enumerate(names, 1):
            page.put(row, column, line.get(name), kind_of(name))
        for row, name in enumerate(FIGURES, medians_from):
            if name in medians[line["trial"]]:
                link = f"='{pages[line['trial']].name}'!{medians[line['trial']][name]}"
                page.formula(row, column, link, median(epochs[line["trial"]][name]))
    page.close(1, 1)
