"""Cells in colour on the sheet Start here: the scales of the table, the heat map and the confusion matrix."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from job.results.figures import varied_settings
from job.results.summary import Summary
from job.results.workbook.spreadsheet import Page, kind_of

WHITE, BLUE, ORANGE, BAR = "#FFFFFF", "#8DBBE6", "#F5C08A", "#C3CEDB"
# A confusion matrix or a heat map of more rows and columns is not read cell by cell.
MOST_CLASSES = 12
MOST_ROWS = 25
MOST_COLUMNS = 20
# Two accuracies that differ by less look the same.
LEAST_SPAN = 0.02


def add_scale(page: Page, summary: Summary, name: str, values: pd.Series, area: tuple[int, int, int, int]) -> None:
    """Colour a column of the table: a scale for figures, a bar for the seconds, nothing for other columns."""
    if kind_of(name) not in ("figure", "loss", "seconds"):
        return
    numbers = pd.to_numeric(values, errors="coerce")
    finite = numbers[np.isfinite(numbers)]
    if finite.empty:
        return
    if name == "seconds":
        page.sheet.conditional_format(*area, {"type": "data_bar", "bar_color": BAR, "min_type": "num", "min_value": 0})
    else:
        page.sheet.conditional_format(*area, scale_of(summary, name, float(finite.min()), float(finite.max())))


def scale_of(summary: Summary, name: str, low: float, high: float) -> dict[str, Any]:
    """Return the colours of a figure: the bluer, the better; below the baseline, where it is known, orange."""
    found = summary.recommendation
    share = {"best_val_acc": found.baseline_val, "test_acc": found.baseline_test}.get(name)
    if share and low < share.value:
        span = max(high - share.value, share.value - low, LEAST_SPAN)
        ends = {"min": (share.value - span, ORANGE), "mid": (share.value, WHITE), "max": (share.value + span, BLUE)}
    else:
        colours = (BLUE, WHITE) if name.endswith("_loss") else (WHITE, BLUE)
        ends = {"min": (low, colours[0]), "max": (max(high, low + LEAST_SPAN), colours[1])}
    rule: dict[str, Any] = {"type": f"{len(ends)}_color_scale"}
    for end, (value, colour) in ends.items():
        rule |= {f"{end}_type": "num", f"{end}_value": value, f"{end}_color": colour}
    return rule


def write_heat_map(page: Page, values: pd.DataFrame, summary: Summary, top: int) -> int:
    """Write the best figure by the two settings that vary; return the first free row."""
    name = f"best_{summary.monitor}"
    first, second = varied_settings(summary.lines)
    shown = values.iloc[:MOST_ROWS, :MOST_COLUMNS]
    cut = "" if shown.shape == values.shape else f" (part: {shown.shape[0]} by {shown.shape[1]} values)"
    page.sheet.write_string(top, 0, f"{name} by {first} (rows) and {second} (columns){cut}", page.book.formats["title"])
    for column, value in enumerate(shown.columns, 2):
        page.put(top + 1, column, plain(value), "head centre")
    page.put(top + 1, 1, first, "head centre")
    for row, (setting, cells) in enumerate(shown.iterrows(), top + 2):
        page.put(row, 1, plain(setting), "head centre")
        for column, value in enumerate(cells, 2):
            page.put(row, column, value, "cell figure")
    finite = [value for value in shown.to_numpy().flatten().tolist() if math.isfinite(value)]
    if finite:
        area = (top + 2, 2, top + 1 + len(shown), 1 + len(shown.columns))
        page.sheet.conditional_format(*area, scale_of(summary, name, min(finite), max(finite)))
    return top + len(shown) + 3


def plain(value: Any) -> Any:
    """Return a setting's value as a number or a text of Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def write_confusion(page: Page, confusion: Sequence[Sequence[int]], summary: Summary, trial: str, split: str,
                    top: int) -> int:
    """Write a confusion matrix as cells with class names; return the first free row."""
    counts_KK = np.asarray(confusion)
    errors = counts_KK.sum(0) + counts_KK.sum(1) - 2 * counts_KK.diagonal()
    shown = sorted(np.argsort(-errors, kind="stable")[:MOST_CLASSES].tolist())
    cut = f"; the {len(shown)} of {len(errors)} classes with the most errors" if len(shown) < len(errors) else ""
    role = "" if summary.recommendation.trial else " (not recommended)"
    words = {"test": "test", "val": "validation"}[split]
    page.sheet.write_string(top, 0, f"Trial {trial}{role}: the {counts_KK.sum():,} {words} images",
                            page.book.formats["title"])
    page.sheet.write_string(top + 1, 0, f"rows: true class; columns: predicted class{cut}", page.book.formats["small"])
    top += 1
    longest = max(len(summary.classes[index]) for index in shown)
    page.sheet.set_row_pixels(top + 1, 20 * min(4, math.ceil(longest / 10)))
    for place, index in enumerate(shown, 2):
        page.put(top + 1, place, summary.classes[index], "head centre")
        page.sheet.merge_range(top + place, 0, top + place, 1, "", page.book.formats["label"])
        page.put(top + place, 0, summary.classes[index], "label")
        for column, other in enumerate(shown, 2):
            page.put(top + place, column, int(counts_KK[index, other]), "cell")
    area = (top + 2, 2, top + 1 + len(shown), 1 + len(shown))
    page.sheet.conditional_format(*area, {"type": "2_color_scale", "min_type": "num", "min_value": 0,
                                          "max_type": "num", "max_value": max(1, int(counts_KK.max())),
                                          "min_color": WHITE, "max_color": BLUE})
    return top + len(shown) + 3
