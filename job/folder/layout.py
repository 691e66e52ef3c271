"""Where each file of a sweep folder lies, and how its small files are read."""

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
