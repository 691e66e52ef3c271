"""What a sweep is doing now, from its folder alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

from rich import box
from rich.markup import escape
from rich.table import Table

from job.layout import read_beat, read_epochs, read_grid, read_row, trials_with
from job.results.gather import console
from job.storage import Folder
from job.trial import Trial


@dataclass(frozen=True)
class TrialStatus:
    """One trial's state (waiting, running, stopped, interrupted, done, diverged, failed) and last figures."""

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
    """The state of each trial of the sweep's grid, and of those beside it; raises MissingInput where there is no grid."""
    trials = read_grid(sweep)
    known = {trial.trial for trial in trials}
    for name in sorted(trials_with(sweep, "row.json") - known):
        if row := read_row(sweep, name):
            trials.append(Trial(**{spec.name: row.settings[spec.name] for spec in fields(Trial) if spec.name in row.settings}))
    return [trial_status(sweep, trial) for trial in trials]


def trial_status(sweep: Folder, trial: Trial) -> TrialStatus:
    """A trial's row if it has one, else its heartbeat and the epochs it has recorded."""
    if row := read_row(sweep, trial.trial):
        return TrialStatus(trial, row.status, row.epochs_run, row.last_val_loss, row.last_val_acc, row.images_per_second,
                           where=row.host, cause=row.cause)
    beat = read_beat(sweep, trial.trial)
    if not beat:
        return TrialStatus(trial, "waiting")
    state = "stopped" if beat["stopped"] else "running" if beat["alive"] else "interrupted"
    epochs = read_epochs(sweep, trial.trial)
    last = epochs[-1] if epochs else None
    pace = (last.train_seconds or 0) + (last.val_seconds or 0) if last else None
    left = trial.epochs - beat["epoch"] - beat["step"] / max(1, beat["num_steps"])
    return TrialStatus(
        trial, state, beat["epoch"], last.val_loss if last else None,
        last.val_acc if last else None, last.images_per_second if last else None,
        left * pace if pace and state == "running" else None, beat["host"])


def print_status(found: Sequence[TrialStatus]) -> None:
    """A table of the trials, and how many are in which state."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("trial", "lr", "state", "epoch", "last val loss", "last val acc", "pictures/s", "minutes left", "where"):
        table.add_column(name, justify="left" if name in ("trial", "state", "where") else "right")

    def figure(value: float | None, kind: str) -> str:
        return "" if value is None else format(value, kind)

    for item in found:
        left = None if item.seconds_left is None else item.seconds_left / 60
        table.add_row(item.trial.trial, f"{item.trial.lr:g}", item.state, f"{item.epoch}/{item.trial.epochs}",
                      figure(item.val_loss, ".3f"), figure(item.val_acc, ".3f"), figure(item.images_per_second, ".0f"),
                      figure(left, ".1f"), escape(item.where))
    console().print(table)
    for item in found:
        if item.cause:
            print(f"trial {item.trial.trial} {item.state}: {item.cause}")
    counts = Counter(item.state for item in found)
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
