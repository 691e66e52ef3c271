"""Where each file of a sweep folder lies, and how the small ones are read."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from job.errors import BadConfig, MissingInput, TryAgain
from job.folder.storage import Folder, join
from job.folder.untrusted import (
    MOST_EPOCHS,
    MOST_EPOCHS_BYTES,
    MOST_JSON_BYTES,
    MOST_NUMBER,
    MOST_PASSPORT_BYTES,
    MOST_ROW_BYTES,
    bounded_json,
    brief,
    check_types,
    check_unicode,
    in_range,
)
from job.record import Epoch, Row, epochs_from_csv, row_of
from job.trial import Trial

GRID = "grid.csv"
SOURCE = "source.json"
PACK = "pack"
PASSPORT = "pack/passport.json"
FEATURES = "features"
RACE = "race.json"
NEXT_GRID = "next-grid.csv"
WORKBOOK = "summary.xlsx"
SUMMARY = "summary.json"
TABLE = "summary.csv"
REPORT = "summary.html"
ISSUES = "label-issues.csv"

Parsed = TypeVar("Parsed")


def trial_file(trial: str, name: str) -> str:
    """Return the name of a trial's file: events/..., attempts/..., last.pt, best.safetensors, epochs.csv, row.json."""
    return f"trials/{trial}/{name}"


def epochs_file(num_epochs: int) -> str:
    """Return the name of a trial's table of all its epochs; nothing else is ever written under this name."""
    return f"epochs-{num_epochs:04d}.csv"


def trial_work(trial: str) -> str:
    """Return the `work` of a trial, under which its attempts lie."""
    return f"trials/{trial}"


def trials_with(folder: Folder, *names: str) -> set[str]:
    """Return the trials that have all these files."""
    found = Counter(parts[1] for name in folder.names("trials/")
                    if len(parts := name.split("/")) == 3 and parts[2] in names)
    return {trial for trial, num_files in found.items() if num_files == len(names)}


def check_sweep(folder: Folder) -> None:
    """Raise MissingInput if there is nothing in the folder."""
    if next(iter(folder.names()), None) is None:
        raise MissingInput(f"{folder.uri}: there is no such folder, or it is empty; check the spelling, or make "
                           "a sweep with `job sweep --images SOURCE --grid GRID SWEEP`")


def read_parsed(folder: Folder, name: str, parse: Callable[[bytes], Parsed]) -> Parsed:
    """Return what `parse` makes of a file, which it refuses with ValueError; a refused file is read a second time.

    Raises TryAgain if the two readings differ, so that a bad read does not look like a damaged file.
    """
    data = folder.read(name)
    try:
        return parse(data)
    except ValueError:
        again = folder.read(name)
        if again == data:
            raise
    try:
        return parse(again)
    except ValueError as error:
        raise TryAgain(f"{join(folder.uri, name)}: two readings differ ({error}); start again later") from None


def read_text(folder: Folder, name: str) -> str:
    """Return the text of a UTF-8 file; raises BadConfig if it is not UTF-8."""
    try:
        return read_parsed(folder, name, lambda data: data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadConfig(f"{join(folder.uri, name)}: not UTF-8 text ({error}); save it as CSV UTF-8") from None


def read_row(folder: Folder, trial: str) -> Row | None:
    """Return the trial's row, or None while it has none; raises BadConfig if the file cannot be read as a row."""
    name = trial_file(trial, "row.json")
    try:
        return read_parsed(folder, name, lambda data: parse_row(data, trial))
    except MissingInput:
        return None
    except ValueError as error:
        raise BadConfig(f"{join(folder.uri, name)}: {error}; delete it to train the trial again") from None


def parse_row(data: bytes, trial: str) -> Row:
    """Return the row of this trial; raises ValueError, naming the key, for a value that is not of its field's type."""
    flat = bounded_json(data, MOST_ROW_BYTES)
    check_unicode(data, flat)
    row = row_of(flat)
    check_types(Row, flat)
    check_types(Trial, row.settings)
    for spec in fields(Row):
        value = getattr(row, spec.name)
        if isinstance(value, int):
            in_range(spec.name, value, 0, MOST_EPOCHS if "epoch" in spec.name else MOST_NUMBER)
    if row.settings["trial"] != trial:
        raise ValueError(f"it is the row of trial {brief(row.trial)}")
    return row


def read_epochs(folder: Folder, trial: str, num_epochs: int | None = None) -> list[Epoch]:
    """Return the epochs that the trial has recorded so far; raises BadConfig naming the line of a bad value.

    num_epochs: as many as the trial's row says it ran. They are read from the table with that number in its name, else
    from epochs.csv; raises BadConfig if that is not the table of so many epochs.
    """
    for name in ([epochs_file(num_epochs)] if num_epochs else []) + ["epochs.csv"]:
        found = read_table(folder, trial_file(trial, name))
        if found is not None:
            if num_epochs:
                check_epochs(folder, trial_file(trial, name), found, num_epochs)
            return found
    return []


def check_epochs(folder: Folder, name: str, found: list[Epoch], num_epochs: int) -> None:
    """Raise BadConfig unless a table has this many epochs; how they are numbered is free, as in a study's history."""
    if len(found) == num_epochs:
        return
    raise BadConfig(f"{join(folder.uri, name)}: the row says that the trial ran {num_epochs} epochs, and this table "
                    f"has {len(found)} (a storage may have delivered an older write late); restore the file, or delete "
                    "it to go without it")


def read_table(folder: Folder, name: str) -> list[Epoch] | None:
    """Return the epochs of a table, None if the file is missing; raises BadConfig naming the line of a bad value."""

    def parse(data: bytes) -> list[Epoch]:
        if len(data) > MOST_EPOCHS_BYTES:
            raise ValueError(f"{len(data)} bytes, more than the {MOST_EPOCHS_BYTES} that such a file may have")
        return epochs_from_csv(data.decode("utf-8-sig"))

    try:
        return read_parsed(folder, name, parse)
    except MissingInput:
        return None
    except ValueError as error:
        raise BadConfig(f"{join(folder.uri, name)}: {error}; restore the file, or delete it to go without it") from None


def read_json(folder: Folder, name: str, most_bytes: int = MOST_JSON_BYTES) -> dict[str, Any] | None:
    """Return a JSON object of the folder, or None where the file is missing; raises BadConfig if it cannot be read."""
    try:
        found = read_parsed(folder, name, lambda data: bounded_json(data, most_bytes))
    except MissingInput:
        return None
    except ValueError as error:
        raise BadConfig(f"{join(folder.uri, name)}: not JSON ({error}); delete it, then start again") from None
    if not isinstance(found, dict):
        raise BadConfig(f"{join(folder.uri, name)}: not a JSON object; delete it, then start again")
    return found


def read_pack_hash(folder: Folder) -> str:
    """Return the hash of the sweep's pack, or '' while there is none; raises BadConfig if it cannot be read."""
    found = read_json(folder, PASSPORT, MOST_PASSPORT_BYTES)
    if found is None:
        return ""
    if not isinstance(found.get("pack_hash"), str):
        raise BadConfig(f"{join(folder.uri, PASSPORT)}: damaged, no pack_hash; delete it to make the pack again")
    return str(found["pack_hash"])


def digest(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
