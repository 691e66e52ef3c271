"""What a sweep is doing now, from its folder alone."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from job.errors import BadConfig
from job.folder.attempts import Attempt, num_attempts, read_attempt
from job.folder.grid import known_trials, trial_of
from job.folder.layout import PACK, PASSPORT, RACE, read_epochs, read_pack_hash, trial_file, trial_work, trials_with
from job.folder.storage import Folder
from job.record import Epoch, Row, finite
from job.results.intact import Damage, intact_row
from job.results.ranking import natural, rank
from job.training.race import Place, places
from job.training.rungs import Seen
from job.training.stopping import best_of
from job.trial import Trial

# A trial's status takes four small reads; many at once hide the store's latency.
THREADS = 16


@dataclass(frozen=True)
class TrialStatus:
    """One trial's state and figures: those of its best epoch so far, and those of its last one.

    state: waiting, with NAME (the longer trial NAME passes through it), running, paused (at a rung of the race),
    stopped, interrupted, done, diverged, raced, failed, or damaged (its row cannot be read). is_best: whether `job
    gather` ranks the trial first at this moment. rung: the last one that it has reached in a race, 1 or 2; place: its
    place there at this moment, of num_at_rung trials.
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
    rung: int | None = None
    place: int | None = None
    num_at_rung: int | None = None

    @property
    def has_row(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state in ("done", "diverged", "raced", "failed", "damaged")


@dataclass(frozen=True)
class SweepStatus:
    """The state of each trial, and the damaged files that were found on the way.

    notes: the rungs that cannot be read, in words; a race goes on without them.
    """

    trials: list[TrialStatus]
    damaged: list[Damage]
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[TrialStatus]:
        return iter(self.trials)


def sweep_status(sweep: Folder) -> SweepStatus:
    """Return the state of each trial of the grid, and of each other trial with a row; without a grid, of those begun.

    A trial of the grid whose row is damaged is in the state damaged. Raises MissingInput if there is neither.
    """
    trials = known_trials(sweep)
    names = [trial.trial for trial in trials]
    names += sorted(trials_with(sweep, "row.json").difference(names), key=natural)
    with ThreadPoolExecutor(THREADS) as pool:
        rows = dict(zip(names, pool.map(lambda name: intact_row(sweep, name), names), strict=True))
        trials += [trial_of(row.settings) for name in names[len(trials):] if isinstance(row := rows[name], Row)]
        standing, notes = last_places(sweep)
        found = list(pool.map(lambda trial: trial_status(sweep, trial, rows[trial.trial], standing.get(trial.trial)),
                              trials))
    best = best_trial(sweep, [row for row in rows.values() if isinstance(row, Row)])
    noted = note_trajectories([replace(item, is_best=item.trial.trial == best) for item, _ in found])
    damaged = [row for row in rows.values() if isinstance(row, Damage)]
    return SweepStatus(noted, damaged + [damage for _, damage in found if damage], notes)


def last_places(sweep: Folder) -> tuple[dict[str, Place], list[str]]:
    """Return where each trial stands at the last rung that it has reached, and which rungs cannot be read.

    Both are empty for a sweep without a race, whose rungs nobody looks for.
    """
    notes: list[str] = []
    if not sweep.exists(RACE):
        return {}, notes
    seen = Seen(sweep, notes.append)
    seen.look(now=True)
    last = {rung.trial: rung for rung in sorted(filter(None, seen.rungs.values()), key=lambda rung: rung.epoch)}
    heats = {rung.heat: rung for rung in last.values()}
    standing = {(heat, place.trial): place for heat, rung in heats.items() for place in places(seen.heat_of(rung))}
    return {name: standing[rung.heat, name] for name, rung in last.items()}, notes


def best_trial(sweep: Folder, rows: Sequence[Row]) -> str:
    """Return the name of the trial that `job gather` ranks first among these rows, or ''.

    Also '' where a trial has a fold: by their rows alone, folds cannot be compared.
    """
    pack_hash = read_pack_hash(sweep) if rows else ""
    if not pack_hash:
        return ""
    if any(row.settings.get("fold") for row in rows):
        return ""
    table, _, _ = rank(rows, pack_hash)
    return str(next(iter(table[table["rank"] == 1]["trial"]), ""))


def note_trajectories(found: Sequence[TrialStatus]) -> list[TrialStatus]:
    """Return the same, with each waiting trial that a longer one passes through in the state `with NAME`."""
    noted = list(found)
    for runner in (item for item in found if item.state == "running"):
        for place, item in enumerate(noted):
            if item.state == "waiting" and item.trial.trial in runner.shorter and item.trial.epochs > runner.epoch:
                noted[place] = replace(item, state=f"with {runner.trial.trial}")
    return noted


def trial_status(sweep: Folder, trial: Trial, row: Row | Damage | None,
                 place: Place | None) -> tuple[TrialStatus, Damage | None]:
    """Return the status from a trial's row if it has one, else from its last attempt and its epochs so far.

    place: at its last rung. The second: what is wrong with the table of epochs, if it is read.
    """
    status, damage = without_place(sweep, trial, row, place)
    if place:
        status = replace(status, rung=place.rung, place=place.place, num_at_rung=place.num)
    return status, damage


def without_place(sweep: Folder, trial: Trial, row: Row | Damage | None,
                  place: Place | None) -> tuple[TrialStatus, Damage | None]:
    """Return the same, without the place itself."""
    work = trial_work(trial.trial)
    number = num_attempts(sweep, work)
    if isinstance(row, Damage):
        return TrialStatus(trial, "damaged", attempts=number, cause=row.reason), None
    if row:
        return TrialStatus(
            trial, row.status, row.epochs_run, row.best_epoch, row.best_val_acc, row.best_val_loss, row.last_val_acc,
            row.last_val_loss, row.images_per_second, attempts=number, host=row.host, cause=row.cause), None
    if not number:
        return TrialStatus(trial, "waiting"), None
    last = read_attempt(sweep, work, number)
    try:
        return unfinished(trial, last, number, read_epochs(sweep, trial.trial), place), None
    except BadConfig as error:
        damage = Damage(trial.trial, trial_file(trial.trial, "epochs.csv"), str(error))
        return unfinished(trial, last, number, [], place), damage


def unfinished(trial: Trial, last: Attempt, number: int, epochs: Sequence[Epoch], place: Place | None) -> TrialStatus:
    """Return the status of a trial without a row, from its last attempt (of so many) and its epochs so far."""
    # Before its first heartbeat an attempt stands where the attempts before it ended.
    epoch = len(epochs) if last.epoch is None else last.epoch
    ended = "paused" if place and place.epoch == epoch and not last.step else "stopped"
    state = "running" if last.is_alive else "interrupted" if last.is_cut_off else ended
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


def status_json(found: SweepStatus, pack: str) -> dict[str, Any]:
    """Return the status for programs; the keys of a trial that row.json has too have the same names."""
    damaged = {"damaged": [asdict(item) for item in found.damaged]} if found.damaged else {}
    return {"pack": pack or "complete", "trials": [as_json(item) for item in found], **damaged}


def as_json(item: TrialStatus) -> dict[str, Any]:
    """Return one trial as a flat object: settings first."""
    own = {spec.name: finite(getattr(item, spec.name)) for spec in fields(TrialStatus)
           if spec.name not in ("trial", "shorter")}
    return {**asdict(item.trial), **own}
