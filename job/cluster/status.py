"""What a sweep is doing now, from its folder alone."""

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from job.errors import BadConfig, TryAgain
from job.folder.attempts import num_attempts, read_attempt
from job.folder.grid import read_grid
from job.folder.layout import PACK, PASSPORT, read_epochs, read_row, trial_file, trial_work, trials_with
from job.folder.storage import Folder, join
from job.results.terminal import console
from job.training.display import clock
from job.trial import Trial

WATCH_SECONDS = 5.0
# A trial's status takes four small reads; many at once hide the store's latency.
THREADS = 16


@dataclass(frozen=True)
class TrialStatus:
    """One trial's state and last figures.

    waiting, with NAME (a longer trial will pass through it), running, stopped, interrupted, done, diverged or failed.
    """

    trial: Trial
    state: str
    epoch: int = 0
    val_loss: float | None = None
    val_acc: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    attempts: int = 0
    where: str = ""
    cause: str = ""
    shorter: tuple[str, ...] = ()

    @property
    def has_row(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state in ("done", "diverged", "failed")


def sweep_status(sweep: Folder) -> list[TrialStatus]:
    """The state of each trial of the sweep's grid, and of those beside it; raises MissingInput where there is no grid."""
    trials = read_grid(sweep)
    known = {trial.trial for trial in trials}
    for name in sorted(trials_with(sweep, "row.json") - known):
        if row := read_row(sweep, name):
            try:
                trials.append(Trial(**{spec.name: row.settings[spec.name] for spec in fields(Trial) if spec.name in row.settings}))
            except (ValueError, TypeError) as error:
                raise BadConfig(f"{join(sweep.uri, trial_file(name, 'row.json'))}: not a row of this program ({error})") from None
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda trial: trial_status(sweep, trial), trials))
    return note_trajectories(found)


def note_trajectories(found: Sequence[TrialStatus]) -> list[TrialStatus]:
    """The same, saying of each waiting trial whether a longer one under way will pass through it."""
    noted = list(found)
    for runner in (item for item in found if item.state == "running"):
        noted = [replace(item, state=f"with {runner.trial.trial}") if item.state == "waiting" and item.trial.trial in runner.shorter
                 and item.trial.epochs > runner.epoch else item for item in noted]
    return noted


def trial_status(sweep: Folder, trial: Trial) -> TrialStatus:
    """A trial's row if it has one, else its last attempt and the epochs it has recorded."""
    work = trial_work(trial.trial)
    number = num_attempts(sweep, work)
    if row := read_row(sweep, trial.trial):
        return TrialStatus(trial, row.status, row.epochs_run, row.last_val_loss, row.last_val_acc, row.images_per_second,
                           attempts=number, where=row.host, cause=row.cause)
    if not number:
        return TrialStatus(trial, "waiting")
    last = read_attempt(sweep, work, number)
    state = "running" if last.is_alive else "interrupted" if last.state == "running" else "stopped"
    epochs = read_epochs(sweep, trial.trial)
    newest = epochs[-1] if epochs else None
    pace = (newest.train_seconds or 0) + (newest.val_seconds or 0) if newest else 0
    # Before its first beat an attempt is where the ones before have come to.
    epoch = len(epochs) if last.epoch is None else last.epoch
    done = epoch + (last.step or 0) / (last.num_steps or 1)
    return TrialStatus(
        trial, state, epoch, newest.val_loss if newest else None, newest.val_acc if newest else None,
        newest.images_per_second if newest else None, (trial.epochs - done) * pace if pace and state == "running" else None,
        number, last.host, last.cause, tuple(last.shorter))


def pack_status(sweep: Folder) -> str:
    """A line about the pack while there is none; '' once there is."""
    if sweep.exists(PASSPORT):
        return ""
    number = num_attempts(sweep, PACK)
    if not number:
        return "no pack yet"
    last = read_attempt(sweep, PACK, number)
    doing = "is being built" if last.is_alive else "is not finished"
    count = f", {last.step} of {last.num_steps} images" if last.step else ""
    return f"the pack {doing} (attempt {number} on {last.host}{count}{'; ' + last.cause if last.cause else ''})"


def watch_status(sweep: Folder) -> None:
    """Show the status again and again until every trial has a row; into a pipe, whenever a trial has moved on.

    An outage of the storage is shown, and waited for.
    """
    screen, before = console(), None
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        while True:
            try:
                found, pack = sweep_status(sweep), pack_status(sweep)
            except TryAgain as error:
                screen.print(f"{error}; asked again", markup=False, highlight=False)
                time.sleep(WATCH_SECONDS)
                continue
            moved = [(item.state, item.epoch) for item in found]
            if screen.is_terminal:
                live.update(render(found, pack), refresh=True)
            elif moved != before:
                print_status(found, pack)
            before = moved
            if all(item.has_row for item in found):
                break
            time.sleep(WATCH_SECONDS)
    if screen.is_terminal:
        print_status(found)


def print_status(found: Sequence[TrialStatus], pack: str = "") -> None:
    """A table of the trials, and how many are in which state."""
    console().print(render(found, pack))


def render(found: Sequence[TrialStatus], pack: str) -> RenderableType:
    """The table, a line for each cause, and the counts."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("trial", "lr", "state", "epoch", "val loss", "val acc", "images/s", "left", "attempts", "where"):
        table.add_column(name, justify="left" if name in ("trial", "state", "where") else "right")

    def figure(value: float | None, kind: str) -> str:
        return "" if value is None else format(value, kind)

    for item in found:
        table.add_row(item.trial.trial, f"{item.trial.lr:g}", item.state, f"{item.epoch}/{item.trial.epochs}",
                      figure(item.val_loss, ".3f"), figure(item.val_acc, ".3f"), figure(item.images_per_second, ".0f"),
                      "" if item.seconds_left is None else clock(item.seconds_left), str(item.attempts), escape(item.where))
    causes = [escape(f"trial {item.trial.trial} {item.state}: {item.cause}") for item in found if item.cause]
    counts = Counter(item.state for item in found)
    total = ", ".join(f"{count} {state}" for state, count in counts.items())
    return Group(table, *([escape(pack)] if pack else []), *causes, total)
