"""The tables and notes that commands print."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from job.data.decode import Rejected
from job.errors import BadData, JobError
from job.folder.storage import Folder, join
from job.results.summary import Summary, settings_of


def print_predictions(predictor: "Predictor", predictions: "Iterable[Prediction]") -> None:
    """By what it is decided, then a line an image; raises BadData at the end where some could not be read."""
    rule = "" if predictor.threshold is None else (
        f"; {predictor.classes[1]} from a probability of {predictor.threshold:.6g} on, which found "
        f"{predictor.val_recall or 0:.0%} of it in validation")
    print(f"by the best weights of trial {predictor.trial}{rule}")
    bad: list[JobError] = []
    for item in predictions:
        if item.error:
            reason = item.error.reason if isinstance(item.error, Rejected) else str(item.error)
            bad.append(BadData(reason) if isinstance(item.error, Rejected) else item.error)
            print(f"{item.image}  not read: {reason}")
        else:
            print(f"{item.image}  {item.label}  {item.confidence:.3f}")
    if bad:
        raise type(bad[0])(f"{len(bad)} of the images could not be read; the first: {bad[0]}")


if TYPE_CHECKING:
    from job.results.predict import Prediction, Predictor

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
