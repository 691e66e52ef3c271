"""The trials of a sweep whose files can be read, and the damaged files of the others, which no result waits for."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from job.errors import BadConfig, BadData, MissingInput
from job.folder.grid import trial_of
from job.folder.layout import epochs_file, read_epochs, read_parsed, read_row, trial_file
from job.folder.storage import Folder, join
from job.record import Epoch, Row
from job.results.predictions import with_sets
from job.results.sets import Sets


@dataclass(frozen=True)
class Damage:
    """A damaged file of one trial. reason: begins with the file, and says what to do."""

    trial: str
    file: str
    reason: str

    def __str__(self) -> str:
        return f"trial {self.trial}: {self.reason}"


@dataclass
class Trials:
    """The rows and epochs of the trials that can be read, by name, and what is damaged in the others."""

    rows: dict[str, Row] = field(default_factory=dict)
    epochs: dict[str, list[Epoch]] = field(default_factory=dict)
    predictions: dict[str, pd.DataFrame] = field(default_factory=dict)
    sets: dict[str, Sets] = field(default_factory=dict)
    damaged: list[Damage] = field(default_factory=list)

    def leave_out(self, damage: Damage) -> None:
        """Drop a trial with a damaged file."""
        for found in (self.rows, self.epochs, self.predictions, self.sets):
            found.pop(damage.trial, None)
        self.damaged.append(damage)


def read_trials(sweep: Folder, names: Iterable[str]) -> Trials:
    """Return the rows and epochs of these trials; one with a damaged file is left out."""
    trials = Trials()
    for name in names:
        row = intact_row(sweep, name)
        if isinstance(row, Row):
            trials.rows[name] = row
            try:
                trials.epochs[name] = read_epochs(sweep, name, row.epochs_run)
            except BadConfig as error:
                whole = epochs_file(row.epochs_run)
                file = trial_file(name, whole if whole in str(error) else "epochs.csv")
                trials.leave_out(Damage(name, file, str(error)))
        elif row:
            trials.leave_out(row)
    return trials


def intact_row(sweep: Folder, trial: str) -> Row | Damage | None:
    """Return a trial's row, None while it has none, or what is wrong with it; its settings are those of a Trial."""
    file = trial_file(trial, "row.json")
    try:
        row = read_row(sweep, trial)
        if row:
            trial_of(row.settings)
        return row
    except BadConfig as error:
        return Damage(trial, file, str(error))
    except ValueError as error:
        return Damage(trial, file, f"{join(sweep.uri, file)}: {error}; delete it to train the trial again")


def read_predictions(sweep: Folder, trials: Trials, pack_hash: str) -> None:
    """Add predictions and their sets on the images of this pack; a trial whose file is damaged is left out."""
    for name, row in list(trials.rows.items()):
        if row.status == "failed" or row.pack_hash != pack_hash:
            continue
        file = trial_file(name, "predictions.csv")
        parse = functools.partial(with_sets, row=row)
        try:
            trials.predictions[name], trials.sets[name] = read_parsed(sweep, file, parse)
        except MissingInput:
            continue
        except ValueError as error:
            reason = f"{join(sweep.uri, file)}: {error}; restore the file, or delete it to go without it"
            trials.leave_out(Damage(name, file, reason))


def refuse_damaged(damaged: Sequence[Damage]) -> None:
    """Raise BadData, naming the first file, if any is damaged: everything else has been written by then."""
    if damaged:
        count = f"{len(damaged)} damaged file{'s' * (len(damaged) != 1)}"
        raise BadData(f"{count} left out, the rest is complete; the first is of {damaged[0]}")
