"""The sheet of one trial: settings, live medians, its epochs with the best one marked, and charts beside them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
from xlsxwriter.chart import Chart
from xlsxwriter.utility import xl_rowcol_to_cell

from job.record import FIGURES
from job.results.workbook.spreadsheet import Page, kind_of

FACTS = ("status", "cause", "p_race", "best_epoch", "best_reason", "best_val_acc", "best_val_loss", "test_acc",
         "test_recall", "test_false_negatives", "test_errors", "temperature", "test_nll", "test_nll_calibrated",
         "test_ece", "calibration_note", "seconds")
# Folded, so that the charts stand on the first screen.
FOLDED = ("images_per_second", "train_seconds", "val_seconds")
EPOCH_COLUMN = 3
FIRST_EPOCH_ROW = 1
MOST_MARKERS = 30
# A longer trial shows every second, third, ... epoch, its best and its last: charts of more points are slow.
MOST_EPOCHS = 1000
# Of the largest loss to the smallest, above which the axis is logarithmic.
MOST_RATIO = 200
TRAIN, VAL, MARK = "#4C78A8", "#E4572E", "#111111"


@dataclass(frozen=True)
class TrialSheet:
    """A trial's sheet. epochs: those that are written, in order; medians: figure -> the cell of its median."""

    page: Page
    epochs: pd.DataFrame
    best_row: int | None
    medians: dict[str, str] = field(default_factory=dict)

    def cells(self, name: str) -> list[str | int]:
        """Return the range of a figure's cells, as XlsxWriter takes it."""
        column = EPOCH_COLUMN + list(self.epochs.columns).index(name)
        return [self.page.name, FIRST_EPOCH_ROW, column, len(self.epochs), column]


def thinned(epochs: pd.DataFrame, best_epoch: float | None) -> pd.DataFrame:
    """Return at most about MOST_EPOCHS epochs: every second, third, ..., the best and the last one."""
    step = math.ceil(len(epochs) / MOST_EPOCHS)
    if step <= 1:
        return epochs
    number = pd.Series(range(1, len(epochs) + 1), index=epochs.index)
    return epochs[(number % step == 0) | (epochs["epoch"] == best_epoch) | (number == len(epochs))]


def write_trial(page: Page, line: pd.Series, epochs: pd.DataFrame, settings: Sequence[str], recommended: bool,
                start: Page) -> TrialSheet:
    """Write a trial's medians, settings, epochs and two charts."""
    shown = thinned(epochs, line.get("best_epoch"))
    best = [number for number, epoch in enumerate(shown["epoch"], FIRST_EPOCH_ROW) if epoch == line.get("best_epoch")]
    sheet = TrialSheet(page, shown, best[0] if best else None)
    page.put(0, 0, "Setting", "head")
    page.put(0, 1, "Value", "head right")
    mark = "best " if recommended else "epoch "
    for column, name in enumerate(shown.columns, EPOCH_COLUMN):
        page.put(0, column, name, "head right")
        for number, value in enumerate(shown[name], FIRST_EPOCH_ROW):
            page.put(number, column, value, f"{mark if number == sheet.best_row else ''}{kind_of(name)}")
    write_medians(sheet, epochs)
    facts = [name for name in [*settings, *FACTS] if name in line.index and is_there(line[name])]
    for number, name in enumerate(facts, len(FIGURES) + 2):
        page.put(number, 0, name)
        page.put(number, 1, line[name], kind_of(name))
    page.link(len(FIGURES) + 3 + len(facts), 0, start, "Start here")
    beside = EPOCH_COLUMN + len(shown.columns) + 1
    page.widths |= {EPOCH_COLUMN - 1: 0, beside - 1: 0}
    page.close(1, 0, [EPOCH_COLUMN + place for place, name in enumerate(shown.columns) if name in FOLDED])
    if len(shown):
        page.book.columns += [("Trial ...", name, name) for name in shown.columns]
        add_charts(sheet, [(1, beside), (18, beside)])
        kept = ", until the race stopped the trial" if line["status"] == "raced" else ", whose weights are kept"
        text = f"marked: the best epoch{kept}" if best else "no epoch is the best"
        cut = "" if len(shown) == len(epochs) else (f"; {len(shown)} of {len(epochs)} epochs are shown, all are in "
                                                     "epochs.csv")
        page.sheet.write_string(0, beside, text + cut, page.book.formats["italic"])
    return sheet


def is_there(value: object) -> bool:
    """Return whether a cell of the table holds something."""
    return value is not None and value != "" and value == value  # noqa: PLR0124 - NaN is not.


def write_medians(sheet: TrialSheet, epochs: pd.DataFrame) -> None:
    """Write the medians over all epochs: as formulas, unless some epochs are not on the sheet."""
    page = sheet.page
    for number, name in enumerate(FIGURES if len(epochs) else (), 1):
        page.put(number, 0, f"median_{name}", "bold")
        if len(sheet.epochs) == len(epochs):
            _, top, column, bottom, _ = sheet.cells(name)
            first, last = (xl_rowcol_to_cell(row, column) for row in (top, bottom))
            page.formula(number, 1, f"=MEDIAN({first}:{last})", median(epochs[name]), kind_of(name))
        else:
            page.put(number, 1, median(epochs[name]), kind_of(name))
        sheet.medians[name] = xl_rowcol_to_cell(number, 1, row_abs=True, col_abs=True)


def median(values: pd.Series) -> float | str:
    """Return the median of the finite values, as the formula MEDIAN gives it; '' if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return float(pd.Series(finite).median()) if finite else ""


def add_charts(sheet: TrialSheet, places: Sequence[tuple[int, int]]) -> None:
    """Add native charts of train and validation loss and accuracy, the best epoch as a diamond."""
    kinds = (("Loss", ("train_loss", "val_loss")), ("Accuracy", ("train_acc", "val_acc")))
    for (title, names), place in zip(kinds, places, strict=True):
        chart = sheet.page.book.workbook.add_chart({"type": "scatter", "subtype": "straight"})
        for name, colour in zip(names, (TRAIN, VAL), strict=True):
            circle = {"type": "circle", "size": 4, "fill": {"color": colour}, "border": {"color": colour}}
            chart.add_series({"name": name, "categories": sheet.cells("epoch"), "values": sheet.cells(name),
                              "line": {"width": 2, "color": colour},
                              "marker": circle if len(sheet.epochs) < MOST_MARKERS else {"type": "none"}})
        if sheet.best_row:
            x, y = ([page, sheet.best_row, column, sheet.best_row, column]
                    for page, _, column, _, _ in (sheet.cells("epoch"), sheet.cells(names[1])))
            chart.add_series({"name": "best epoch", "categories": x, "values": y, "line": {"none": True},
                              "marker": {"type": "diamond", "size": 10, "fill": {"none": True},
                                         "border": {"color": MARK, "width": 1.75}}})
        values = sheet.epochs[list(names)].to_numpy().flatten().tolist()
        finish_chart(chart, title, title.lower(), int(sheet.epochs["epoch"].max()), values)
        chart.set_size({"width": 600, "height": 320})
        sheet.page.sheet.insert_chart(*place, chart, {"object_position": 2})


def finish_chart(chart: Chart, title: str, axis: str, num_epochs: int, values: Sequence[float],
                 below: str = "epoch") -> None:
    """Set title, axes and legend. Epochs are whole numbers; accuracies end at 1; losses that explode are logarithmic.

    values: what the curves show.
    """
    step = max(1, math.ceil(num_epochs / 12))
    chart.set_title({"name": title, "name_font": {"size": 12}})
    chart.set_x_axis({"name": below, "min": 0, "max": math.ceil(num_epochs / step) * step, "major_unit": step,
                      "num_format": "0", "major_gridlines": {"visible": False}, "label_position": "low"})
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    limits: dict[str, float] = {}
    if "acc" in axis:
        limits = {"min": max(0, math.floor(low * 10) / 10), "max": min(1, math.floor(high * 10 + 1) / 10)}
    elif low > 0 and high / low > MOST_RATIO:
        limits = {"log_base": 10, "min": 10.0 ** math.floor(math.log10(low))}
    chart.set_y_axis({"name": axis, "num_format": "General" if "log_base" in limits else "0.00", **limits,
                      "label_position": "low", "major_gridlines": {"visible": True, "line": {"color": "#DDDDDD"}}})
    chart.set_legend({"position": "bottom"})
