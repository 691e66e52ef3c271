"""What a person asks for: a `Trial` (one line of the grid) and `PictureOptions` (how pictures become a pack).

Every default lives here, once; grid columns, options, rows and workbook columns follow from the fields.
"""

import csv
import difflib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

# A trial's name is a folder, a sheet and part of a Kubernetes name.
NAME_PATTERN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,38}[A-Za-z0-9])?")
MONITORS = {"val_loss": "min", "val_acc": "max", "train_loss": "min", "train_acc": "max"}


def option(default: Any, help: str, *, least: float | None = None, most: float | None = None,
           above: float | None = None, choices: Sequence[str] = ()) -> Any:
    """A dataclass field with its help text and its allowed values."""
    rule = {"help": help, "least": least, "most": most, "above": above, "choices": tuple(choices)}
    return field(default=default, metadata=rule)


def check(item: Any) -> None:
    """Raise ValueError, naming the field, where a value is outside what its field allows."""
    for spec in fields(item):
        value, rule = getattr(item, spec.name), spec.metadata
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{spec.name} is {value}; a finite number is needed")
        if rule.get("above") is not None and not value > rule["above"]:
            raise ValueError(f"{spec.name} is {value:g}; it must be greater than {rule['above']:g}")
        if rule.get("least") is not None and value < rule["least"]:
            raise ValueError(f"{spec.name} is {value:g}; {rule['least']:g} is the least")
        if rule.get("most") is not None and value > rule["most"]:
            raise ValueError(f"{spec.name} is {value:g}; {rule['most']:g} is the most")
        if rule.get("choices") and value not in rule["choices"]:
            raise ValueError(f"{spec.name} is {value!r}; one of {', '.join(rule['choices'])} is needed")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One line of the grid. The defaults are the first study's recipe (its batch size was 4)."""

    trial: str = option("1", "name: letters, digits, '.', '_', '-'; 40 characters at most")
    lr: float = option(0.01, "learning rate of the first epoch", above=0)
    epochs: int = option(25, "how many times each training picture is seen", least=1)
    batch_size: int = option(32, "pictures a step", least=1)
    image_size: int = option(224, "height and width of what the net sees, pixels", least=40, most=1024)
    weights: str = option("imagenet", "imagenet (torchvision's), none, or the path or URI of a state dict")
    momentum: float = option(0.9, "of SGD", least=0, most=0.9999)
    weight_decay: float = option(0.0, "of SGD", least=0)
    step_size: int = option(7, "epochs after which the learning rate is multiplied by gamma", least=1)
    gamma: float = option(0.1, "factor of the learning rate's steps", above=0)
    crop: float = option(0.08, "smallest share of a picture that a random resized crop takes; 0: no random crop",
                         least=0, most=1)
    flip: float = option(0.5, "probability of a left-right flip; 0: none", least=0, most=1)
    best_monitor: str = option("val_acc", "the figure whose best epoch's weights are kept", choices=tuple(MONITORS))
    best_mode: str = option("auto", "whether that figure is best at its min or max; auto: by its name",
                            choices=("auto", "min", "max"))
    seed: int = option(0, "of the initial head, the order of pictures and the augmentation", least=0, most=2**32 - 1)
    precision: str = option("auto", "auto: bf16 where the processor has it in hardware", choices=("auto", "fp32", "bf16"))

    def __post_init__(self) -> None:
        check(self)
        if not NAME_PATTERN.fullmatch(self.trial):
            raise ValueError(f"trial is {self.trial!r}; a name has 1 to 40 letters, digits, '.', '_' or '-', "
                             "and begins and ends with a letter or digit")
        if not self.weights:
            raise ValueError("weights is empty; imagenet, none, or a path or URI is needed")

    @property
    def monitors_max(self) -> bool:
        """Whether the monitored figure is best when it is largest."""
        mode = MONITORS[self.best_monitor] if self.best_mode == "auto" else self.best_mode
        return mode == "max"


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How pictures become a pack: everything besides the pictures themselves that its hash covers."""

    positive: str = option("", "this class against all the others, called 'other'")
    val: float = option(0.2, "share for validation, of what the test split leaves", above=0, most=0.9)
    test: float = option(0.1, "share for the test split", least=0, most=0.9)
    split_seed: int = option(0, "another number draws another split", least=0)
    short_side: int = option(256, "height or width, the smaller, of a packed picture, pixels", least=40, most=2048)
    max_bad: float = option(0.05, "share of unreadable pictures above which preparing stops", least=0, most=1)

    def __post_init__(self) -> None:
        check(self)


class GridError(ValueError):
    """A grid that cannot be read; the message names line and column."""


def parse_value(kind: type, text: str) -> Any:
    """`text` as an int, a float or a str; ValueError says what was expected."""
    text = text.strip()
    if not text:
        raise ValueError("is empty; give a value, or leave the column out for the default")
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"is {text!r}; {'a whole number' if kind is int else 'a number'} is needed") from None


def read_columns(header: list[str]) -> list[str]:
    """The grid's column names, checked against Trial's fields; raises GridError."""
    known = [spec.name for spec in fields(Trial)]
    names = [name.strip() for name in header]
    for position, name in enumerate(names, 1):
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; the columns are {', '.join(known)}"
            raise GridError(f"line 1, column {position}: unknown column {name!r}{hint}")
        if names.index(name) != position - 1:
            raise GridError(f"line 1, column {position}: the column {name!r} stands twice")
    return names


def parse_grid(text: str) -> list[Trial]:
    """The trials of a grid in CSV form, in its order; a grid without a `trial` column is numbered from 1.

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
            # Sheets and some file systems do not tell upper from lower case.
            first = line_of_name.setdefault(trial.trial.lower(), lines.line_num)
            if first != lines.line_num:
                raise GridError(f"line {lines.line_num}, column trial: the name {trial.trial!r} stands in line {first} too")
            trials.append(trial)
    except csv.Error as error:
        raise GridError(f"line {lines.line_num}: {error}") from None
    if not trials:
        raise GridError("line 1: no trials; a header (trial,lr,epochs) and a line a trial are needed")
    return trials


def parse_line(columns: list[str], cells: list[str], line: int, default_name: str) -> Trial:
    """One line of a grid as a Trial; raises GridError."""
    kinds = {spec.name: type(spec.default) for spec in fields(Trial)}
    if len(cells) != len(columns):
        raise GridError(f"line {line}: {len(cells)} values for {len(columns)} columns ({', '.join(columns)})")
    values: dict[str, Any] = {"trial": default_name}
    for column, cell in zip(columns, cells, strict=True):
        try:
            values[column] = parse_value(kinds[column], cell)
            Trial(**{column: values[column]})
        except ValueError as error:
            message = str(error).removeprefix(column).strip()
            raise GridError(f"line {line}, column {column}: {column} {message}") from None
    return Trial(**values)


def format_grid(trials: Sequence[Trial]) -> str:
    """A grid in CSV form: trial, lr, epochs, and each other column in which a trial leaves the default."""
    always = ("trial", "lr", "epochs")
    columns = [s.name for s in fields(Trial) if s.name in always or any(getattr(t, s.name) != s.default for t in trials)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([getattr(trial, column) for column in columns] for trial in trials)
    return text.getvalue()
