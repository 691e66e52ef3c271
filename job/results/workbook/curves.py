"""The chart on Start here: every trial's curve of the monitored figure, over the baseline."""

from typing import Any

import numpy as np
from xlsxwriter.chart import Chart

from job.results.summary import Summary
from job.results.workbook.spreadsheet import Page
from job.results.workbook.trial_sheet import MOST_MARKERS, TrialSheet, finish_chart

# More curves than these cannot be told apart; the trials ranked highest have one.
MOST_CURVES = 20
ROW_PIXELS = 20
COLOURS = ("#1F77B4", "#D62728", "#9467BD", "#E8890C", "#17A2B8", "#8C564B", "#E377C2", "#7F7F7F")
RECOMMENDED = "#2E9E4F"


def add_curves(page: Page, summary: Summary, sheets: dict[str, TrialSheet], place: tuple[int, int]) -> int:
    """Add one native chart with a curve per trial: the recommended one is thick, green and on top.

    Returns how many rows it covers.
    """
    ranked = [name for name in summary.table["trial"]
              if name in sheets and np.isfinite(sheets[name].epochs[summary.monitor]).any()]
    shown = ranked[:MOST_CURVES]
    best = summary.recommendation.trial
    if best in ranked and best not in shown:
        shown[-1] = best
    if not shown:
        return 0
    chart = page.book.workbook.add_chart({"type": "scatter", "subtype": "straight"})
    lines = summary.table.set_index("trial")
    order = sorted(shown, key=lambda name: (name == best, -len(summary.epochs[name])))
    parts = {name for name in shown if name != best and any(is_beginning(summary, name, other) for other in shown)}
    for number, name in enumerate(order):
        sheet, line = sheets[name], lines.loc[name]
        style = {"width": 3.5, "color": RECOMMENDED} if name == best else {
            "width": 1.5, "color": COLOURS[number % len(COLOURS)],
            "dash_type": ("solid", "dash", "round_dot")[number // len(COLOURS) % 3]}
        is_raced = line["status"] == "raced"
        epochs = f"raced after epoch {line['epochs_run']}" if is_raced else f"{line['epochs']:.0f} epochs"
        chart.add_series({"name": f"{name}: lr {line['lr']:.6g}, {epochs}",
                          **points(sheet, summary.monitor, style, name in parts)})
    num_epochs = max(int(sheets[name].epochs["epoch"].max()) for name in shown)
    baseline = add_baseline(page, chart, summary, num_epochs, place)
    cut = f" of the {len(shown)} trials ranked highest" if len(shown) < len(ranked) else ""
    words = {"val_acc": "Validation accuracy", "val_loss": "Validation loss"}[summary.monitor]
    values = [value for name in shown for value in sheets[name].epochs[summary.monitor]]
    finish_chart(chart, words + cut, summary.monitor, num_epochs, [*values, *baseline],
                 "epoch (a square: a shorter trial of the trajectory ends here)" if parts else "epoch")
    # The legend has about two entries in a line.
    num_rows = 20 + max(0, (len(shown) - 8) // 2)
    chart.set_size({"width": 590, "height": ROW_PIXELS * num_rows})
    page.sheet.insert_chart(*place, chart, {"object_position": 2, "x_offset": 12})
    return num_rows


def is_beginning(summary: Summary, name: str, other: str) -> bool:
    """Return whether a trial's curve is the beginning of another trial's, as in a trajectory."""
    # A diverged trial may have the accuracy of another one by chance, but not its loss.
    figures = ["train_loss", summary.monitor]
    short, long = (summary.epochs[trial][figures].to_numpy().tolist() for trial in (name, other))
    return len(short) < len(long) and short == long[:len(short)]


def points(sheet: TrialSheet, figure: str, style: dict[str, Any], is_part: bool) -> dict[str, Any]:
    """Return the look of a series: a line, or where it lies on a longer trial's line only a square at its end.

    Whether a program draws the first or the last series on top, both are seen.
    """
    x, y = sheet.cells("epoch"), sheet.cells(figure)
    colour = {"fill": {"color": style["color"]}, "border": {"color": style["color"]}}
    if is_part:
        x, y = ([page, bottom, column, bottom, column] for page, _, column, bottom, _ in (x, y))
        return {"categories": x, "values": y, "line": {"none": True}, "marker": {"type": "square", "size": 8, **colour}}
    mark = {"type": "circle", "size": 5 if style["width"] > 2 else 3, **colour}
    return {"categories": x, "values": y, "line": style,
            "marker": mark if len(sheet.epochs) <= MOST_MARKERS else {"type": "none"}}


def add_baseline(page: Page, chart: Chart, summary: Summary, num_epochs: int, place: tuple[int, int]) -> list[float]:
    """Add and return the baseline's accuracy as a dashed line; its two points lie in cells that the chart covers."""
    share = summary.recommendation.baseline_val
    if not share or summary.monitor != "val_acc":
        return []
    row, column = place[0] + 2, place[1] + 2
    for number, epoch in enumerate((0, num_epochs)):
        page.put(row + number, column, epoch)
        page.put(row + number, column + 1, share.value, "figure")
    chart.add_series({"name": "baseline", "categories": [page.name, row, column, row + 1, column],
                      "values": [page.name, row, column + 1, row + 1, column + 1],
                      "line": {"width": 1.25, "color": "#52606D", "dash_type": "dash"}, "marker": {"type": "none"}})
    return [share.value]
