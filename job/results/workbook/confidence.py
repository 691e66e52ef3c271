"""The sheet Confidence: the reliability diagram of one trial, its bins and its figures of calibration."""

from typing import Any

import pandas as pd

from job.folder.escape import for_workbook
from job.results.reliability import COLUMNS, calibration_facts, reliability
from job.results.summary import Summary
from job.results.workbook.spreadsheet import Page, write_table

WORDS = {"test": "test", "val": "validation"}
COLOURS = {"test": "#2E6FBB", "val": "#E8890C"}
CHART_ROW, CHART_ROWS = 1, 19


def write_confidence(page: Page, summary: Summary, trial: str) -> None:
    """Write the bins, and beside them the diagram and what is known of the trial's probabilities."""
    predictions = summary.predictions.get(trial)
    found = pd.DataFrame(columns=COLUMNS) if predictions is None else reliability(predictions)
    write_table(page, COLUMNS, found.to_dict("records"))
    column = len(COLUMNS) + 1
    text = f"trial {trial}, best epoch: how often it is right, by how sure it is" if len(found) else (
        "no trial has predictions that can be read")
    page.sheet.write_string(0, column, text, page.book.formats["beside"])
    if len(found):
        add_diagram(page, found, column)
        lines = summary.table[summary.table["trial"] == trial]
        facts = [fact for _, line in lines.iterrows() for fact in calibration_facts(line)]
        facts += [("prediction sets", str(summary.sets[trial]))] if trial in summary.sets else []
        for row, (name, value) in enumerate(facts, CHART_ROW + CHART_ROWS):
            page.sheet.write_string(row, column, for_workbook(f"{name}: {value}"))
    page.close(1, 0)


def add_diagram(page: Page, found: pd.DataFrame, column: int) -> None:
    """Add the diagram as a native chart: a point per bin with the exact interval of its accuracy, on the diagonal."""
    chart = page.book.workbook.add_chart({"type": "scatter", "subtype": "straight"})
    # The ends of the diagonal, behind the chart.
    for row in (0, 1):
        for place in (0, 1):
            page.sheet.write_number(CHART_ROW + 1 + row, column + place, row)

    def cells(name: str, rows: pd.Index) -> list[Any]:
        place = COLUMNS.index(name)
        return [page.name, int(rows[0]) + 1, place, int(rows[-1]) + 1, place]

    chart.add_series({"name": "ideal", "line": {"color": "#7F7F7F", "dash_type": "dash", "width": 1},
                      "categories": [page.name, CHART_ROW + 1, column, CHART_ROW + 2, column],
                      "values": [page.name, CHART_ROW + 1, column + 1, CHART_ROW + 2, column + 1]})
    for split, part in found.groupby("split", sort=False):
        colour = COLOURS[str(split)]
        chart.add_series({
            "name": WORDS[str(split)], "categories": cells("confidence", part.index),
            "values": cells("accuracy", part.index), "line": {"color": colour, "width": 1.5},
            "marker": {"type": "circle", "size": 6, "fill": {"color": colour}, "border": {"color": colour}},
            "y_error_bars": {"type": "custom", "line": {"color": colour},
                             "plus_values": (part["accuracy_high"] - part["accuracy"]).tolist(),
                             "minus_values": (part["accuracy"] - part["accuracy_low"]).tolist()}})
    chart.set_title({"name": "Reliability, with exact 95% intervals", "name_font": {"size": 12}})
    for set_axis, name in ((chart.set_x_axis, "confidence"), (chart.set_y_axis, "accuracy")):
        set_axis({"name": name, "min": 0, "max": 1, "major_unit": 0.25, "num_format": "0.00",
                  "major_gridlines": {"visible": True, "line": {"color": "#DDDDDD"}}})
    chart.set_legend({"position": "bottom"})
    chart.set_size({"width": 480, "height": 20 * (CHART_ROWS - 1)})
    page.sheet.insert_chart(CHART_ROW, column, chart, {"object_position": 2})
