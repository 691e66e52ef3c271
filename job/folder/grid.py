"""The grid: a CSV file with one line per trial, read, checked and written."""

import contextlib
import csv
import difflib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from job.errors import BadConfig, MissingInput
from job.folder.attempts import last_attempt
from job.folder.layout import GRID, check_sweep, read_row, read_text, trial_work
from job.folder.storage import Folder, join, open_folder, split_uri
from job.folder.untrusted import check_types
from job.trial import Trial, quoted, shown


def read_grid(folder: Folder, name: str = GRID) -> list[Trial]:
    """Return the trials of a grid file; raises BadConfig naming file, line and column."""
    try:
        return parse_grid(read_text(folder, name))
    except GridError as error:
        raise BadConfig(f"{join(folder.uri, name)}: {error}") from None
    except MissingInput as error:
        if name == GRID:
            check_sweep(folder)
        raise MissingInput(f"{error}; make a grid, for example with `job grid --lr 0.1 --lr 0.01 --epochs 10 > {GRID}`"
                           ) from None


def known_trials(sweep: Folder) -> list[Trial]:
    """Return the trials of the sweep's grid; without a grid, those that have begun, by their rows and attempts.

    Raises MissingInput if there is neither. Jobs made from a grid that is not in the sweep leave such a sweep.
    """
    try:
        return read_grid(sweep)
    except MissingInput:
        parts = [found.split("/") for found in sweep.names("trials/")]
        begun = {part[1] for part in parts if part[2:] == ["row.json"] or part[2:3] == ["attempts"]}
        found = [begun_trial(sweep, name) for name in sorted(begun, key=lambda name: (len(name), name))]
        if not any(found):
            raise
        return [trial for trial in found if trial]


def begun_trial(sweep: Folder, name: str) -> Trial | None:
    """Return the trial that a row or the last attempt of this name was made with; None if neither can be read."""
    with contextlib.suppress(BadConfig, ValueError):
        if row := read_row(sweep, name):
            return trial_of(row.settings)
    with contextlib.suppress(ValueError):
        last = last_attempt(sweep, trial_work(name))
        if last and last.settings.get("trial") == name:
            return trial_of(last.settings)
    return None


def trial_of(settings: Mapping[str, Any]) -> Trial:
    """Return the trial of a row's or an attempt's settings; raises ValueError if they are not those of a trial."""
    check_types(Trial, settings)
    return Trial(**{spec.name: settings[spec.name] for spec in fields(Trial) if spec.name in settings})


def load_grid(sweep: Folder, uri: str) -> tuple[list[Trial], Callable[[], None]]:
    """Return the trials of the grid at `uri`, or of the sweep's own where that is empty, and a function that adopts it.

    The function writes the grid as the sweep's grid.csv. Call it after every other check has passed.
    """
    if not uri:
        return read_grid(sweep), lambda: None
    folder_uri, name = split_uri(uri)
    source = open_folder(folder_uri)
    trials, text = read_grid(source, name), source.read(name)
    return trials, lambda: sweep.write(GRID, text)


def find_trial(sweep: Folder, name: str, given: Trial | None) -> Trial:
    """Return the trial of this name, as given or from the sweep's grid; raises BadConfig if the two differ."""
    if given and not sweep.exists(GRID):
        return given
    trials = {trial.trial: trial for trial in read_grid(sweep)}
    if not given and name not in trials:
        raise BadConfig(f"{join(sweep.uri, GRID)}: no trial {name!r}; choose one of {', '.join(trials)}")
    found = trials.get(name)
    if given and found and given != found:
        names = [spec.name for spec in fields(Trial) if getattr(given, spec.name) != getattr(found, spec.name)]
        differences = "; ".join(f"{field} {getattr(found, field)!r}, here {getattr(given, field)!r}" for field in names)
        raise BadConfig(f"{join(sweep.uri, GRID)}: trial {name} has other settings there ({differences}); give none of "
                        "its settings, or all of them unchanged; after a change of the grid, make the manifests again")
    return given or trials[name]


# How a number is written: infinity and NaN have messages of their own.
WHOLE = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity|nan)", re.IGNORECASE | re.ASCII)
MOST_DIGITS = 1000
BOOLEANS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


class GridError(ValueError):
    """The grid cannot be read; the message names line and column."""


def parse_number(kind: type, text: str) -> int | float:
    """Return an int or a float written in ASCII digits; raises ValueError. int() takes 1_0 and other digits, too."""
    pattern, wanted = (WHOLE, "a whole number") if kind is int else (NUMBER, "a number")
    if not pattern.fullmatch(text) or len(text) > MOST_DIGITS:
        raise ValueError(f"is {quoted(text)}; give {wanted}")
    return int(text) if kind is int else float(text)


def parse_value(kind: type, text: str) -> Any:
    """Return `text` as an int, a float, a bool or a str; raises ValueError saying what was expected."""
    text = text.strip()
    if not text:
        raise ValueError("is empty; give a value, or leave the column out for the default")
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in BOOLEANS:
            raise ValueError(f"is {quoted(text)}; give yes or no")
        return BOOLEANS[text.lower()]
    return parse_number(kind, text)


def read_columns(header: list[str]) -> list[str]:
    """Return the grid's column names; raises GridError for one that is not a field of Trial."""
    known = [spec.name for spec in fields(Trial)]
    names = [name.strip() for name in header]
    if len(names) == 1 and ";" in names[0]:
        raise GridError("line 1: the columns are separated by ';'; save the grid with ',' between them")
    for position, name in enumerate(names, 1):
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; the columns are {', '.join(known)}"
            raise GridError(f"line 1, column {position}: unknown column {name!r}{hint}")
        if names.index(name) != position - 1:
            raise GridError(f"line 1, column {position}: the column {name!r} appears twice; remove one")
    return names


def parse_grid(text: str) -> list[Trial]:
    """Return the trials of a grid in CSV form, in its order; without a `trial` column they are numbered from 1.

    Raises GridError with the line and column of the first fault.
    """
    lines = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    columns: list[str] = []
    trials: list[Trial] = []
    line_of_name: dict[str, int] = {}
    try:
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = read_columns(cells)
                continue
            trial = parse_line(columns, cells, lines.line_num, str(len(trials) + 1))
            # Workbook sheets and some file systems ignore case.
            first = line_of_name.setdefault(trial.trial.lower(), lines.line_num)
            if first != lines.line_num:
                raise GridError(f"line {lines.line_num}, column trial: the name {trial.trial!r} is already in line "
                                f"{first}; give each trial a name of its own (upper and lower case are the same)")
            trials.append(trial)
    except csv.Error as error:
        raise GridError(f"line {lines.line_num}: {error}") from None
    if not trials:
        raise GridError("line 1: no trials; write a header (trial,lr,epochs) and one line per trial")
    return trials


def parse_line(columns: list[str], cells: list[str], line: int, default_name: str) -> Trial:
    """Return one line of a grid as a Trial; raises GridError."""
    kinds = {spec.name: type(spec.default) for spec in fields(Trial)}
    if len(cells) != len(columns):
        raise GridError(f"line {line}: {len(cells)} values for {len(columns)} columns; give one for each of "
                        f"{', '.join(columns)}")
    values: dict[str, Any] = {"trial": default_name}
    for column, cell in zip(columns, cells, strict=True):
        try:
            values[column] = parse_value(kinds[column], cell)
        except ValueError as error:
            raise GridError(f"line {line}, column {column}: {column} {error}") from None
    try:
        return Trial(**values)
    except ValueError as error:
        # Every message of Trial begins with the name of a field.
        raise GridError(f"line {line}, column {str(error).split()[0]}: {error}") from None


def format_grid(trials: Sequence[Trial]) -> str:
    """Return a grid in CSV form: trial, lr, epochs, and each other column in which a trial differs from the default."""
    always = ("trial", "lr", "epochs")
    columns = [spec.name for spec in fields(Trial)
               if spec.name in always or any(getattr(trial, spec.name) != spec.default for trial in trials)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([shown(getattr(trial, column)) for column in columns] for trial in trials)
    return text.getvalue()
