"""An XlsxWriter workbook with this project's formats and column widths."""

import io
import math
import re
from collections.abc import Collection
from typing import Any

import numpy as np
import xlsxwriter
from xlsxwriter.utility import quote_sheetname
from xlsxwriter.worksheet import Worksheet

from job.folder.escape import for_workbook

# Seconds have the digits that they need: 0.52, 14.3, 1,204.
NUMBERS = {"figure": "0.0000", "loss": "[>=10000]0.00E+00;0.0000", "p": "[=0]0;[<0.0001]0.0E+00;0.0000",
           "seconds": "[<10]0.00;[<1000]0.0;#,##0", "plain": "General"}
SHARES_OF_BINS = ("lowest", "highest", "confidence", "accuracy")
WIDEST = 44
PRINT_PERCENT = 65
HEADER_PIXELS = 40
LINE_PIXELS = 20
# Green marks what is recommended, and nothing else; a trial's best epoch is blue.
GREEN, BLUE, GREY = "#DDF3DA", "#DCE9F7", "#D9E2EC"


def kind_of(name: str) -> str:
    """Return which of NUMBERS the column or line with this name has."""
    name = name.removesuffix("_at_threshold")
    if name.endswith(("_loss", "_nll", "_nll_calibrated")):
        return "loss"
    if name.startswith(("p_vs_", "p_race")):
        return "p"
    if name.endswith(("_acc", "_precision", "_recall", "_f1", "_auc", "_low", "_high", "_brier", "_ece", "threshold",
                      "probability")):
        return "figure"
    if name in ("precision", "recall", "f1", "temperature", *SHARES_OF_BINS):
        return "figure"
    if "second" in name:
        return "seconds"
    return "figure" if name.startswith(("mean_", "std_")) else "plain"


def shown(value: float, kind: str) -> str:
    """Return about what a cell with a number shows, for the width of its column."""
    if kind == "loss":
        return f"{value:.4f}" if value < 10_000 else f"{value:.2e}"
    return format(value, {"figure": ".4f", "p": ".4f", "seconds": ",.1f"}.get(kind, "g"))


def styles() -> dict[str, dict[str, Any]]:
    """Return the properties of each format: the kinds of NUMBERS and text, plain and marked, and those of headings."""
    # The indent separates text from the number to its left: rank 2 beside trial 7 must not read as 27.
    left = {"align": "left", "indent": 1}
    # At the top of a tall row the arrow of a filter, at its bottom, hides no letter.
    head = {"bold": True, "bg_color": GREY, "bottom": 1, "valign": "top"}
    found: dict[str, dict[str, Any]] = {
        "head": {**head, **left}, "head right": {**head, "align": "right"}, "bold": {"bold": True, **left},
        "head centre": {"bold": True, "bg_color": GREY, "align": "center", "valign": "vcenter", "text_wrap": True},
        "label": {"bold": True, **left},
        "title": {"font_size": 12, "bold": True}, "note": {"font_color": "#52606D", "text_wrap": True, "valign": "top"},
        "sentence": {"font_size": 12, "text_wrap": True, "valign": "top"},
        "small": {"font_color": "#52606D", "italic": True}, "headline": {"font_size": 16, "bold": True},
        "rest": {"font_size": 12},
        "italic": {"italic": True, **left}, "beside": {"italic": True, "valign": "top"},
        "cell": {"align": "center", "border": 1, "border_color": "#CBD2D9"},
        "cell figure": {"align": "center", "border": 1, "border_color": "#CBD2D9", "num_format": NUMBERS["figure"]}}
    for mark, more in (("", {}), ("best ", {"bold": True, "bg_color": GREEN}),
                       ("epoch ", {"bold": True, "bg_color": BLUE})):
        found |= {f"{mark}{kind}": {"num_format": number, **more} for kind, number in NUMBERS.items()}
        # Under headings in the middle, as on Start here.
        found |= {f"{mark}centre {kind}": {"num_format": number, "align": "center", **more}
                  for kind, number in NUMBERS.items()}
        found[f"{mark}text"], found[f"{mark}centre text"] = {**left, **more}, {"align": "center", **more}
        found[f"{mark}link"] = {**left, **more, "font_color": "#0B5CAD", "underline": 1}
    return found


class Book:
    """An XlsxWriter workbook with this project's formats. Text is always written as text, never as a formula."""

    def __init__(self, buffer: io.BytesIO) -> None:
        as_text = dict.fromkeys(("strings_to_formulas", "strings_to_urls", "strings_to_numbers"), False)
        self.workbook = xlsxwriter.Workbook(buffer, {"in_memory": True, **as_text})
        self.formats = {name: self.workbook.add_format(style) for name, style in styles().items()}
        self.taken: set[str] = set()
        # (sheet, title, name of the figure or setting) of each column, for the sheet Columns.
        self.columns: list[tuple[str, str, str]] = []

    def page(self, name: str) -> "Page":
        r"""Add and return a sheet; its name has at most 31 characters, none of []:*?/\, and is unique in lower case."""
        clean = re.sub(r"[\[\]:*?/\\']", "_", name)[:31]
        number = 2
        while clean.lower() in self.taken:
            clean = f"{re.sub(r'[^A-Za-z0-9._ -]', '_', name)[:27]}~{number}"
            number += 1
        self.taken.add(clean.lower())
        return Page(self, self.workbook.add_worksheet(clean))


class Page:
    """One sheet, which records how wide its columns must be for their contents."""

    def __init__(self, book: Book, sheet: Worksheet) -> None:
        self.book, self.sheet, self.name = book, sheet, sheet.get_name()
        self.widths: dict[int, int] = {}

    def widen(self, column: int, text: str) -> None:
        self.widths[column] = min(WIDEST, max(self.widths.get(column, 0), len(text)))

    def put(self, row: int, column: int, value: Any, style: str = "plain") -> None:
        """Write a number as a number, anything else as text, and only the style for None, NaN and infinity."""
        kind = style.rsplit(maxsplit=1)[-1]
        if isinstance(value, (bool, np.bool_)):
            value = "yes" if value else "no"
        if isinstance(value, (list, dict)):
            value = str(value)
            # A cell holds 32,767 characters.
            value = value if len(value) < 32_000 else "too long for a cell; see row.json"
        if isinstance(value, str) and kind in NUMBERS and not style.startswith("cell"):
            style = style.removesuffix(kind) + "text"
        form = self.book.formats[style]
        if isinstance(value, str):
            text = for_workbook(value)
            self.sheet.write_string(row, column, text, form)
            self.widen(column, text)
        elif value is None or not math.isfinite(value):
            self.sheet.write_blank(row, column, None, form)
        else:
            self.sheet.write_number(row, column, value, form)
            self.widen(column, shown(value, kind))

    def formula(self, row: int, column: int, formula: str, value: float | str, style: str) -> None:
        """Write a formula with its present value, for programs that do not calculate formulas."""
        self.sheet.write_formula(row, column, formula, self.book.formats[style], value)
        self.widen(column, shown(value, style) if isinstance(value, float) else "")

    def link(self, row: int, column: int, target: "Page", text: str, mark: str = "") -> None:
        """Write a link to another sheet of this workbook. mark: 'best ' for a line that is recommended."""
        self.sheet.write_url(row, column, f"internal:{quote_sheetname(target.name)}!A1",
                             self.book.formats[f"{mark}link"], for_workbook(text))
        self.widen(column, text)

    def across(self, row: int, last_column: int, text: str, style: str, most_characters: int) -> None:
        """Write a text over the columns up to the last one, in as many lines as it needs."""
        text = for_workbook(text)
        self.sheet.merge_range(row, 0, row, last_column, "", self.book.formats[style])
        self.sheet.write_string(row, 0, text, self.book.formats[style])
        self.sheet.set_row_pixels(row, LINE_PIXELS * -(-len(text) // most_characters) + 1)

    def close(self, frozen_rows: int, frozen_columns: int, folded: Collection[int] = ()) -> None:
        """Freeze the header, set the column widths and set up printing; folded columns are grouped and hidden.

        Frozen rows and columns are printed on every page. A sheet without frozen columns is printed one page wide.
        """
        self.sheet.freeze_panes(frozen_rows, frozen_columns)
        for column, width in self.widths.items():
            hidden = {"level": 1, "hidden": True} if column in folded else {}
            opens = {"collapsed": True} if column - 1 in folded and column not in folded else {}
            self.sheet.set_column(column, column, width + 2, None, {**hidden, **opens})
        if folded and (after := max(folded) + 1) not in self.widths:
            self.sheet.set_column(after, after, None, None, {"collapsed": True})
        self.sheet.ignore_errors({"number_stored_as_text": "A1:XFD1048576"})
        self.sheet.set_landscape()
        if frozen_rows:
            self.sheet.repeat_rows(0, frozen_rows - 1)
        if frozen_columns:
            # The sheet may have too many columns to be legible at the width of one page.
            self.sheet.repeat_columns(0, frozen_columns - 1)
            self.sheet.set_print_scale(PRINT_PERCENT)
            self.sheet.print_across()
        else:
            self.sheet.fit_to_pages(1, 0)


def write_table(page: Page, columns: Collection[str], lines: Collection[dict[str, Any]]) -> None:
    """Write a table with a header that filters, from the first cell on; its columns get a line in Columns."""
    first: dict[str, Any] = next(iter(lines), {})
    for column, name in enumerate(columns):
        page.put(0, column, name, "head" if isinstance(first.get(name, ""), (str, list, bool)) else "head right")
    for number, line in enumerate(lines, 1):
        for column, name in enumerate(columns):
            page.put(number, column, line[name], kind_of(name))
    header(page, columns, len(lines))


def header(page: Page, columns: Collection[str], num_lines: int) -> None:
    """Make the first row a header whose filter arrows hide no letter, and note its columns for the sheet Columns."""
    page.sheet.set_row_pixels(0, HEADER_PIXELS)
    page.sheet.autofilter(0, 0, max(1, num_lines), len(columns) - 1)
    page.book.columns += [(page.name, name, name) for name in columns]
