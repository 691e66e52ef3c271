"""What the race stopped early (docs/racing.md): what that saved, what it shows, and how to train it to its end."""

import shlex
from dataclasses import dataclass

import pandas as pd

from job.errors import MissingInput
from job.folder.storage import Folder
from job.record import Row
from job.results.compare import TEST, is_raced, named
from job.results.intact import intact_row
from job.results.ranking import natural
from job.training.exact import LEVEL

NO_RACE = "--no-race"


@dataclass(frozen=True)
class RaceCost:
    """What raced trials took: epochs_taken of epochs_asked, which is an upper limit, as they could have ended early.

    A trajectory counts once, as its longest trial. seconds_saved: an estimate, by the pace of the epochs that they
    took; None where their rows tell no time.
    """

    epochs_taken: int
    epochs_asked: int
    seconds_saved: float | None


def raced_lines(table: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of raced trials, in the order of the table."""
    return table[is_raced(table)]


def race_cost(table: pd.DataFrame) -> RaceCost | None:
    """Return what the raced trials of a table took, None if there are none."""
    raced = raced_lines(table)
    if raced.empty:
        return None
    taken, asked, saved = 0, 0, 0.0
    for _, run in raced.groupby(raced["trained_by"].where(raced["trained_by"] != "", raced["trial"])):
        num_taken, num_asked = int(run["epochs_run"].max()), int(run["epochs"].max())
        taken, asked = taken + num_taken, asked + num_asked
        if num_taken and pd.notna(seconds := run["seconds"].max()):
            saved += seconds / num_taken * (num_asked - num_taken)
    return RaceCost(taken, asked, saved or None)


def raced_notes(table: pd.DataFrame, uri: str) -> list[str]:
    """Return in words which trials were raced, what their p-values show, and how to train them to their ends."""
    raced, cost = raced_lines(table), race_cost(table)
    if cost is None:
        return []
    names = sorted(raced["trial"], key=natural)
    lines = {line["trial"]: line for _, line in raced.iterrows()}
    by_rung: dict[str, list[str]] = {}
    for name in names:
        by_rung.setdefault(rung_in_words(lines[name]), []).append(name)
    where = "; ".join(f"{words}: {trials_named(by_rung[words])}" for words in sorted(by_rung, key=rung_order))
    found = [f"the race stopped {len(raced)} of {len(table)} trials early ({where}); they took {cost.epochs_taken} "
             f"epochs instead of up to {cost.epochs_asked}, have no figures of test, and stand below the others"]
    if raced["p_race"].notna().any():
        same = [name for name in names if lines[name]["p_race"] > LEVEL]
        shown = (f"above {LEVEL:g} the race does not show that a trial is worse, only that it was behind: "
                 f"{trials_named(same)}" if same else f"each is at most {LEVEL:g}")
        found.append(f"p in the race (p_race) is that of {TEST} against the last of the best at the trial's rung, "
                     f"two-sided; {shown}")
    return [*found, f"to train the raced trials to their ends: {shlex.join(['job', 'sweep', NO_RACE, uri])}"]


def rung_in_words(line: pd.Series) -> str:
    """Return where a trial was raced: rung 1, after epoch 3."""
    number = line["race"].get("rung")
    return f"rung {number}, after epoch {line['epochs_run']}" if number in (1, 2) else f"epoch {line['epochs_run']}"


def rung_order(words: str) -> list[int]:
    """Return a sort key for what `rung_in_words` returns: by its numbers."""
    return [int(part) for part in words.replace(",", "").split() if part.isdigit()]


def trials_named(names: list[str]) -> str:
    """Return names after `trial` or `trials`."""
    return f"trial{'s' * (len(names) != 1)} {named(names)}"


def refuse_raced(sweep: Folder, trial: str) -> None:
    """Raise MissingInput if the race stopped this trial: it has neither best weights nor predictions."""
    row = intact_row(sweep, trial)
    if isinstance(row, Row) and row.status == "raced":
        command = shlex.join(["job", "sweep", NO_RACE, sweep.uri])
        raise MissingInput(f"{sweep.uri}: the race stopped trial {trial} after epoch {row.epochs_run}, so it has "
                           f"neither best weights nor predictions; to train it to its end: {command}")
