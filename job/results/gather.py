"""Rows -> one ranked table and one recommendation -> workbook, summary.json and summary.csv; needs no torch."""

import json
import time
from collections.abc import Callable, Iterator

from job.errors import MissingInput, TryAgain
from job.folder.escape import lines_for_terminal
from job.folder.grid import format_grid
from job.folder.layout import ISSUES, NEXT_GRID, REPORT, SUMMARY, TABLE, WORKBOOK, digest, trials_with
from job.folder.storage import Folder
from job.results.intact import Damage, intact_row
from job.results.label_issues import issues_csv
from job.results.report.page import page_bytes
from job.results.summary import Summary, collect
from job.results.table_csv import table_csv
from job.results.waiting import Idle, expected_trials
from job.results.workbook.sheets import workbook_bytes

WAIT_SECONDS = 5.0
SEAL = "trialgrid "


def gather(sweep: Folder) -> tuple[Summary, str, str]:
    """Merge the rows into summary.xlsx; return the summary, the workbook's name and the name of a kept older one or ''.

    Also writes summary.html, summary.json, summary.csv, label-issues.csv if a trial is recommended, and next-grid.csv
    if there are trials to try next. A workbook that was edited since it was written is kept under another name. Raises
    MissingInput if no trial has a row.
    """
    summary = collect(sweep)
    kept = keep_edited(sweep)
    data = seal(workbook_bytes(summary))
    sweep.write(SUMMARY, (json.dumps(summary.about(), indent=1) + "\n").encode())
    sweep.write(TABLE, table_csv(summary.table))
    sweep.write(WORKBOOK, data)
    sweep.write(REPORT, page_bytes(summary, sweep))
    for name, found in ((NEXT_GRID, format_grid(summary.next_trials).encode() if summary.next_trials else b""),
                        (ISSUES, issues_csv(summary.label_issues) if summary.label_issues else b"")):
        if found:
            sweep.write(name, found)
        else:
            sweep.delete(name)
    return summary, WORKBOOK, kept


def keep_edited(sweep: Folder) -> str:
    """Copy an edited workbook to summary-edited-HASH.xlsx and return that name; return '' if it was not edited."""
    try:
        have = sweep.read(WORKBOOK)
    except MissingInput:
        return ""
    if is_sealed(have):
        return ""
    name = f"summary-edited-{digest(have)[:8]}.xlsx"
    sweep.write(name, have)
    return name


def seal(workbook: bytes) -> bytes:
    """Return a workbook with its own SHA-256 as the comment of its zip archive.

    Spreadsheet programs ignore the comment and drop it when they save. Because the mark is in the file itself, two
    concurrent gathers do not take each other's workbook for an edited one.
    """
    assert workbook[-2:] == b"\0\0", "a zip archive without a comment ends with the comment's length, 0"
    mark = f"{SEAL}{digest(workbook)}".encode()
    return workbook[:-2] + len(mark).to_bytes(2, "little") + mark


def is_sealed(workbook: bytes) -> bool:
    """Return whether a workbook is byte for byte what `seal` returned."""
    size = len(SEAL) + 64
    body, mark = workbook[:-size - 2] + b"\0\0", workbook[-size:]
    return mark == f"{SEAL}{digest(body)}".encode()


def wait_for_rows(sweep: Folder, say: Callable[[str], None]) -> Iterator[int]:
    """Yield the number of rows whenever a row is added or changed; end when every trial of the grid has a row.

    Also waits for the grid, and through storage outages. A failed row may still be replaced, so it is read every time.
    Says so when nobody trains what it waits for.
    """
    final: set[str] = set()
    before: dict[str, str] = {}
    said, idle = "", Idle()
    while True:
        try:
            names = trials_with(sweep, "row.json")
            rows = {name: row for name in names - final if (row := intact_row(sweep, name))}
            trials = expected_trials(sweep)
        except (MissingInput, TryAgain) as error:
            if str(error) != said:
                said = str(error)
                say(f"{lines_for_terminal(said)}; trying again every {WAIT_SECONDS:g} s")
            time.sleep(WAIT_SECONDS)
            continue
        # A damaged row may still be restored or replaced, as a failed one may.
        failed = {name: row.reason if isinstance(row, Damage) else row.finished_at for name, row in rows.items()
                  if isinstance(row, Damage) or row.status == "failed"}
        final |= rows.keys() - failed.keys()
        now = dict.fromkeys(final & names, "") | failed
        if now != before and now:
            yield len(now)
        before = now
        if trials is not None and trials <= now.keys():
            return
        if note := idle.note(sweep, trials, now):
            say(note)
        time.sleep(WAIT_SECONDS)
