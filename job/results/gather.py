"""Rows -> one ranked table -> the summary workbook; needs no torch."""

import json
import time
from collections.abc import Callable, Iterator

from job.errors import MissingInput, TryAgain
from job.folder.grid import format_grid, read_grid
from job.folder.layout import NEXT_GRID, SUMMARY, WORKBOOK, digest, read_row, trials_with
from job.folder.storage import Folder
from job.results.summary import Summary, collect
from job.results.workbook import workbook_bytes

WAIT_SECONDS = 5.0
SEAL = "trialgrid "


def gather(sweep: Folder) -> tuple[Summary, str, str]:
    """Merge the rows into summary.xlsx. Answers the summary, the workbook's name, and that of a kept older one or ''.

    A workbook that somebody has edited since it was written is kept under another name before the new one takes its place.
    """
    summary = collect(sweep)
    kept = keep_edited(sweep)
    data = seal(workbook_bytes(summary.table, summary.epochs, summary.repeats, summary.monitor, summary.notes()))
    best = summary.best
    about = {"best": None if best is None else best["trial"],
             "sorted_by": summary.monitor, "notes": summary.notes(),
             "missing": summary.missing, "failed": summary.failed, "other_pack": summary.other_pack}
    sweep.write(SUMMARY, (json.dumps(about, indent=1) + "\n").encode())
    sweep.write(WORKBOOK, data)
    if summary.next_trials:
        sweep.write(NEXT_GRID, format_grid(summary.next_trials).encode())
    else:
        sweep.delete(NEXT_GRID)
    return summary, WORKBOOK, kept


def keep_edited(sweep: Folder) -> str:
    """Copy a workbook that is not as we wrote it to summary-edited-HASH.xlsx; its new name, or ''."""
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
    """A zip archive with its own SHA-256 as its comment, which programs that open a workbook pass over, and do not save.

    The mark is in the file itself, so that of two gathers at once neither takes the other's workbook for an edited one.
    """
    assert workbook[-2:] == b"\0\0", "a zip archive without a comment ends with its length, 0"
    mark = f"{SEAL}{digest(workbook)}".encode()
    return workbook[:-2] + len(mark).to_bytes(2, "little") + mark


def is_sealed(workbook: bytes) -> bool:
    """Whether a workbook is to the last byte what `seal` has made."""
    size = len(SEAL) + 64
    body, mark = workbook[:-size - 2] + b"\0\0", workbook[-size:]
    return mark == f"{SEAL}{digest(body)}".encode()


def wait_for_rows(sweep: Folder, say: Callable[[str], None]) -> Iterator[int]:
    """Yield the number of rows whenever one has come or changed, and end when every trial of the grid has one.

    Waits for the grid too, and through outages of the storage. A failed row may yet be replaced, so it is read each time.
    """
    final: set[str] = set()
    before: dict[str, str] = {}
    said = ""
    while True:
        try:
            names = trials_with(sweep, "row.json")
            rows = {name: row for name in names - final if (row := read_row(sweep, name))}
            trials = {trial.trial for trial in read_grid(sweep)}
        except (MissingInput, TryAgain) as error:
            if str(error) != said:
                said = str(error)
                say(f"{said}; waiting for it")
            time.sleep(WAIT_SECONDS)
            continue
        final |= {name for name, row in rows.items() if row.status != "failed"}
        now = dict.fromkeys(final & names, "") | {name: row.finished_at for name, row in rows.items() if row.status == "failed"}
        if now != before and now:
            yield len(now)
        before = now
        if trials <= now.keys():
            return
        time.sleep(WAIT_SECONDS)
