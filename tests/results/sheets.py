"""How tests read the workbook of a sweep."""

from typing import Any

import openpyxl

from job.folder.local import LocalFolder


def read(sweep: LocalFolder, values: bool = True) -> openpyxl.Workbook:
    """Return the workbook, its formulas as values or as they are written."""
    return openpyxl.load_workbook(sweep.path / "summary.xlsx", data_only=values)


def column(sheet: Any, title: str) -> int:
    """Return the number of the column with this title."""
    return int(next(cell.column for cell in sheet[1] if cell.value == title))
