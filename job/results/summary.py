"""Rows -> one ranked table, one recommendation, and notes for their reader."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import pandas as pd

from job.data.passport import Passport, read_passport
from job.errors import BadConfig, MissingInput
from job.folder.grid import read_grid
from job.folder.layout import GRID, NEXT_GRID, check_sweep, read_pack_hash, trials_with
from job.folder.storage import Folder, join
from job.record import Epoch
from job.results.compare import (
    against_baseline,
    hits,
    judge,
    never_notes,
    repeat_notes,
    repeats,
    verdict_notes,
)
from job.results.figures import varied_settings
from job.results.folds import Pooled, folds_table, pool, spread
from job.results.intact import Damage, Trials, read_predictions, read_trials, refuse_damaged
from job.results.label_issues import LabelIssues, find_issues
from job.results.next_grid import next_grid
from job.results.raced import race_cost, raced_lines, raced_notes
from job.results.ranking import natural, rank
from job.results.recommend import Recommendation, recommend
from job.results.reliability import confidence_notes
from job.results.sets import Sets
from job.trial import Trial


def settings_of(table: pd.DataFrame) -> list[str]:
    """Return the Trial fields that get a column: lr, epochs, batch_size, and each field that some trial sets."""
    return [spec.name for spec in fields(Trial) if spec.name in table and spec.name != "trial"
            and (spec.name in ("lr", "epochs", "batch_size")
                 or (table[spec.name].notna() & (table[spec.name] != spec.default)).any())]


def has_values(column: pd.Series) -> bool:
    """Return whether a column has at least one value that is not empty."""
    return bool((column.notna() & (column.astype(str) != "")).any())


@dataclass(frozen=True)
class Summary:
    """A sweep's rows, ranked.

    table: one line per trial with the fields of Trial and Row, `rank` (1 is first), and the tests against the baseline
    and the best trial (`against_baseline`, `judge`). Raced and failed trials and rows of another pack have rank NaN:
    the figures of another pack describe other images. The trials of a setting with all its folds share its rank and
    tests. lines: what was compared, as `Pooled` has it: the same table where no trial has a fold. pooled: ranked line
    -> the images that it was compared on, with the test images of its trial. folds: `folds_table`. label_issues: by the
    recommended trial or its setting's folds; None without. epochs: trial -> its table of epochs. predictions: ranked
    trial -> its images, as `with_sets` gives them. sets: their prediction sets of coverage 0.9. passport:
    that of the pack, checked; None without a pack, or where it is damaged. damaged: files that cannot be read; their
    trials are left out.
    """

    table: pd.DataFrame
    lines: pd.DataFrame
    pooled: Mapping[str, pd.DataFrame]
    folds: pd.DataFrame
    label_issues: LabelIssues | None
    epochs: dict[str, pd.DataFrame]
    predictions: dict[str, pd.DataFrame]
    sets: dict[str, Sets]
    recommendation: Recommendation
    passport: Passport | None
    monitor: str
    warnings: list[str]
    repeats: pd.DataFrame
    next_trials: list[Trial]
    next_notes: list[str]
    missing: list[str]
    other_pack: list[str]
    failed: list[str]
    damaged: list[Damage]
    uri: str

    @property
    def best(self) -> pd.Series | None:
        """The table's line of the recommended trial; None if there is none."""
        found = self.table[self.table["trial"] == self.recommendation.trial]
        return None if found.empty else found.iloc[0]

    @property
    def classes(self) -> list[str]:
        """The classes, in the order of the confusion matrix; [] if no row has them."""
        return next((list(found) for found in self.table.get("classes", ()) if found), [])

    @property
    def positive(self) -> str:
        """The class that precision, recall and false negatives describe if there are two classes, else ''."""
        return self.classes[1] if len(self.classes) == 2 else ""

    @property
    def shown_trial(self) -> str:
        """The trial whose images, classes and confidence are shown: the recommended one, else that ranked first."""
        first = self.table[self.table["rank"] == 1]["trial"]
        return self.recommendation.trial or next(iter(first), "")

    def images_of(self, trial: str) -> pd.DataFrame | None:
        """Return the predictions that a trial was compared by: those of all folds of its setting, or its own."""
        return self.pooled.get(trial, self.predictions.get(trial))

    @property
    def whose(self) -> str:
        """Whose images `images_of` the shown trial are, in words."""
        folds = f"; on validation, of the {self.recommendation.num_folds} folds of its setting"
        return f"trial {self.shown_trial}{folds if self.recommendation.num_folds else ''}"

    def about(self) -> dict[str, Any]:
        """Return what summary.json holds."""
        recommendation = asdict(self.recommendation) | {"trial": self.recommendation.trial or None}
        folds = json.loads(self.folds.to_json(orient="records", double_precision=15))
        cost = race_cost(self.table)
        found = {"best": recommendation["trial"], "recommendation": recommendation, "sorted_by": self.monitor,
                 "folds": folds, "num_label_issues": len(self.label_issues.table) if self.label_issues else None,
                 "sets": [{"trial": name, **asdict(found)} for name, found in self.sets.items()],
                 "notes": self.notes(), "missing": self.missing, "failed": self.failed, "other_pack": self.other_pack,
                 "raced": list(raced_lines(self.table)["trial"]), "race_cost": asdict(cost) if cost else None}
        return found | ({"damaged": [asdict(item) for item in self.damaged]} if self.damaged else {})

    def notes(self) -> list[str]:
        """Return the notes below the table, one sentence each; the recommendation's own sentences stand above it."""
        shown = self.table[self.table["trial"] == self.shown_trial]
        confidence = [note for _, line in shown.iterrows()
                      for note in confidence_notes(self.shown_trial, line, self.sets.get(self.shown_trial))]
        issues = self.label_issues.notes() if self.label_issues else []
        found = [*self.warnings, *confidence, *verdict_notes(self.lines), *repeat_notes(self.repeats),
                 *raced_notes(self.table, self.uri), *issues, *self.next_notes]
        if self.next_trials:
            command = shlex.join(["job", "sweep", "--grid", join(self.uri, NEXT_GRID), self.uri])
            found.append(f"{NEXT_GRID} is the grid with these trials added; to train them: {command}")
        if self.missing:
            found.append(f"{len(self.missing)} of the grid's trials have no row yet: {', '.join(self.missing)}")
        if self.failed:
            causes = self.table.set_index("trial")["cause"]
            found += [f"trial {name} failed: {causes[name]}" for name in self.failed]
        if self.other_pack:
            found.append(f"not ranked, because their rows are from another pack: {', '.join(self.other_pack)}")
        return found + [f"left out, because a file is damaged: {item}" for item in self.damaged]


def collect(sweep: Folder) -> Summary:
    """Return the summary of a sweep from its rows and epoch tables; a trial with a damaged file is left out.

    Raises MissingInput if no trial has a row, and BadData if every row is damaged.
    """
    grid_trials = read_grid(sweep) if sweep.exists(GRID) else []
    grid = [trial.trial for trial in grid_trials]
    found = trials_with(sweep, "row.json")
    trials, pack_hash = readable(sweep, grid, found)
    rows = list(trials.rows.values())
    table, monitor, highest = rank(rows, pack_hash)
    ranked = table[table["rank"].notna()]["trial"]
    predictions = {name: trials.predictions[name] for name in ranked if name in trials.predictions}
    pooled = compared(pool(table, predictions, monitor, highest))
    recommendation = recommend(pooled, monitor)
    best, table = recommendation.trial, spread(table, pooled)
    next_trials, next_notes = next_grid(pooled, grid_trials, set(table["trial"]))
    passport, warnings = passport_of(sweep)
    return Summary(table, pooled.lines, pooled.predictions, folds_table(table, pooled, varied_settings(pooled.lines)),
                   find_issues(sweep, best, pooled.whole.get(best), trials.rows[best].classes) if best else None,
                   {name: epochs_table(epochs) for name, epochs in trials.epochs.items()}, predictions,
                   {name: trials.sets[name] for name in predictions}, recommendation, passport, monitor,
                   warnings=[*never_notes(best, pooled.predictions), *pooled.notes(), *warnings],
                   repeats=repeats(pooled.lines),
                   next_trials=[*grid_trials, *next_trials] if next_trials else [], next_notes=next_notes,
                   missing=[name for name in grid if name not in found],
                   other_pack=[row.trial for row in rows if row.pack_hash != pack_hash and row.status != "failed"],
                   failed=[row.trial for row in rows if row.status == "failed"], damaged=trials.damaged, uri=sweep.uri)


def readable(sweep: Folder, grid: Sequence[str], found: set[str]) -> tuple[Trials, str]:
    """Return the trials whose files can be read, of those found, and the hash of the pack that is compared.

    Raises as `collect` does.
    """
    trials = read_trials(sweep, [name for name in grid if name in found] + sorted(found.difference(grid), key=natural))
    pack_hash = read_pack_hash(sweep)
    if not pack_hash and trials.rows:
        pack_hash = Counter(row.pack_hash for row in trials.rows.values()).most_common(1)[0][0]
    read_predictions(sweep, trials, pack_hash)
    if not trials.rows:
        refuse_damaged(trials.damaged)
        check_sweep(sweep)
        hint = "`job status` shows their progress" if grid else "and there is no grid.csv: is this a sweep's folder?"
        raise MissingInput(f"{sweep.uri}: no trial has a row yet; {hint}")
    return trials, pack_hash


def compared(pooled: Pooled) -> Pooled:
    """Return what is compared with the tests of its lines: against the baseline, and against the best."""
    found = pooled.predictions
    lines = against_baseline(pooled.lines, found, pooled.commonest)
    return replace(pooled, lines=judge(lines, {name: hits(images) for name, images in found.items()}))


def passport_of(sweep: Folder) -> tuple[Passport | None, list[str]]:
    """Return the pack's passport, None where it is absent or damaged, and a note if it is damaged."""
    try:
        return read_passport(sweep), []
    except BadConfig as error:
        return None, [f"the passport of the pack is left out: {error}"]


def epochs_table(epochs: Sequence[Epoch]) -> pd.DataFrame:
    """Return the epochs as a table: one line per epoch, the fields of Epoch as columns, all of them numbers."""
    found = pd.DataFrame([asdict(epoch) for epoch in epochs], columns=[spec.name for spec in fields(Epoch)])
    return found.astype(dict.fromkeys(found.columns, float) | {"epoch": int})
