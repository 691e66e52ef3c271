"""An XlsxWriter workbook with this project's formats and column widths."""

import io
import math
import re
from typing import Any

import numpy as np
import xlsxwriter
from xlsxwriter.worksheet import Worksheet

from job.folder.escape import for_workbook

NUMBERS = {"figure": "0.0000", "seconds": "#,##0.0", "plain": "General"}
WIDEST = 44
PRINT_PERCENT = 65


def kind_of(name: str) -> str:
    """Return which of NUMBERS the column or line with this name has."""
    name = name.removesuffix("_at_threshold")
    if name.endswith(("_loss", "_acc", "_precision", "_recall", "_f1", "_auc", "_vs_best", "threshold")):
        return "figure"
    if "second" in name:
        return "seconds"
    return "figure" if name.startswith(("mean_", "std_")) else "plain"


class Book:
    """An XlsxWriter workbook with this project's formats. Text is always written as text, never as a formula."""

    def __init__(self, buffer: io.BytesIO) -> None:
        as_text = dict.fromkeys(("strings_to_formulas", "strings_to_urls", "strings_to_numbers"), False)
        self.workbook = xlsxwriter.Workbook(buffer, {"in_memory": True, **as_text})
        head, best = {"bold": True, "bg_color": "#D9E2EC", "bottom": 1}, {"bold": True, "bg_color": "#E3F4E1"}
        # The indent separates text from the number to its left: rank 2 beside trial 7 must not read as 27.
        left = {"align": "left", "indent": 1}
        styles = {"head": {**head, **left}, "head right": {**head, "align": "right"}, "bold": {"bold": True, **left},
                  "text": left, "best text": {**best, **left}}
        for kind, number in NUMBERS.items():
            styles |= {kind: {"num_format": number}, f"best {kind}": {"num_format": number, **best}}
        self.formats = {name: self.workbook.add_format(style) for name, style in styles.items()}
        self.taken: set[str] = set()

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
        if isinstance(value, str) and kind in NUMBERS:
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
            self.widen(column, format(value, {"figure": ".4f", "seconds": ",.1f"}.get(kind, "g")))

    def formula(self, row: int, column: int, formula: str, value: float | str) -> None:
        """Write a formula with its present value, for programs that do not calculate formulas."""
        self.sheet.write_formula(row, column, formula, self.book.formats["figure"], value)
        self.widen(column, f"{value:.4f}" if isinstance(value, float) else "")

    def close(self, frozen_rows: int, frozen_columns: int) -> None:
        """Freeze the header, set the column widths and set up printing.

        Frozen rows and columns are printed on every page. A sheet without frozen columns is printed one page wide.
        """
        self.sheet.freeze_panes(frozen_rows, frozen_columns)
        for column, width in self.widths.items():
            self.sheet.set_column(column, column, width + 2)
        self.sheet.set_landscape()
        self.sheet.repeat_rows(0, frozen_rows - 1)
        if frozen_columns:
            # The sheet may have too many columns to be legible at the width of one page.
            self.sheet.repeat_columns(0, frozen_columns - 1)
            self.sheet.set_print_scale(PRINT_PERCENT)
            self.sheet.print_across()
        else:
            self.sheet.fit_to_pages(1, 0)
