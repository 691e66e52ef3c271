"""summary.csv: the ranked table as one plain table, for pandas and spreadsheets."""

import csv
import io
import json
from dataclasses import fields
from typing import Any, get_args

import pandas as pd

from job.folder.escape import for_csv
from job.record import Row
from job.results.json_output import plain
from job.trial import Trial

FIRST = ("rank", "trial", "status", "lr", "epochs")
SETTINGS = frozenset(spec.name for spec in fields(Trial))
# pandas makes a whole number with gaps a float.
WHOLE = frozenset(["rank", *(spec.name for kind in (Trial, Row) for spec in fields(kind)
                             if int in (spec.type, *get_args(spec.type)))])


def table_csv(table: pd.DataFrame) -> bytes:
    """Return one line per trial, the best first, and nothing else: the columns of the workbook's full table.

    A cell without a value is empty; lists and objects (confusion matrices, classes, versions) are JSON. Figures read
    back bit for bit the same. Texts that a spreadsheet would take for formulas are escaped by `for_csv`.
    """
    columns = [*(name for name in FIRST if name in table), *(name for name in table if name not in FIRST)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(name, line[name]) for name in columns] for line in table.to_dict("records"))
    return text.getvalue().encode("utf-8", "backslashreplace")


def cell(name: str, value: Any) -> object:
    """Return a cell of the table as text or a number; '' for what has no value."""
    if isinstance(value, list | dict):
        return for_csv(json.dumps(value, ensure_ascii=False))
    value = plain(value)
    if isinstance(value, float):
        return int(value) if name in WHOLE else setting_text(value) if name in SETTINGS else value
    return for_csv(value) if isinstance(value, str) else "" if value is None else value


def setting_text(value: float) -> str:
    """Return a setting as a user writes it: 0.0001 * 3 is 0.00030000000000000003, and becomes 0.0003."""
    return repr(float(f"{value:.15g}"))
