"""Where each file of a sweep folder lies, and how the small ones are read."""

import hashlib
import json
from typing import Any

from job.errors import BadConfig, MissingInput
from job.folder.storage import Folder, join
from job.record import Epoch, Row, epochs_from_csv, row_from_json

GRID = "grid.csv"
SOURCE = "source.json"
PACK = "pack"
PASSPORT = "pack/passport.json"
NEXT_GRID = "next-grid.csv"
WORKBOOK = "summary.xlsx"
SUMMARY = "summary.json"


def trial_file(trial: str, name: str) -> str:
    """Return the name of a trial's file: events/..., attempts/..., last.pt, best.safetensors, epochs.csv, row.json."""
    return f"trials/{trial}/{name}"


def trial_work(trial: str) -> str:
    """Return the `work` of a trial, under which its attempts lie."""
    return f"trials/{trial}"


def trials_with(folder: Folder, name: str) -> set[str]:
    """Return the trials that have this file."""
    return {parts[1] for found in folder.names("trials/") if len(parts := found.split("/")) == 3 and parts[2] == name}


def check_sweep(folder: Folder) -> None:
    """Raise MissingInput if there is nothing in the folder."""
    if next(iter(folder.names()), None) is None:
        raise MissingInput(f"{folder.uri}: there is no such folder, or it is empty; check the spelling, or make "
                           "a sweep with `job sweep --images SOURCE --grid GRID SWEEP`")


def read_text(folder: Folder, name: str) -> str:
    """Return the text of a UTF-8 file; raises BadConfig if it is not UTF-8."""
    try:
        return folder.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadConfig(f"{join(folder.uri, name)}: not UTF-8 text ({error}); save it as CSV UTF-8") from None


def read_row(folder: Folder, trial: str) -> Row | None:
    """Return the trial's row, or None while it has none; raises BadConfig if the file cannot be read as a row."""
    name = trial_file(trial, "row.json")
    try:
        return row_from_json(folder.read(name))
    except MissingInput:
        return None
    except (ValueError, TypeError) as error:
        raise BadConfig(f"{join(folder.uri, name)}: {error}; delete it to train the trial again") from None


def read_epochs(folder: Folder, trial: str) -> list[Epoch]:
    """Return the epochs that the trial has recorded so far; raises BadConfig naming the line of a bad value."""
    name = trial_file(trial, "epochs.csv")
    try:
        return epochs_from_csv(read_text(folder, name))
    except MissingInput:
        return []
    except ValueError as error:
        raise BadConfig(f"{join(folder.uri, name)}: {error}; restore the file, or delete it to go without it") from None


def read_json(folder: Folder, name: str) -> dict[str, Any] | None:
    """Return a JSON object of the folder, or None where the file is missing; raises BadConfig if it cannot be read."""
    try:
        found = json.loads(folder.read(name))
    except MissingInput:
        return None
    except ValueError as error:
        raise BadConfig(f"{join(folder.uri, name)}: not JSON ({error}); delete it, then start again") from None
    if not isinstance(found, dict):
        raise BadConfig(f"{join(folder.uri, name)}: not a JSON object; delete it, then start again")
    return found


def digest(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
