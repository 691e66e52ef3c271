"""The tables and notes that commands print, each on a console that the caller may pass in."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from job.folder.escape import for_terminal, lines_for_terminal
from job.folder.layout import NEXT_GRID, REPORT
from job.folder.storage import Folder, join
from job.results.intact import refuse_damaged
from job.results.json_output import plan_sums, race_sums
from job.results.raced import NO_RACE, raced_lines
from job.results.summary import Summary, settings_of
from job.training.display import clock, plural

if TYPE_CHECKING:
    from job.training.plan import Run

# The columns of `job gather` after the settings: heading, format, and how early a narrow screen drops it (0: never).
FIGURES = {
    "best_val_acc": ("val acc", ".3f", 0),
    "std_best_val_acc": ("sd over folds", ".3f", 2),
    "best_val_loss": ("val loss", ".3f", 6),
    "best_epoch": ("at epoch", ".0f", 3),
    "test_acc": ("test acc", ".3f", 1),
    "test_recall": ("test recall", ".3f", 4),
    "test_recall_at_threshold": ("recall at threshold", ".3f", 4),
    "p_vs_best": ("p vs best", ".3f", 3),
    "p_vs_best_holm": ("after Holm", ".3f", 2),
    "p_race": ("p in the race", ".3f", 3),
    "seconds": ("seconds", ".1f", 5),
}
SETTING_DROPS = 7
STATE_STYLES = {"done": "green", "running": "cyan", "paused": "blue", "stopped": "yellow", "interrupted": "yellow",
                "raced": "dim", "diverged": "red", "failed": "bold red", "damaged": "bold red"}


@dataclass(frozen=True)
class Column:
    """One column of a printed table, escaped; `drops`: how early a narrow screen does without it, 0 never."""

    heading: str
    cells: list[str]
    drops: int = 0
    left: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", [for_terminal(cell) for cell in self.cells])


def console() -> Console:
    """The screen; into a pipe, as wide as COLUMNS says, or wide enough for every table."""
    found = Console()
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=160)


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that fit on a screen: empty ones and those that matter least are left out, none is cut."""
    kept = [column for column in columns if not column.drops or any(column.cells)]
    # Two blanks separate the columns, and one stands at either edge, to which the last column's padding is added.
    while sum(max(map(cell_len, (column.heading, *column.cells))) + 2 for column in kept) + 1 > width:
        extra = [column for column in kept if column.drops]
        if not extra:
            break
        kept.remove(max(extra, key=lambda column: column.drops))
    return kept


def table_of(columns: Sequence[Column], styles: Sequence[str | None] = ()) -> Table:
    """A table of these columns; styles: one per line, or none."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column.heading, justify="left" if column.left else "right", overflow="fold")
    for number, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        style = styles[number] if styles else None
        table.add_row(*(state_text(cell) if column.heading == "state" else Text(cell)
                        for column, cell in zip(columns, cells, strict=True)), style=style)
    return table


def state_text(state: str) -> Text:
    """A trial's state in its colour; one that waits, or that a longer trial passes through, is dim."""
    return Text(state, STATE_STYLES.get(state, "dim"))


def print_line(screen: Console, text: str, whole: bool = False, style: str | None = None) -> None:
    """Print a sentence; whole: never break the line, so that a path or a command in it can be copied."""
    screen.print(lines_for_terminal(text), markup=False, highlight=False, style=style,
                 soft_wrap=whole or not screen.is_terminal)


def shown(value: object, kind: str = "") -> str:
    """A cell of the printed table: empty if there is no value."""
    if value is None or pd.isna(value):
        return ""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return format(value, kind or ("g" if isinstance(value, float) else ""))


def print_gathered(sweep: Folder, summary: Summary, workbook: str, kept: str, screen: Console | None = None) -> None:
    """Print the recommendation, the ranked table, the notes and the workbook's path; raises BadData for damage."""
    screen = screen or console()
    lines = summary.lines
    columns, alike = summary_columns(lines, summary.recommendation.trial)
    fits = fitting(columns, screen.width)
    for number, sentence in enumerate(summary.recommendation.sentences):
        print_line(screen, sentence, style="bold" if number == 0 else None)
    order = [f"sorted by {summary.monitor}"] if lines["rank"].notna().any() else []
    pooled = ["one line per setting"] if len(lines) < len(summary.table) else []
    num_raced = len(raced_lines(summary.table))
    raced = [f"{num_raced} of them raced (stopped early, at the bottom)"] if num_raced else []
    print_line(screen, ", ".join([plural(len(summary.table), "trial"), *raced, *pooled, *order, *alike]))
    # Only what beats always saying the commonest class is green.
    screen.print(table_of(fits, ["bold green" if trial == summary.recommendation.trial else None
                                 for trial in lines["trial"]]))
    if summary.best is not None:
        of = "the weights are those" if summary.recommendation.num_folds else "val acc and val loss are those"
        kept_too = "" if summary.recommendation.num_folds else ", whose weights are kept"
        print_line(screen, f"* the trial to use; {of} of its best epoch{kept_too}")
    if left_out := [column.heading for column in columns if column not in fits]:
        print_line(screen, f"hidden at {screen.width} columns (the workbook has them): {', '.join(left_out)}")
    if lines["test_recall"].notna().any():
        of = f"that of {summary.positive!r}" if summary.positive else "the mean over the classes"
        print_line(screen, f"test recall is {of}{recall_note(lines)}")
    for note in summary.notes():
        print_line(screen, note, whole=NEXT_GRID in note or NO_RACE in note)
    if kept:
        print_line(screen, f"the workbook had been edited; the edited one is now {join(sweep.uri, kept)}", whole=True)
    print_line(screen, f"page: {join(sweep.uri, REPORT)}", whole=True)
    print_line(screen, f"workbook: {join(sweep.uri, workbook)}", whole=True)
    refuse_damaged(summary.damaged)


def recall_note(lines: pd.DataFrame) -> str:
    """Which threshold the printed recalls belong to, where a trial has chosen one."""
    if not has_threshold(lines):
        return ""
    return (" at threshold 0.5; recall at threshold is that at the trial's own one, which reaches its wanted recall on "
            "validation and by which `job predict` decides")


def has_threshold(lines: pd.DataFrame) -> bool:
    """Whether a trial has chosen a threshold."""
    return "threshold" in lines and bool(lines["threshold"].notna().any())


def summary_columns(lines: pd.DataFrame, recommended: str) -> tuple[list[Column], list[str]]:
    """The columns of the summary's table, and the settings that are the same in every trial, each as `name value`."""
    settings = settings_of(lines)
    alike = [name for name in settings if name not in ("lr", "epochs") and lines[name].nunique() == 1]
    varied = [name for name in settings if name not in alike]
    names = [f"{trial}{' *' * (trial == recommended)}" for trial in lines["trial"]]
    columns = [Column("trial", names, left=True)]
    if lines["status"].nunique() > 1 or set(lines["status"]) & {"raced", "failed"}:
        columns.append(Column("state", lines["status"].astype(str).tolist(), left=True))
    columns += [Column(name, [shown(value) for value in lines[name]],
                       0 if name in ("lr", "epochs") else SETTING_DROPS + number) for number, name in enumerate(varied)]
    for name, (heading, kind, drops) in FIGURES.items():
        if name in lines and lines[name].notna().any():
            title = f"{heading} at 0.5" if name == "test_recall" and has_threshold(lines) else heading
            columns.append(Column(title, [shown(value, kind) for value in lines[name]], drops))
    return columns, [f"{name} {shown(lines[name].iloc[0])}" for name in alike]


def print_plan(runs: "Sequence[Run]", num_trials: int, price: float, to_train: str, is_race: bool = False,
               screen: Console | None = None) -> None:
    """Print a line per run, then the sums.

    price: that of an hour of this machine, 0 if unknown. to_train: the command that trains what is left.
    """
    screen = screen or console()
    if not runs:
        print_line(screen, f"each of the {num_trials} trials has its row; nothing is left to train")
        return
    longest = [run.trials[-1] for run in runs]
    columns = [
        Column("run", [trial.trial for trial in longest], left=True),
        Column("passes through", [", ".join(trial.trial for trial in run.trials[:-1]) for run in runs], 2, left=True),
        Column("lr", [f"{trial.lr:g}" for trial in longest], 1),
        Column("model", [trial.model for trial in longest], 4, left=True),
        Column("parameters", [f"{run.pace.num_parameters / 1e6:.2f} M" for run in runs], 6),
        Column("memory", [f"{run.pace.memory_bytes / 2**30:.1f} GiB" for run in runs], 5),
        Column("epochs left", [str(run.epochs_left) for run in runs]),
        Column("per epoch", [f"{run.pace.epoch_seconds:.1f} s" for run in runs], 3),
        Column("in all", [clock(run.seconds) for run in runs])]
    screen.print(table_of(fitting(columns, screen.width)))
    sums = plan_sums(runs, price)
    print_line(screen, f"{sums['trials_left']} of {num_trials} trials are left, in {plural(len(runs), 'run')}: "
                       f"{sums['epochs_left']} epochs to train, {sums['epochs_saved']} saved by trajectories")
    cost = f"; at {price:g} per hour about {sums['cost']:.2f}" if price else ""
    print_line(screen, f"about {clock(sums['seconds_left'])} on this machine{cost}; "
                       f"{sums['memory_bytes'] / 2**30:.1f} GiB of memory")
    if is_race:
        race = race_sums(runs, price)
        cost = f", {race['cost_least']:.2f} to {race['cost_most']:.2f}" if price else ""
        print_line(screen, f"in a race {race['epochs_least']} to {race['epochs_most']} of these epochs: "
                           f"{clock(race['seconds_least'])} to {clock(race['seconds_most'])}{cost}")
    print_line(screen, f"to train: {to_train}", whole=True)
