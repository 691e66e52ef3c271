"""What `--json` prints: one object per command; docs/sweep-folder.md describes its keys."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from job.folder.layout import REPORT
from job.folder.storage import Folder, join
from job.record import finite
from job.results.intact import Damage, refuse_damaged
from job.results.summary import Summary
from job.training.race import epochs_in_race

if TYPE_CHECKING:
    from job.training.plan import Run


def print_json(command: str, sweep: Folder, found: Mapping[str, Any], indent: int | None = 1) -> None:
    """Print one JSON object on standard output; indent None: on one line.

    Raises BadData after that if `found` names damaged files.
    """
    print(json.dumps({"command": command, "sweep": sweep.uri, **found}, indent=indent, allow_nan=False), flush=True)
    refuse_damaged([Damage(**item) for item in found.get("damaged", ())])


def summary_json(sweep: Folder, summary: Summary, workbook: str, kept: str) -> dict[str, Any]:
    """Return the keys of summary.json, the paths of page and workbook, and one object per trial, best first."""
    trials = [{"state": line["status"], **{str(name): plain(value) for name, value in line.items()}}
              for _, line in summary.table.iterrows()]
    return {**summary.about(), "page": join(sweep.uri, REPORT), "workbook": join(sweep.uri, workbook),
            "edited_workbook": join(sweep.uri, kept) if kept else None, "trials": trials}


def plan_json(runs: "Sequence[Run]", num_trials: int, price: float, is_race: bool = False) -> dict[str, Any]:
    """Return the sums of a plan, one object per run, and one per trial that is left."""
    found = [{"trials": [trial.trial for trial in run.trials], "epochs_left": run.epochs_left, **asdict(run.pace),
              "seconds_left": run.seconds} for run in runs]
    trials = [{**asdict(trial), "state": "waiting"} for run in runs for trial in run.trials]
    race = {"race": race_sums(runs, price)} if is_race else {}
    return {"num_trials": num_trials, **plan_sums(runs, price), **race, "runs": found, "trials": trials}


def plan_sums(runs: "Sequence[Run]", price: float) -> dict[str, Any]:
    """Return what all runs take together: trials, epochs, seconds, bytes, and, with a price per hour, the cost."""
    asked, trained = sum(trial.epochs for run in runs for trial in run.trials), sum(run.epochs_left for run in runs)
    seconds = sum(run.seconds for run in runs)
    return {"trials_left": sum(len(run.trials) for run in runs), "epochs_left": trained,
            "epochs_saved": asked - trained, "seconds_left": seconds,
            "memory_bytes": max((run.pace.memory_bytes for run in runs), default=0),
            "cost": price * seconds / 3600 if price else None}


def race_sums(runs: "Sequence[Run]", price: float) -> dict[str, Any]:
    """Return the least and the most epochs, seconds and cost that a race takes of what all runs would take."""
    found: dict[str, Any] = {}
    for name, most in (("least", False), ("most", True)):
        ends = epochs_in_race([run.trials[-1] for run in runs], most)
        # A run that has begun has its first epochs behind it.
        left = [max(0, end - run.trials[-1].epochs + run.epochs_left) for run, end in zip(runs, ends, strict=True)]
        seconds = sum(num * run.pace.epoch_seconds for run, num in zip(runs, left, strict=True))
        found |= {f"epochs_{name}": sum(left), f"seconds_{name}": seconds,
                  f"cost_{name}": price * seconds / 3600 if price else None}
    return found


def plain(value: Any) -> Any:
    """Return a table's cell as JSON knows it: Python's numbers for numpy's, None for NaN and infinity."""
    return finite(value.item() if isinstance(value, np.generic) else value)
