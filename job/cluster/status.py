"""What a sweep is doing now, from its folder alone."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from job.errors import BadConfig
from job.folder.attempts import num_attempts, read_attempt
from job.folder.grid import read_grid
from job.folder.layout import PACK, PASSPORT, read_epochs, read_json, read_row, trial_file, trial_work, trials_with
from job.folder.storage import Folder, join
from job.record import Epoch, Row, finite
from job.results.summary import natural, rank
from job.training.stopping import is_better
from job.trial import Trial

# A trial's status takes four small reads; many at once hide the store's latency.
THREADS = 16


@dataclass(frozen=True)
class TrialStatus:
    """One trial's state and figures: those of its best epoch so far, and those of its last one.

    state: waiting, with NAME (the longer trial NAME passes through it), running, stopped, interrupted, done, diverged
    or failed. is_best: whether `job gather` ranks the trial first at this moment.
    """

    trial: Trial
    state: str
    epoch: int = 0
    best_epoch: int | None = None
    best_val_acc: float | None = None
    best_val_loss: float | None = None
    last_val_acc: float | None = None
    last_val_loss: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    attempts: int = 0
    host: str = ""
    cause: str = ""
    shorter: tuple[str, ...] = ()
    is_best: bool = False

    @property
    def has_row(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state in ("done", "diverged", "failed")


def sweep_status(sweep: Folder) -> list[TrialStatus]:
    """Return the state of each trial of the grid, and of each other trial with a row.

    Raises MissingInput if there is no grid.
    """
    trials = read_grid(sweep)
    others = trials_with(sweep, "row.json") - {trial.trial for trial in trials}
    trials += [trial_of(sweep, row) for name in sorted(others, key=natural) if (row := read_row(sweep, name))]
    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(lambda trial: read_row(sweep, trial.trial), trials))
        found = list(pool.map(lambda trial, row: trial_status(sweep, trial, row), trials, rows))
    best = best_trial(sweep, [row for row in rows if row])
    return note_trajectories([replace(item, is_best=item.trial.trial == best) for item in found])


def trial_of(sweep: Folder, row: Row) -> Trial:
    """Return the trial of a row that the grid does not name; raises BadConfig for settings that are not a trial's."""
    try:
        return Trial(**{spec.name: row.settings[spec.name] for spec in fields(Trial) if spec.name in row.settings})
    except (ValueError, TypeError) as error:
        name = join(sweep.uri, trial_file(row.trial, "row.json"))
        raise BadConfig(f"{name}: not a row of this program ({error})") from None


def best_trial(sweep: Folder, rows: Sequence[Row]) -> str:
    """Return the name of the trial that `job gather` ranks first among these rows, or ''."""
    passport = read_json(sweep, PASSPORT) if rows else None
    if not passport:
        return ""
    table, _ = rank(rows, passport["pack_hash"])
    return str(next(iter(table[table["rank"] == 1]["trial"]), ""))


def note_trajectories(found: Sequence[TrialStatus]) -> list[TrialStatus]:
    """Return the same, with each waiting trial that a longer one passes through in the state `with NAME`."""
    noted = list(found)
    for runner in (item for item in found if item.state == "running"):
        for place, item in enumerate(noted):
            if item.state == "waiting" and item.trial.trial in runner.shorter and item.trial.epochs > runner.epoch:
                noted[place] = replace(item, state=f"with {runner.trial.trial}")
    return noted


def trial_status(sweep: Folder, trial: Trial, row: Row | None) -> TrialStatus:
    """Return the status from a trial's row if it has one, else from its last attempt and its epochs so far."""
    work = trial_work(trial.trial)
    number = num_attempts(sweep, work)
    if row:
        return TrialStatus(
            trial, row.status, row.epochs_run, row.best_epoch, row.best_val_acc, row.best_val_loss, row.last_val_acc,
            row.last_val_loss, row.images_per_second, attempts=number, host=row.host, cause=row.cause)
    if not number:
        return TrialStatus(trial, "waiting")
    last = read_attempt(sweep, work, number)
    state = "running" if last.is_alive else "interrupted" if last.state == "running" else "stopped"
    epochs = read_epochs(sweep, trial.trial)
    # Before its first heartbeat an attempt stands where the attempts before it ended.
    epoch = len(epochs) if last.epoch is None else last.epoch
    found = TrialStatus(
        trial, state, epoch, attempts=number, host=last.host, cause=last.cause, shorter=tuple(last.shorter))
    if best := best_of(trial, epochs):
        found = replace(found, best_epoch=best.epoch, best_val_acc=best.val_acc, best_val_loss=best.val_loss)
    if epochs:
        newest = epochs[-1]
        pace = (newest.train_seconds or 0) + (newest.val_seconds or 0)
        done = epoch + (last.step or 0) / (last.num_steps or 1)
        found = replace(found, last_val_acc=newest.val_acc, last_val_loss=newest.val_loss,
                        images_per_second=newest.images_per_second,
                        seconds_left=(trial.epochs - done) * pace if pace and state == "running" else None)
    return found


def best_of(trial: Trial, epochs: Sequence[Epoch]) -> Epoch | None:
    """Return the best epoch by the figure that the trial monitors; None if no epoch has a finite loss."""
    best = None
    for epoch in epochs:
        if not epoch.diverged and is_better(trial, epoch, best):
            best = epoch
    return best


def pack_status(sweep: Folder) -> str:
    """Return a line about the pack while it is not complete, else ''."""
    if sweep.exists(PASSPORT):
        return ""
    number = num_attempts(sweep, PACK)
    if not number:
        return "there is no pack yet"
    last = read_attempt(sweep, PACK, number)
    doing = "is being built" if last.is_alive else "is not finished"
    count = f", {last.step} of {last.num_steps} images" if last.step else ""
    return f"the pack {doing} (attempt {number} on {last.host}{count}{'; ' + last.cause if last.cause else ''})"


def status_json(found: Sequence[TrialStatus], pack: str) -> dict[str, Any]:
    """Return the status for programs; the keys of a trial that row.json has too have the same names."""
    return {"pack": pack or "complete", "trials": [as_json(item) for item in found]}


def as_json(item: TrialStatus) -> dict[str, Any]:
    """Return one trial as a flat object: settings first."""
    own = {spec.name: finite(getattr(item, spec.name)) for spec in fields(TrialStatus)
           if spec.name not in ("trial", "shorter")}
    return {**asdict(item.trial), **own}
