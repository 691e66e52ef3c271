"""Command-line options made from the fields of our dataclasses, so that a default and its help text stand once."""

import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from job.cli.ranges import parse_range
from job.errors import BadConfig
from job.folder.escape import lines_for_terminal
from job.folder.grid import parse_number, parse_value
from job.trial import ImageOptions, Trial, brief

if TYPE_CHECKING:
    from job.training.display import Display

SETTINGS = [spec.name for spec in fields(Trial) if spec.name != "trial"]
DURATION = re.compile("".join(rf"(?:([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?){unit})?" for unit in "dhms"), re.ASCII)
SOURCE_HELP = ("A folder of class folders, or of train/ and val/ with class folders, or a CSV file of labels; "
               "a path or an s3:// URI.")


def not_empty(value: str) -> str:
    """Return a folder's name; raises BadConfig for an empty one, which would mean the current folder."""
    if not value.strip():
        raise BadConfig("the name of a folder is empty (an unset variable?); give a path or s3://bucket/folder")
    return value


def number(kind: type, least: float = -math.inf, most: float = math.inf, ranges: bool = False) -> dict[str, Any]:
    """Return typer's settings for an option that takes a number from `least` to `most`, or yes or no, as in a grid.

    ranges: it also takes a range, LOW..HIGH.
    """

    def read(text: Any) -> Any:
        try:
            if ranges and ".." in str(text):
                return parse_range(kind, str(text))
            value = parse_value(bool, str(text)) if kind is bool else parse_number(kind, str(text))
        except ValueError as error:
            raise typer.BadParameter(f"it {error}") from None
        if not (math.isinf(least) or least <= value <= most):
            raise typer.BadParameter(f"it is {brief(value)}; give a number from {least:.15g} to {most:.15g}")
        return value

    return {"parser": read, "metavar": "<yes|no>" if kind is bool else f"<{kind.__name__}>"}


Sweep = Annotated[str, typer.Argument(
    metavar="SWEEP", show_default=False, callback=not_empty,
    help="The sweep's folder: a path or s3://bucket/folder.")]
Images = Annotated[str, typer.Option(
    "--images", help=f"The images. {SOURCE_HELP} Not needed if the sweep has a pack.", show_default=False)]
Grid = Annotated[str, typer.Option(
    "--grid", show_default=False,
    help="The trials: a CSV file, path or s3:// URI. Not needed if the sweep has a grid.csv.")]
Independent = Annotated[bool, typer.Option(
    "--independent", help="Train every trial separately from its initial weights, even if a longer trial passes "
                          "through it, or a shorter one is finished.")]
PerTrajectory = Annotated[bool, typer.Option(
    "--per-trajectory", help="Print one Job for all trials that differ in epochs alone, if the schedule allows it.")]
Race = Annotated[bool | None, typer.Option(
    "--race/--no-race", show_default=False,
    help="Stop trials early that are behind after a ninth and a third of their epochs; the sweep remembers it. "
         "--no-race: train the stopped ones to their ends, too.")]
BudgetTime = Annotated[str, typer.Option(
    "--budget", metavar="TIME", show_default=False,
    help="The time that the command may take, such as 90m, 3h or 1d12h: no trial, and in a race no way to a rung, "
         "begins that would overrun it.")]
BudgetCost = Annotated[float, typer.Option(
    "--budget-cost", show_default=False, help="The same as a cost, with --price.", **number(float, 0, 1e12))]
Price = Annotated[float, typer.Option(help="The price of this machine per hour, in any currency.",
                                      show_default=False, **number(float, 0, 1e12))]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text (docs/sweep-folder.md).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", envvar="TRIALGRID_QUIET", show_envvar=False,
                                     help="Print results and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", envvar="TRIALGRID_VERBOSE", show_envvar=False,
                                       help="Also print each file that is read, written or waited for.")]

Kind = TypeVar("Kind")


def command(app: typer.Typer, *sources: type, names: Sequence[str] = (),
            repeatable: bool = False) -> Callable[[Any], Any]:
    """Return a decorator that registers a command with --quiet, --verbose, and an option for each field of the sources.

    names: only these fields. The command takes them as **values: an option that is not given is None, or an empty list
    if it is repeatable. The command's own parameter replaces a field of the same name.
    """

    def register(function: Any) -> Any:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
        taken = {parameter.name for parameter in own}
        own += [as_parameter(spec, repeatable) for source in sources for spec in fields(source)
                if spec.name not in taken and (not names or spec.name in names)]
        own += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=False)
                for name, kind in (("quiet", Quiet), ("verbose", Verbose))]

        @functools.wraps(function)
        def run(quiet: bool, verbose: bool, **values: Any) -> Any:
            # The environment, because the processes that this one starts obey too.
            for name, wanted in (("TRIALGRID_QUIET", quiet), ("TRIALGRID_VERBOSE", verbose)):
                os.environ[name] = "1" if wanted else ""
            return function(**values)

        run.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in own}
        return app.command()(run)

    return register


def as_parameter(spec: Field[Any], repeatable: bool) -> inspect.Parameter:
    """Return a field made by `job.trial.option` as a keyword parameter that typer understands."""
    assert spec.default is not MISSING
    kind: Any = type(spec.default)
    # The field's own check says more about a value out of range than typer does.
    takes_value = kind in (int, float) or (repeatable and kind is bool)
    settings = number(kind, ranges=repeatable and kind is not bool) if takes_value else {}
    if settings:
        # Its parser decides; some versions of typer take several truth values for a flag.
        kind = str
    declaration = typer.Option(f"--{spec.name.replace('_', '-')}", help=help_of(spec), show_default=False, **settings)
    annotation: Any = Annotated[list[kind] if repeatable else kind | None, declaration]
    default: Any = [] if repeatable else None
    return inspect.Parameter(spec.name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def help_of(spec: Field[Any]) -> str:
    """Return a field's help text, with its default unless that is empty."""
    shown = "no" if spec.default is False else spec.default
    return str(spec.metadata["help"]) + (f"  [default: {shown}]" if shown != "" else "")


def given(values: dict[str, Any], source: type) -> dict[str, Any]:
    """Return the options that were given and are fields of `source`."""
    known = {spec.name for spec in fields(source)}
    return {name: value for name, value in values.items() if name in known and value not in (None, [])}


def make(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """Return a dataclass of ours made from options; raises BadConfig that names the option with the wrong value."""
    try:
        return kind(**values)
    except ValueError as error:
        # Each of their messages begins with the field.
        name, _, rest = str(error).partition(" ")
        raise BadConfig(f"--{name.replace('_', '-')} {rest}") from None


def image_options(values: dict[str, Any]) -> dict[str, Any]:
    """Return the options about images that were given; the sweep remembers the others.

    Raises BadConfig for a wrong value.
    """
    found = given(values, ImageOptions)
    make(ImageOptions, found)
    return found


def budget_seconds(time: str, cost: float, price: float) -> float:
    """Return the seconds that a budget allows, infinity without one; raises BadConfig."""
    if bool(cost) != bool(price) or (time and cost):
        raise BadConfig("give --budget TIME, or --budget-cost with the --price of an hour, or neither")
    if cost:
        return cost / price * 3600
    if not time:
        return math.inf
    found = DURATION.fullmatch(time)
    parts = [float(part or 0) for part in found.groups()] if found else []
    if not any(parts):
        raise BadConfig(f"--budget {time!r}: give a time such as 45s, 90m, 3h or 1d12h")
    return sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=True))


def display(to_stderr: bool = False) -> "Display":
    """Return the screen of the commands that run for long; to_stderr: standard output is for the result alone."""
    from job.training.display import open_display

    return open_display(stderr=to_stderr)


def note(text: str, to_stderr: bool = True) -> None:
    """Print a line, unless --quiet is given; on standard error it begins with `job: `, as errors do."""
    if not os.environ.get("TRIALGRID_QUIET"):
        say(f"job: {text}" if to_stderr else text, to_stderr)


def say(text: str, to_stderr: bool = False) -> None:
    """Print a text, whatever names and causes it holds."""
    typer.echo(lines_for_terminal(text), err=to_stderr)
