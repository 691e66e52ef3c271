"""A sweep in a notebook: its rows, epochs and predictions as pandas tables, read from the folder at each access."""

import warnings
from dataclasses import dataclass

import pandas as pd

from job.data.passport import Passport, read_passport
from job.errors import BadData, MissingInput
from job.folder.layout import check_sweep, read_epochs, read_parsed, read_row, trial_file, trials_with
from job.folder.storage import Folder, join, open_folder
from job.record import Row
from job.results.intact import intact_row
from job.results.label_issues import COLUMNS
from job.results.predictions import check_counts, predictions_table
from job.results.raced import refuse_raced
from job.results.ranking import natural
from job.results.recommend import Recommendation
from job.results.summary import collect, epochs_table


@dataclass(frozen=True)
class Sweep:
    """A sweep folder; every attribute raises MissingInput for what is not there yet, BadData for a damaged file.

    Or BadConfig, for a damaged passport, grid or table of epochs.
    """

    folder: Folder

    def __repr__(self) -> str:
        return f"job.open({self.folder.uri!r})"

    @property
    def table(self) -> pd.DataFrame:
        """One line per trial that has a row, best first: the columns of the workbook's summary.

        A trial with a damaged file is left out, with a warning.
        """
        found = collect(self.folder)
        for item in found.damaged:
            warnings.warn(str(item), stacklevel=2)
        return found.table

    @property
    def recommendation(self) -> Recommendation:
        """Which trial's weights to use, or why none's: its `trial`, its `sentences` and their figures."""
        return collect(self.folder).recommendation

    @property
    def folds(self) -> pd.DataFrame:
        """One line per setting that has folds, best first: the columns of the workbook's sheet Folds."""
        return collect(self.folder).folds

    @property
    def label_issues(self) -> pd.DataFrame:
        """The images whose labels are likely wrong: label-issues.csv; empty where no trial is recommended."""
        found = collect(self.folder).label_issues
        return found.table if found else pd.DataFrame(columns=list(COLUMNS))

    @property
    def passport(self) -> Passport:
        """The pack's counts, classes, rejected images, duplicates and hashes."""
        found = read_passport(self.folder)
        if found is None:
            raise MissingInput(f"{self.folder.uri}: there is no pack yet; make it with `job prepare SOURCE SWEEP`")
        return found

    def epochs(self, trial: str | int) -> pd.DataFrame:
        """Return one line per epoch of a trial, with the columns of epochs.csv."""
        row = read_row(self.folder, str(trial))
        found = read_epochs(self.folder, str(trial), row.epochs_run if row else None)
        if not found:
            have = ", ".join(sorted(trials_with(self.folder, "epochs.csv"), key=natural)) or "none"
            name = join(self.folder.uri, trial_file(str(trial), "epochs.csv"))
            raise MissingInput(f"{name}: no epoch is recorded; the trials with epochs are: {have}")
        return epochs_table(found)

    def predictions(self, trial: str | int) -> pd.DataFrame:
        """Return one line per image of the validation and test splits, with the columns of predictions.csv."""
        name = trial_file(str(trial), "predictions.csv")
        row = intact_row(self.folder, str(trial))

        def parsed(data: bytes) -> pd.DataFrame:
            table = predictions_table(data)
            if isinstance(row, Row):
                check_counts(table, row)
            return table

        try:
            return read_parsed(self.folder, name, parsed)
        except MissingInput:
            refuse_raced(self.folder, str(trial))
            raise
        except ValueError as error:
            raise BadData(f"{join(self.folder.uri, name)}: {error}; restore the file") from None


def open_sweep(uri: str) -> Sweep:
    """Return the sweep in this folder; raises MissingInput if there is nothing in it."""
    folder = open_folder(uri)
    check_sweep(folder)
    return Sweep(folder)
