"""Command-line options made from the fields of our dataclasses, so that a default and its help text stand once."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from job.errors import BadConfig
from job.trial import ImageOptions, Trial

if TYPE_CHECKING:
    from job.training.display import Display

SETTINGS = [spec.name for spec in fields(Trial) if spec.name != "trial"]
Sweep = Annotated[str, typer.Argument(metavar="SWEEP", show_default=False,
                                      help="The sweep's folder: a path or s3://bucket/folder.")]
SOURCE_HELP = "A folder of class folders or a CSV of labels, path or s3:// URI."
Images = Annotated[str, typer.Option("--images", help="Images: a folder of class folders or a CSV of labels, path or s3:// "
                                     "URI. May be left out where the sweep has a pack.", show_default=False)]
Grid = Annotated[str, typer.Option("--grid", help="The trials: a CSV file, path or s3:// URI. May be left out where the sweep has "
                                   "a grid.csv.", show_default=False)]
Independent = Annotated[bool, typer.Option("--independent", help="Train every trial on its own, also where a longer one passes "
                                           "through it.")]
PerTrajectory = Annotated[bool, typer.Option("--per-trajectory", help="One Job for all trials that differ in epochs alone, where "
                                             "the schedule allows it.")]

Kind = TypeVar("Kind")


def add_options(app: typer.Typer, *sources: type, names: Sequence[str] = (), repeatable: bool = False) -> Callable[[Any], Any]:
    """A decorator that registers a command, whose last parameter is **values, with an option for each field of the sources.

    names: only these fields. An option that is not given is None, or an empty list where it is repeatable. A command's own
    parameter stands before a field of its name.
    """

    def register(command: Any) -> Any:
        own = [p for p in inspect.signature(command).parameters.values() if p.kind != p.VAR_KEYWORD]
        taken = {parameter.name for parameter in own}
        own += [as_parameter(spec, repeatable) for source in sources for spec in fields(source)
                if spec.name not in taken and (not names or spec.name in names)]
        command.__signature__ = inspect.Signature(own)
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in own}
        return app.command()(command)

    return register


def as_parameter(spec: Field[Any], repeatable: bool) -> inspect.Parameter:
    """A field made by `job.trial.option` as a keyword parameter that typer understands."""
    assert spec.default is not MISSING
    kind: Any = type(spec.default)
    declaration = typer.Option(f"--{spec.name.replace('_', '-')}", help=help_of(spec), show_default=False)
    annotation: Any = Annotated[list[kind] if repeatable else kind | None, declaration]
    default: Any = [] if repeatable else None
    return inspect.Parameter(spec.name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def help_of(spec: Field[Any]) -> str:
    """A field's help text with its default, where that says something."""
    shown = "no" if spec.default is False else spec.default
    return str(spec.metadata["help"]) + (f"  [default: {shown}]" if shown != "" else "")


def given(values: dict[str, Any], source: type) -> dict[str, Any]:
    """The options that were given, of those that are fields of `source`."""
    known = {spec.name for spec in fields(source)}
    return {name: value for name, value in values.items() if name in known and value not in (None, [])}


def make(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """A dataclass of ours from options; raises BadConfig naming the option whose value is wrong."""
    try:
        return kind(**values)
    except ValueError as error:
        # Every message of theirs begins with the field.
        name, _, rest = str(error).partition(" ")
        raise BadConfig(f"--{name.replace('_', '-')} {rest}") from None


def image_options(values: dict[str, Any]) -> dict[str, Any]:
    """The options about images that were given; what was not is remembered by the sweep. Raises BadConfig naming a bad one."""
    found = given(values, ImageOptions)
    make(ImageOptions, found)
    return found


def display() -> "Display":
    """The screen of the commands that take their time."""
    from rich.console import Console

    from job.training.display import Display

    return Display(Console())
