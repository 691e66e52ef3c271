"""Rows -> one ranked table -> the summary workbook; needs no torch."""

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from job.errors import MissingInput, TryAgain
from job.layout import (
    GRID,
    NEXT_GRID,
    PASSPORT,
    SUMMARY,
    WORKBOOK,
    digest,
    read_epochs,
    read_grid,
    read_json,
    read_row,
    trial_file,
    trials_with,
)
from job.record import FIGURES, Epoch, Row
from job.results.compare import (
    baseline_notes,
    hits,
    judge,
    next_grid,
    repeat_notes,
    repeats,
    validation_predictions,
    verdict_notes,
)
from job.results.workbook import settings_of, workbook_bytes
from job.storage import Folder, join
from job.trial import Trial, format_grid, is_max

WAIT_SECONDS = 5.0
SEAL = "trialgrid "


@dataclass(frozen=True)
class Summary:
    """A sweep's rows, ranked. `table` has a line a trial: Trial's fields, then Row's, and `rank` (1 is best, or NaN).

    Rows of another pack than the sweep's have no rank: their figures speak of other pictures.
    """

    table: pd.DataFrame
    epochs: dict[str, pd.DataFrame]
    monitor: str
    baseline: list[str]
    repeats: pd.DataFrame
    next_trials: list[Trial]
    next_notes: list[str]
    missing: list[str]
    other_pack: list[str]
    failed: list[str]

    @property
    def best(self) -> pd.Series | None:
        """The line of the best trial."""
        first = self.table[self.table["rank"] == 1]
        return None if first.empty else first.iloc[0]

    @property
    def positive(self) -> str:
        """The class that precision, recall and false negatives speak of, where there are two; '' where they are means."""
        for classes in self.table.get("classes", ()):
            return str(classes[-1]) if len(classes) == 2 else ""
        return ""

    def notes(self) -> list[str]:
        """What a reader must know besides the table."""
        found = [*self.baseline, *verdict_notes(self.table), *repeat_notes(self.repeats), *self.next_notes]
        if self.next_trials:
            found.append(f"{NEXT_GRID} is the grid with these trials added: `job sweep --grid SWEEP/{NEXT_GRID} SWEEP`")
        if self.missing:
            found.append(f"{len(self.missing)} of the grid's trials have no row yet: {', '.join(self.missing)}")
        if self.failed:
            causes = self.table.set_index("trial")["cause"]
            found += [f"trial {name} failed: {causes[name]}" for name in self.failed]
        if self.other_pack:
            found.append(f"not ranked, for their rows are of another pack: {', '.join(self.other_pack)}")
        return found


def collect(sweep: Folder) -> Summary:
    """Read every row and epoch table of the sweep; raises MissingInput where there is no row at all."""
    grid_trials = read_grid(sweep) if sweep.exists(GRID) else []
    grid = [trial.trial for trial in grid_trials]
    found = trials_with(sweep, "row.json")
    names = [name for name in grid if name in found] + sorted(found.difference(grid), key=natural)
    rows = [row for name in names if (row := read_row(sweep, name))]
    if not rows:
        hint = "`job status` says how far they are" if grid else "and there is no grid.csv: is this a sweep's folder?"
        raise MissingInput(f"{sweep.uri}: no trial has a row yet; {hint}")
    epochs = {row.trial: epochs_table(read_epochs(sweep, row.trial)) for row in rows}
    passport = read_json(sweep, PASSPORT)
    pack_hash = passport["pack_hash"] if passport else Counter(row.pack_hash for row in rows).most_common(1)[0][0]
    table, monitor = rank(rows, pack_hash)
    predictions = read_predictions(sweep, table[table["rank"].notna()]["trial"])
    table = judge(table, {name: hits(found) for name, found in predictions.items()})
    next_trials, next_notes = next_grid(table, grid_trials)
    next_trials = [*grid_trials, *next_trials] if next_trials else []
    return Summary(table, epochs, monitor, baseline_notes(table, predictions), repeats(table), next_trials, next_notes,
                   missing=[name for name in grid if name not in found],
                   other_pack=[row.trial for row in rows if row.pack_hash != pack_hash and row.status != "failed"],
                   failed=[row.trial for row in rows if row.status == "failed"])


def read_predictions(sweep: Folder, trials: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Trial -> its predictions on the validation pictures, for the trials that left them."""
    found = {}
    for trial in trials:
        with contextlib.suppress(MissingInput):
            found[trial] = validation_predictions(sweep.read(trial_file(trial, "predictions.csv")))
    return found


def natural(name: str) -> tuple[int, str]:
    """A sort key by which trial 10 follows trial 9."""
    return (int(name), "") if name.isdecimal() else (1 << 62, name)


def epochs_table(epochs: Sequence[Epoch]) -> pd.DataFrame:
    """The epochs as a table, a line each, with Epoch's fields as columns."""
    return pd.DataFrame([asdict(epoch) for epoch in epochs], columns=[spec.name for spec in fields(Epoch)])


def rank(rows: Sequence[Row], pack_hash: str) -> tuple[pd.DataFrame, str]:
    """The table, best first, and the figure that it is sorted by: what the trials monitor in validation, val_acc if they differ.

    Equal figures: the lower validation loss, then fewer epochs, come first.
    """
    lines = [{**row.settings, **{key: value for key, value in asdict(row).items() if key != "settings"}} for row in rows]
    table = pd.DataFrame(lines)
    usable_rows = [row.settings for row in rows if row.pack_hash == pack_hash and row.status != "failed"]
    monitored = {(str(settings.get("best_monitor", "val_acc")), str(settings.get("best_mode", "auto"))) for settings in usable_rows}
    # Figures of the training pictures say nothing of a winner.
    monitor, mode = next(iter(monitored)) if len(monitored) == 1 else ("val_acc", "auto")
    monitor, mode = (monitor, mode) if monitor.startswith("val_") else ("val_acc", "auto")
    keys = [f"best_{monitor}", "best_val_loss", "epochs"]
    table["seed"] = table.get("seed", 0)
    for name in {*keys, "seconds", *(f"{part}_{figure}" for part in ("best", "median", "last") for figure in FIGURES)}:
        table[name] = pd.to_numeric(table[name]) if name in table else float("nan")
    usable = (table["pack_hash"] == pack_hash) & (table["status"] != "failed") & table[keys[0]].notna()
    order = table.assign(unusable=~usable).sort_values(
        ["unusable", *keys], ascending=[True, not is_max(monitor, mode), True, True], kind="stable").index
    table = table.loc[order].reset_index(drop=True)
    table["rank"] = [number + 1.0 if number < usable.sum() else float("nan") for number in range(len(table))]
    return table, monitor


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


# The printed table's figures: heading, format. val and epoch are the best epoch's.
PRINTED = {"best_val_acc": ("best val acc", ".3f"), "best_val_loss": ("its val loss", ".3f"), "best_epoch": ("at epoch", ".0f"),
           "test_acc": ("test acc", ".3f"), "test_recall": ("test recall", ".3f"), "p_vs_best": ("p vs best", ".3f"),
           "seconds": ("seconds", ".1f")}
MOST_SETTINGS = 5


def shown(value: object, kind: str = "") -> str:
    """A cell of the printed table: nothing where there is no value."""
    if value is None or pd.isna(value):
        return ""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return format(value, kind or ("g" if isinstance(value, float) else ""))


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


def console() -> Console:
    """The screen; into a pipe, as wide as COLUMNS says, or wide enough for every table."""
    found = Console()
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=160)


def print_gathered(sweep: Folder, summary: Summary, workbook: str, kept: str) -> None:
    """Print the table, the best trial, where the workbook lies, and what a reader must know besides."""
    lines, screen = summary.table, console()
    settings = settings_of(lines)
    alike = [name for name in settings if name not in ("lr", "epochs") and lines[name].nunique() == 1]
    settings = [name for name in settings if name not in alike]
    crowded = len(settings) > MOST_SETTINGS
    if crowded:
        settings = ["lr", "epochs"]
    title = ", ".join([f"{len(lines)} trial{'s' * (len(lines) != 1)}, sorted by {summary.monitor}",
                       *(f"{name} {shown(lines[name].iloc[0])}" for name in alike)])
    figures = {name: spec for name, spec in PRINTED.items() if name in lines and lines[name].notna().any()}
    states = ["status"] if lines["status"].nunique() > 1 or "failed" in set(lines["status"]) else []
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("trial", *states, *settings, *(heading for heading, _ in figures.values())):
        table.add_column(name, justify="left" if name in ("trial", "status") else "right")
    for _, line in lines.iterrows():
        values = [shown(line[name], kind) for name, (_, kind) in figures.items()]
        cells = [str(line["trial"]), *(str(line[name]) for name in states), *(shown(line[name]) for name in settings), *values]
        table.add_row(*map(escape, cells),
                      style="bold green" if line["rank"] == 1 else None)
    screen.print(table)
    if crowded:
        print("more settings differ than fit here; the workbook has them all")
    if summary.positive and "test_recall" in figures:
        print(f"recall is that of {summary.positive!r}")
    for note in summary.notes():
        print(note)
    best = summary.best
    if best is not None:
        print(f"best trial: {best['trial']} ({', '.join(f'{name} {shown(best[name])}' for name in settings)}), "
              f"validation accuracy {best['best_val_acc']:.4f} at epoch {best['best_epoch']:.0f}")
    if kept:
        print(f"the workbook had been edited; it is kept as {join(sweep.uri, kept)}")
    print(f"workbook: {join(sweep.uri, workbook)}")
