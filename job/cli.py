"""The command line: parse, one call, an exit code. Torch and everything heavy is imported inside the commands."""

import inspect
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from job.errors import BadConfig, JobError, Stopped, TryAgain
from job.trial import AUGMENTATION, PictureOptions, Trial, format_grid

if TYPE_CHECKING:
    from job.training.display import Display

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

PICTURE = {spec.name: spec for spec in fields(PictureOptions)}
Sweep = Annotated[str, typer.Argument(metavar="SWEEP", show_default=False,
                                      help="The sweep's folder: a path or s3://bucket/folder.")]
SOURCE_HELP = "A folder of class folders or a CSV of labels, path or s3:// URI."
Images = Annotated[str, typer.Option("--images", help="Pictures: a folder of class folders or a CSV of labels, path or s3:// "
                                     "URI. May be left out where the sweep has a pack.", show_default=False)]


def picture_option(name: str) -> Any:
    """An option about pictures; left out, it is what the sweep folder remembers, or the default."""
    return typer.Option(help=f"{PICTURE[name].metadata['help']}  [default: {PICTURE[name].default!s}]", show_default=False)


Positive = Annotated[str | None, typer.Option(help=PICTURE["positive"].metadata["help"], show_default=False)]
Val = Annotated[float | None, picture_option("val")]
Test = Annotated[float | None, picture_option("test")]
SplitSeed = Annotated[int | None, picture_option("split_seed")]
ShortSide = Annotated[int | None, picture_option("short_side")]
MaxBad = Annotated[float | None, picture_option("max_bad")]


def only_given(**values: Any) -> dict[str, Any]:
    """The options that were given on the command line; raises BadConfig naming one that is out of its range."""
    from job.data.prepare import make_options

    given = {name: value for name, value in values.items() if value is not None}
    make_options(given)
    return given


@app.command()
def sweep(sweep: Sweep, images: Images = "",
          grid: Annotated[str, typer.Option(help="The trials: a CSV file, path or s3:// URI. May be left out where the "
                                            "sweep has a grid.csv.", show_default=False)] = "",
          positive: Positive = None, val: Val = None, test: Test = None, split_seed: SplitSeed = None,
          short_side: ShortSide = None, max_bad: MaxBad = None) -> None:
    """Do everything here: pack, trials, gather.

    Makes the pack if it is missing and trains every trial of the grid that has no row yet.
    """
    from job.data.prepare import ensure_pack
    from job.layout import load_grid
    from job.storage import open_folder
    from job.training.checkpoint import check_unchanged
    from job.training.sweep import run_sweep

    given = only_given(positive=positive, val=val, test=test, split_seed=split_seed, short_side=short_side, max_bad=max_bad)
    folder = open_folder(sweep)
    trials, adopt = load_grid(folder, grid)
    with display() as show:
        passport = ensure_pack(folder, images, given, show.packing)
        show.passport(passport)
        check_unchanged(folder, trials, passport)
        adopt()
        failures = run_sweep(folder, trials, passport, show)
    print_summary(sweep)
    if failures:
        raise type(failures[0])(f"{len(failures)} of {len(trials)} trials failed; the first: {failures[0]}")


def print_version(wanted: bool) -> None:
    """Print the version and end, where that is wanted."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"trialgrid {version('trialgrid')}")
        raise typer.Exit


@app.callback()
def options_before_the_command(version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True,
                                                                     callback=print_version)] = False) -> None:
    """Find the best learning rate and number of epochs for a picture classifier.

    All state lies in one SWEEP folder, a path or an s3:// URI.
    """


@app.command()
def prepare(source: Annotated[str, typer.Argument(metavar="SOURCE", show_default=False,
                                                  help=SOURCE_HELP)],
            sweep: Sweep, positive: Positive = None, val: Val = None, test: Test = None, split_seed: SplitSeed = None,
            short_side: ShortSide = None, max_bad: MaxBad = None) -> None:
    """Decode and split pictures into the pack, once."""
    from job.data.prepare import ensure_pack
    from job.storage import open_folder

    given = only_given(positive=positive, val=val, test=test, split_seed=split_seed, short_side=short_side, max_bad=max_bad)
    with display() as show:
        show.passport(ensure_pack(open_folder(sweep), source, given, show.packing))


@app.command()
def train(sweep: Sweep, trial: Annotated[str, typer.Option(help="The trial's name in SWEEP/grid.csv.", show_default=False)],
          images: Images = "") -> None:
    """Train one trial of the grid, or go on with it."""
    from job.data.prepare import ensure_pack
    from job.layout import read_grid
    from job.storage import open_folder
    from job.training.sweep import attempt

    folder = open_folder(sweep)
    trials = {item.trial: item for item in read_grid(folder)}
    if trial not in trials:
        raise BadConfig(f"{folder.uri}/grid.csv has no trial {trial!r}; its trials are {', '.join(trials)}")
    with display() as show:
        passport = ensure_pack(folder, images, {}, show.packing)
        attempt(folder, trials[trial], passport, show)


@app.command()
def gather(sweep: Sweep) -> None:
    """Merge the rows into the summary workbook."""
    print_summary(sweep)


@app.command()
def predict(sweep: Sweep, pictures: Annotated[list[str], typer.Argument(metavar="PICTURE", help="Paths or URIs.",
                                                                       show_default=False)],
            trial: Annotated[str, typer.Option(help="Use this trial's best weights, not the best trial's.",
                                               show_default=False)] = "") -> None:
    """Say what is on pictures, and how sure.

    Class and confidence by the best trial's best weights.
    """
    from job.results.predict import load_predictor, print_predictions
    from job.storage import open_folder

    predictor = load_predictor(open_folder(sweep), trial)
    print_predictions(predictor, predictor.predict(pictures))


@app.command()
def status(sweep: Sweep) -> None:
    """Show what each trial is doing."""
    from job.cluster.status import print_status, sweep_status
    from job.storage import open_folder

    print_status(sweep_status(open_folder(sweep)))


@app.command()
def sample(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to fill.", show_default=False)],
           num: Annotated[int, typer.Option(help="How many pictures.", min=20, max=100_000)] = 400,
           seed: Annotated[int, typer.Option(help="Another number draws other pictures.", min=0)] = 0) -> None:
    """Draw sample pictures, in class folders."""
    from job.data.sample import draw_pictures
    from job.storage import open_folder

    target = open_folder(str(folder))
    if next(iter(target.names()), None):
        raise BadConfig(f"{folder}: not empty; name a new folder")
    for name, data in draw_pictures(num, seed):
        target.write(name, data)
    typer.echo(f"{folder}: {num} pictures")


def grid(**values: list[Any]) -> None:
    """Print a grid: every combination of values.

    Repeat an option to give it several values: --lr 0.1 --lr 0.01. The trials are numbered.
    """
    import itertools

    given = {name: found for name, found in values.items() if found}
    try:
        trials = [Trial(trial=str(number), **dict(zip(given, combination, strict=True)))
                  for number, combination in enumerate(itertools.product(*given.values()), 1)]
    except ValueError as error:
        raise BadConfig(f"--{str(error).replace('_', '-', 1)}") from None
    typer.echo(format_grid(trials), nl=False)


def augment(source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP, show_default=False)],
            out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("sheet.png"), **values: Any) -> None:
    """Draw a sheet of what the net will see.

    A row a picture: plain, as validation sees it, then augmented by the given settings.
    """
    from job.data.sheet import contact_sheet
    from job.data.source import read_source

    try:
        trial = Trial(weights="none", model="mlp", **values)
    except ValueError as error:
        raise BadConfig(f"--{str(error).replace('_', '-', 1)}") from None
    out.write_bytes(contact_sheet(read_source(source, PictureOptions()), trial))
    typer.echo(f"{out}: each row is one picture, first as validation sees it, then as training may")


def with_trial_options(command: Any, names: Sequence[str], repeatable: bool) -> None:
    """Give a command whose last parameter is **values an option for each of these fields of Trial, and register it."""
    own = [parameter for parameter in inspect.signature(command).parameters.values() if parameter.kind != parameter.VAR_KEYWORD]
    for spec in fields(Trial):
        if spec.name in names:
            assert spec.default is not MISSING
            kind: Any = type(spec.default)
            text = f"{spec.metadata['help']}  [default: {'no' if spec.default is False else spec.default}]"
            option = typer.Option(f"--{spec.name.replace('_', '-')}", help=text, show_default=False)
            annotation: Any = Annotated[list[kind] if repeatable else kind, option]
            own.append(inspect.Parameter(spec.name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation,
                                         default=[] if repeatable else spec.default))
    command.__signature__ = inspect.Signature(own)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in own}
    app.command()(command)


with_trial_options(grid, [spec.name for spec in fields(Trial) if spec.name != "trial"], repeatable=True)
with_trial_options(augment, ["image_size", *AUGMENTATION, "seed"], repeatable=False)


def display() -> "Display":
    """The screen of the commands that take their time."""
    from rich.console import Console

    from job.training.display import Display

    return Display(Console())


def print_summary(sweep: str) -> None:
    """Gather, and print the table, the best trial and the workbook's place."""
    from job.results.gather import gather, print_gathered
    from job.storage import open_folder

    folder = open_folder(sweep)
    print_gathered(folder, *gather(folder))


def die(number: int, frame: Any) -> None:
    """End at a signal, with the code that says so: as process 1 of a container there is no default handler."""
    sys.exit(128 + number)


def main() -> None:
    """Run the command line; the exit code says whether trying again can help."""
    signal.signal(signal.SIGTERM, die)
    try:
        app()
    except JobError as error:
        print(f"job: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("job: stopped; the same command goes on from what is there", file=sys.stderr)
        sys.exit(Stopped.exit_code)
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)
    except OSError as error:
        # Of the commands' own files every error is a JobError by now; what is left is standard output.
        print(f"job: standard output: {error.strerror}", file=sys.stderr)
        os._exit(TryAgain.exit_code)


if __name__ == "__main__":
    main()
