"""What a sweep is doing now, from its folder alone."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.table import Table

from job.errors import MissingInput
from job.layout import read_epochs, read_grid, read_row, trial_file
from job.storage import Folder
from job.trial import Trial

# A heartbeat comes every few seconds; after this long without one, the trial is taken to have been interrupted.
SILENT_SECONDS = 60


@dataclass(frozen=True)
class TrialStatus:
    """One trial's state (waiting, running, interrupted, done, diverged, failed) and last figures."""

    trial: Trial
    state: str
    epoch: int = 0
    val_loss: float | None = None
    val_acc: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    where: str = ""
    cause: str = ""


def sweep_status(sweep: Folder) -> list[TrialStatus]:
    """The state of each trial of the sweep's grid; raises MissingInput where there is no grid."""
    return [trial_status(sweep, trial) for trial in read_grid(sweep)]


def trial_status(sweep: Folder, trial: Trial) -> TrialStatus:
    """A trial's row if it has one, else its heartbeat and the epochs it has recorded."""
    if row := read_row(sweep, trial.trial):
        return TrialStatus(trial, row.status, row.epochs_run, row.last_val_loss, row.last_val_acc, row.images_per_second,
                           where=row.host, cause=row.cause)
    try:
        beat = json.loads(sweep.read(trial_file(trial.trial, "heartbeat.json")))
    except MissingInput:
        return TrialStatus(trial, "waiting")
    silent = (datetime.now(UTC) - datetime.fromisoformat(beat["at"])).total_seconds()
    epochs = read_epochs(sweep, trial.trial)
    last = epochs[-1] if epochs else None
    pace = (last.train_seconds or 0) + (last.val_seconds or 0) if last else None
    left = trial.epochs - beat["epoch"] - beat["step"] / max(1, beat["num_steps"])
    return TrialStatus(
        trial, "running" if silent < SILENT_SECONDS else "interrupted", beat["epoch"], last.val_loss if last else None,
        last.val_acc if last else None, last.images_per_second if last else None,
        left * pace if pace and silent < SILENT_SECONDS else None, beat["host"])


def print_status(found: Sequence[TrialStatus]) -> None:
    """A table of the trials, and how many are in which state."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("trial", "lr", "state", "epoch", "val loss", "val acc", "pictures/s", "minutes left", "where", "cause"):
        table.add_column(name, justify="left" if name in ("trial", "state", "where", "cause") else "right")

    def figure(value: float | None, kind: str) -> str:
        return "" if value is None else format(value, kind)

    for item in found:
        left = None if item.seconds_left is None else item.seconds_left / 60
        table.add_row(item.trial.trial, f"{item.trial.lr:g}", item.state, f"{item.epoch}/{item.trial.epochs}",
                      figure(item.val_loss, ".4f"), figure(item.val_acc, ".4f"), figure(item.images_per_second, ".0f"),
                      figure(left, ".1f"), item.where, item.cause)
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    counts = Counter(item.state for item in found)
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
