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

from job.errors import BadConfig, JobError
from job.trial import AUGMENTATION, PictureOptions, Trial, format_grid

if TYPE_CHECKING:
    from job.training.display import Display

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Finds the best learning rate and number of epochs for a picture classifier. All state lies in one "
                       "SWEEP folder, a path or an s3:// URI.")

PICTURE = {spec.name: spec for spec in fields(PictureOptions)}
Sweep = Annotated[str, typer.Argument(metavar="SWEEP", show_default=False,
                                      help="The sweep's folder: a path or s3://bucket/folder.")]
SOURCE_HELP = "A folder of class folders or a CSV of labels, path or s3:// URI."
Images = Annotated[str, typer.Option("--images", help="Pictures: a folder of class folders or a CSV of labels, path or s3:// "
                                     "URI. May be left out where the sweep has a pack.", show_default=False)]
Positive = Annotated[str, typer.Option(help=PICTURE["positive"].metadata["help"], show_default=False)]
Val = Annotated[float, typer.Option(help=PICTURE["val"].metadata["help"])]
Test = Annotated[float, typer.Option(help=PICTURE["test"].metadata["help"])]
SplitSeed = Annotated[int, typer.Option(help=PICTURE["split_seed"].metadata["help"])]
ShortSide = Annotated[int, typer.Option(help=PICTURE["short_side"].metadata["help"])]
MaxBad = Annotated[float, typer.Option(help=PICTURE["max_bad"].metadata["help"])]
DEFAULT = PictureOptions()


def picture_options(**values: Any) -> PictureOptions:
    """The options about pictures; raises BadConfig naming the option."""
    try:
        return PictureOptions(**values)
    except ValueError as error:
        raise BadConfig(f"--{str(error).replace('_', '-', 1)}") from None


@app.command()
def sweep(sweep: Sweep, images: Images = "",
          grid: Annotated[str, typer.Option(help="The trials: a CSV file, path or s3:// URI. May be left out where the "
                                            "sweep has a grid.csv.", show_default=False)] = "",
          positive: Positive = DEFAULT.positive, val: Val = DEFAULT.val, test: Test = DEFAULT.test,
          split_seed: SplitSeed = DEFAULT.split_seed, short_side: ShortSide = DEFAULT.short_side,
          max_bad: MaxBad = DEFAULT.max_bad) -> None:
    """Do everything on this machine: pack if missing, every trial not yet done, gather."""
    from job.data.prepare import ensure_pack
    from job.layout import adopt_grid
    from job.storage import open_folder
    from job.training.sweep import run_sweep

    options = picture_options(positive=positive, val=val, test=test, split_seed=split_seed, short_side=short_side,
                              max_bad=max_bad)
    folder = open_folder(sweep)
    trials = adopt_grid(folder, grid)
    with display() as show:
        passport = ensure_pack(folder, images, options, show.packing)
        show.passport(passport)
        failures = run_sweep(folder, trials, passport, show)
    print_summary(sweep)
    if failures:
        raise type(failures[0])(f"{len(failures)} of {len(trials)} trials failed; the first: {failures[0]}")


@app.command()
def prepare(source: Annotated[str, typer.Argument(metavar="SOURCE", show_default=False,
                                                  help=SOURCE_HELP)],
            sweep: Sweep, positive: Positive = DEFAULT.positive, val: Val = DEFAULT.val, test: Test = DEFAULT.test,
            split_seed: SplitSeed = DEFAULT.split_seed, short_side: ShortSide = DEFAULT.short_side,
            max_bad: MaxBad = DEFAULT.max_bad) -> None:
    """Decode and split the pictures into the sweep's pack, once."""
    from job.data.prepare import ensure_pack
    from job.storage import open_folder

    options = picture_options(positive=positive, val=val, test=test, split_seed=split_seed, short_side=short_side,
                              max_bad=max_bad)
    with display() as show:
        show.passport(ensure_pack(open_folder(sweep), source, options, show.packing))


@app.command()
def train(sweep: Sweep, trial: Annotated[str, typer.Option(help="The trial's name in SWEEP/grid.csv.", show_default=False)],
          images: Images = "") -> None:
    """Train one trial of SWEEP/grid.csv, or go on with it: what one Kubernetes Job runs."""
    from job.data.prepare import ensure_pack
    from job.layout import read_grid
    from job.storage import open_folder
    from job.training.sweep import attempt

    folder = open_folder(sweep)
    trials = {item.trial: item for item in read_grid(folder)}
    if trial not in trials:
        raise BadConfig(f"{folder.uri}/grid.csv has no trial {trial!r}; its trials are {', '.join(trials)}")
    with display() as show:
        passport = ensure_pack(folder, images, DEFAULT, show.packing)
        attempt(folder, trials[trial], passport, show)


@app.command()
def gather(sweep: Sweep) -> None:
    """Merge the metrics rows into SWEEP/summary.xlsx; half a sweep will do."""
    print_summary(sweep)


@app.command()
def predict(sweep: Sweep, pictures: Annotated[list[str], typer.Argument(metavar="PICTURE", help="Paths or URIs.",
                                                                       show_default=False)],
            trial: Annotated[str, typer.Option(help="Use this trial's best weights, not the best trial's.",
                                               show_default=False)] = "") -> None:
    """Say what is on each picture, and how sure: class and confidence by the best trial's best weights."""
    from job.results.predict import load_predictor, print_predictions
    from job.storage import open_folder

    predictor = load_predictor(open_folder(sweep), trial)
    print_predictions(predictor, predictor.predict(pictures))


@app.command()
def status(sweep: Sweep) -> None:
    """Show what each trial of the sweep is doing, from the folder alone."""
    from job.cluster.status import print_status, sweep_status
    from job.storage import open_folder

    print_status(sweep_status(open_folder(sweep)))


@app.command()
def sample(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to fill.", show_default=False)],
           num: Annotated[int, typer.Option(help="How many pictures.", min=20, max=100_000)] = 400,
           seed: Annotated[int, typer.Option(help="Another number draws other pictures.", min=0)] = 0) -> None:
    """Draw sample pictures of phones and other appliances, in class folders."""
    from job.data.sample import draw_pictures
    from job.storage import open_folder

    target = open_folder(str(folder))
    if next(iter(target.names()), None):
        raise BadConfig(f"{folder}: not empty; name a new folder")
    for name, data in draw_pictures(num, seed):
        target.write(name, data)
    typer.echo(f"{folder}: {num} pictures")


def grid(**values: list[Any]) -> None:
    """Print a grid as CSV: every combination of the given values, numbered."""
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
    """Draw a contact sheet of what the net will see: pictures plain, and augmented by the given settings."""
    from job.data.sheet import contact_sheet
    from job.data.source import read_source

    try:
        trial = Trial(weights="none", model="mlp", **values)
    except ValueError as error:
        raise BadConfig(f"--{str(error).replace('_', '-', 1)}") from None
    out.write_bytes(contact_sheet(read_source(source, DEFAULT), trial))
    typer.echo(f"{out}: each row is one picture, first as validation sees it, then as training may")


def with_trial_options(command: Any, names: Sequence[str], repeatable: bool) -> None:
    """Give a command whose last parameter is **values an option for each of these fields of Trial, and register it."""
    own = [parameter for parameter in inspect.signature(command).parameters.values() if parameter.kind != parameter.VAR_KEYWORD]
    for spec in fields(Trial):
        if spec.name in names:
            assert spec.default is not MISSING
            kind: Any = type(spec.default)
            option = typer.Option(f"--{spec.name.replace('_', '-')}", help=spec.metadata["help"],
                                  show_default=str(spec.default))
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
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)


if __name__ == "__main__":
    main()
