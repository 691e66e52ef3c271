"""Where each file of a sweep folder lies, and how its small files are read."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from job.errors import BadConfig, MissingInput
from job.record import Epoch, Row, epochs_from_csv, row_from_json
from job.storage import Folder, join, open_folder, split_uri
from job.trial import GridError, Trial, parse_grid

GRID = "grid.csv"
SOURCE = "source.json"
PACK = "pack"
PASSPORT = "pack/passport.json"
NEXT_GRID = "next-grid.csv"
WORKBOOK = "summary.xlsx"
SUMMARY = "summary.json"


def trial_file(trial: str, name: str) -> str:
    """One file of a trial: events/..., attempts/..., last.pt, best.safetensors, epochs.csv, row.json."""
    return f"trials/{trial}/{name}"


def trial_work(trial: str) -> str:
    """A trial as a piece of work, for its attempts."""
    return f"trials/{trial}"


def trials_with(folder: Folder, name: str) -> set[str]:
    """The trials that have left this file."""
    return {parts[1] for found in folder.names("trials/") if len(parts := found.split("/")) == 3 and parts[2] == name}


def read_text(folder: Folder, name: str) -> str:
    """A UTF-8 file of the folder; raises BadConfig where it is not one."""
    try:
        return folder.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadConfig(f"{join(folder.uri, name)}: not UTF-8 text ({error}); save it as CSV UTF-8") from None


def read_grid(folder: Folder, name: str = GRID) -> list[Trial]:
    """The trials of a grid file; raises BadConfig naming file, line and column."""
    try:
        return parse_grid(read_text(folder, name))
    except GridError as error:
        raise BadConfig(f"{join(folder.uri, name)}: {error}") from None
    except MissingInput as error:
        raise MissingInput(f"{error}; a grid is a CSV file such as `job grid --lr 0.1 --lr 0.01 --epochs 10` prints") from None


def load_grid(sweep: Folder, uri: str) -> tuple[list[Trial], Callable[[], None]]:
    """The trials of the grid at a path or URI, or of the sweep's own, and what makes it the sweep's grid.csv.

    The second is to be called once all else is known to be right.
    """
    if not uri:
        return read_grid(sweep), lambda: None
    folder_uri, name = split_uri(uri)
    source = open_folder(folder_uri)
    trials, text = read_grid(source, name), source.read(name)
    return trials, lambda: sweep.write(GRID, text)


def find_trial(sweep: Folder, name: str, given: Trial | None) -> Trial:
    """The trial of this name: as given, or as the sweep's grid has it; raises BadConfig where both do and differ."""
    if given and not sweep.exists(GRID):
        return given
    trials = {trial.trial: trial for trial in read_grid(sweep)}
    if not given and name not in trials:
        raise BadConfig(f"{join(sweep.uri, GRID)} has no trial {name!r}; its trials are {', '.join(trials)}")
    found = trials.get(name)
    if given and found and given != found:
        names = [spec.name for spec in fields(Trial) if getattr(given, spec.name) != getattr(found, spec.name)]
        differences = "; ".join(f"{field} {getattr(found, field)!r}, here {getattr(given, field)!r}" for field in names)
        raise BadConfig(f"{join(sweep.uri, GRID)} has trial {name} with other settings ({differences}); "
                        "give all its settings, or none; make manifests anew from a grid that has changed")
    return given or trials[name]


def read_row(folder: Folder, trial: str) -> Row | None:
    """The trial's row, or None while it has none; raises BadConfig for a file that is not one."""
    name = trial_file(trial, "row.json")
    try:
        return row_from_json(folder.read(name))
    except MissingInput:
        return None
    except (ValueError, TypeError) as error:
        raise BadConfig(f"{join(folder.uri, name)}: {error}; delete it to train the trial again") from None


def read_epochs(folder: Folder, trial: str) -> list[Epoch]:
    """The epochs that the trial has recorded so far; raises BadConfig naming the line of a bad value."""
    name = trial_file(trial, "epochs.csv")
    try:
        return epochs_from_csv(read_text(folder, name))
    except MissingInput:
        return []
    except ValueError as error:
        raise BadConfig(f"{join(folder.uri, name)}: {error}") from None


def read_json(folder: Folder, name: str) -> dict[str, Any] | None:
    """A JSON object of the folder, or None where there is none; raises BadConfig for one that cannot be read."""
    try:
        found = json.loads(folder.read(name))
    except MissingInput:
        return None
    except ValueError as error:
        raise BadConfig(f"{join(folder.uri, name)}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise BadConfig(f"{join(folder.uri, name)}: not a JSON object")
    return found


def digest(data: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
