"""The command line: parse, one call, an exit code. Torch and everything heavy is imported inside the commands."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from job.cluster.options import ClusterOptions
from job.errors import BadConfig, BadData, JobError, MissingInput, Stopped, TryAgain
from job.options import add_options, given, make
from job.trial import AUGMENTATION, PictureOptions, Trial, format_grid, trajectories

if TYPE_CHECKING:
    from job.training.display import Display

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

SETTINGS = [spec.name for spec in fields(Trial) if spec.name != "trial"]
Sweep = Annotated[str, typer.Argument(metavar="SWEEP", show_default=False,
                                      help="The sweep's folder: a path or s3://bucket/folder.")]
SOURCE_HELP = "A folder of class folders or a CSV of labels, path or s3:// URI."
Images = Annotated[str, typer.Option("--images", help="Pictures: a folder of class folders or a CSV of labels, path or s3:// "
                                     "URI. May be left out where the sweep has a pack.", show_default=False)]
Grid = Annotated[str, typer.Option("--grid", help="The trials: a CSV file, path or s3:// URI. May be left out where the sweep has "
                                   "a grid.csv.", show_default=False)]
Independent = Annotated[bool, typer.Option("--independent", help="Train every trial on its own, also where a longer one passes "
                                           "through it.")]
PerTrajectory = Annotated[bool, typer.Option("--per-trajectory", help="One Job for all trials that differ in epochs alone, where "
                                             "the schedule allows it.")]


def picture_options(values: dict[str, Any]) -> dict[str, Any]:
    """The options about pictures that were given; what was not is remembered by the sweep. Raises BadConfig naming a bad one."""
    found = given(values, PictureOptions)
    make(PictureOptions, found)
    return found


@add_options(app, PictureOptions)
def sweep(sweep: Sweep, images: Images = "", grid: Grid = "", independent: Independent = False,
          workers: Annotated[int, typer.Option(min=0, max=64, help="Processes that share the trials; 0: one a GPU. More of them "
                                               "share a GPU, or the cores.")] = 0, **values: Any) -> None:
    """Do everything here: pack, trials, gather.

    Makes the pack if it is missing and trains every trial of the grid that has no row yet. Several machines may run it on
    one SWEEP: they share the trials.
    """
    from job.data.prepare import ensure_pack
    from job.layout import load_grid
    from job.storage import open_folder
    from job.unchanged import check_unchanged

    options = picture_options(values)
    folder = open_folder(sweep)
    trials, adopt = load_grid(folder, grid)
    check_unchanged(folder, trials)
    adopt()
    with display() as show:
        passport = ensure_pack(folder, images, options, show.packing, show.say)
        show.passport(passport)
        check_unchanged(folder, trials, passport.pack_hash)
        # Torch takes seconds to come; what is wrong before it is said at once.
        from job.training.workers import run_workers

        failures = run_workers(folder, trials, passport, show, independent, workers)
    print_summary(sweep)
    if failures:
        first = next(failures[trial.trial] for trial in trials if trial.trial in failures)
        raise type(first)(f"{len(failures)} of {len(trials)} trials failed; the first: {first}")


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


@add_options(app, PictureOptions)
def prepare(source: Annotated[str, typer.Argument(metavar="SOURCE", show_default=False,
                                                  help=SOURCE_HELP)],
            sweep: Sweep, grid: Grid = "", **values: Any) -> None:
    """Decode and split pictures into the pack, once."""
    from job.data.prepare import ensure_pack
    from job.layout import load_grid
    from job.storage import open_folder
    from job.unchanged import check_unchanged

    options, folder = picture_options(values), open_folder(sweep)
    if grid:
        trials, adopt = load_grid(folder, grid)
        check_unchanged(folder, trials)
        adopt()
    with display() as show:
        show.passport(ensure_pack(folder, source, options, show.packing, show.say))


@add_options(app, Trial, PictureOptions)
def train(sweep: Sweep, trial: Annotated[str, typer.Option(help="The trial's name, in SWEEP/grid.csv where no settings are given.",
                                                           show_default=False)],
          shorter: Annotated[list[str], typer.Option(metavar="NAME=EPOCHS", show_default=False, help="Another trial of these "
                                                     "settings, with fewer epochs; may be repeated.")] = [],  # noqa: B006
          images: Images = "", **values: Any) -> None:
    """Train one trial of the grid, or go on with it.

    Settings that are given stand in for the grid's line, and must not contradict it.
    """
    from job.data.prepare import ensure_pack, fail_without_pack
    from job.layout import find_trial
    from job.storage import open_folder
    from job.unchanged import check_unchanged

    folder, settings, options = open_folder(sweep), given(values, Trial), picture_options(values)
    longest = find_trial(folder, trial, make(Trial, {"trial": trial, **settings}) if settings else None)
    trials = [longest, *(find_trial(folder, *shorter_trial(longest, text)) for text in shorter)]
    if len({item.trial for item in trials}) < len(trials):
        raise BadConfig("--shorter: a name stands twice")
    with display() as show:
        try:
            passport = ensure_pack(folder, images, options, show.packing, show.say)
        except (BadData, MissingInput, BadConfig) as error:
            fail_without_pack(folder, trials, error)
            raise
        check_unchanged(folder, trials, passport.pack_hash)
        from job.training.sweep import run_sweep

        failures = run_sweep(folder, trials, passport, show)
    if failures:
        raise next(iter(failures.values()))


def shorter_trial(longest: Trial, text: str) -> tuple[str, Trial]:
    """NAME=EPOCHS as a trial of the same settings; raises BadConfig."""
    name, _, epochs = text.rpartition("=")
    if not (epochs.isdecimal() and int(epochs) < longest.epochs):
        raise BadConfig(f"--shorter {text}: NAME=EPOCHS with fewer than {longest.epochs} epochs is needed")
    found = make(Trial, {**asdict(longest), "trial": name, "epochs": int(epochs)})
    if len(trajectories([found, longest])) > 1:
        raise BadConfig(f"--shorter {text}: a trial of schedule {longest.schedule} has no shorter ones within it")
    return name, found


@app.command()
def gather(sweep: Sweep, watch: Annotated[bool, typer.Option("--watch", help="Gather again whenever a trial ends, until all "
                                                             "have.")] = False) -> None:
    """Merge the rows into the summary workbook."""
    from job.results.gather import wait_for_rows
    from job.storage import open_folder

    if watch:
        for _ in wait_for_rows(open_folder(sweep), lambda text: print(text, flush=True)):
            print_summary(sweep)
    else:
        print_summary(sweep)


@add_options(app, PictureOptions)
def plan(sweep: Sweep, images: Images = "", grid: Grid = "", independent: Independent = False,
         price: Annotated[float, typer.Option(help="Of an hour of this machine, in any currency.", min=0, show_default=False)] = 0,
         **values: Any) -> None:
    """Say what a sweep would run, and how long.

    Makes the pack if it is missing, and measures a few steps; trains nothing.
    """
    from job.data.prepare import ensure_pack
    from job.layout import load_grid
    from job.results.gather import console
    from job.storage import open_folder
    from job.unchanged import check_unchanged

    folder, options = open_folder(sweep), picture_options(values)
    trials, _ = load_grid(folder, grid)
    with display() as show:
        passport = ensure_pack(folder, images, options, show.packing, show.say)
        show.passport(passport)
        check_unchanged(folder, trials, passport.pack_hash)
        from job.training.plan import plan as make_plan
        from job.training.plan import print_plan

        runs = make_plan(folder, trials, passport, independent, show.say)
    print_plan(runs, len(trials), price, console())


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
def status(sweep: Sweep, watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until every trial has "
                                                             "ended.")] = False) -> None:
    """Show what each trial is doing."""
    from job.cluster.status import pack_status, print_status, sweep_status, watch_status
    from job.storage import open_folder

    folder = open_folder(sweep)
    if watch:
        watch_status(folder)
    else:
        print_status(sweep_status(folder), pack_status(folder))


@add_options(app, ClusterOptions, PictureOptions)
def manifests(sweep: Sweep, grid: Grid = "", per_trajectory: PerTrajectory = False, **values: Any) -> None:
    """Print Kubernetes Jobs, one a trial.

    Pipe them to `kubectl apply -f -`. The same grid and options give the same Jobs; a changed trial is another Job.
    """
    print_jobs(sweep, read_trials(sweep, grid), per_trajectory, values, "")


@add_options(app, ClusterOptions, PictureOptions)
def rerun(sweep: Sweep, failed: Annotated[bool, typer.Option("--failed", help="Of trials that failed.")] = False,
          missing: Annotated[bool, typer.Option("--missing", help="Of trials that have no row, and at which nobody is at "
                                                "work.")] = False, **values: Any) -> None:
    """Print Kubernetes Jobs of trials to run again.

    Their names differ from those of the Jobs before, which may still stand.
    """
    from job.cluster.status import sweep_status
    from job.storage import open_folder

    if not failed and not missing:
        raise typer.BadParameter("--failed, --missing or both are needed")
    states = [state for on, found in ((failed, ("failed",)), (missing, ("waiting", "stopped", "interrupted"))) if on
              for state in found]
    trials = read_trials(sweep, "")
    found = [item for item in sweep_status(open_folder(sweep)) if item.state in states and item.trial in trials]
    if not found:
        print("job: no such trial; nothing to run again", file=sys.stderr)
    print_jobs(sweep, [item.trial for item in found], False, values, f"-r{datetime.now(UTC):%m%d%H%M%S}")


def read_trials(sweep: str, grid: str) -> list[Trial]:
    """The trials of a grid, or of the sweep's own."""
    from job.layout import read_grid
    from job.storage import open_folder, split_uri

    if not grid:
        return read_grid(open_folder(sweep))
    folder, name = split_uri(grid)
    return read_grid(open_folder(folder), name)


def print_jobs(sweep: str, trials: Sequence[Trial], per_trajectory: bool, values: dict[str, Any], suffix: str) -> None:
    """Print the Jobs as YAML, and on standard error what to know about the image."""
    from job.cluster.manifests import to_yaml, trial_jobs

    options, pictures = make(ClusterOptions, given(values, ClusterOptions)), picture_options(values)
    if "@sha256:" not in options.image:
        print(f"job: {options.image} is not pinned by its digest: a row will not tell which program made it", file=sys.stderr)
    groups = trajectories(trials) if per_trajectory else [[trial] for trial in trials]
    print(to_yaml(trial_jobs(sweep.rstrip("/"), groups, options, pictures, suffix)), end="")


@app.command()
def tensorboard(sweep: Sweep, host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: every one.")] = "localhost",
                port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=65535)] = 6006) -> None:
    """Watch the sweep in TensorBoard.

    Mirrors its events to the local disk as they come, and serves them.
    """
    from job.cluster.board import serve
    from job.storage import open_folder

    serve(open_folder(sweep), host, port, lambda text: print(text, flush=True))


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


@add_options(app, Trial, names=SETTINGS, repeatable=True)
def grid(**values: list[Any]) -> None:
    """Print a grid: every combination of values.

    Repeat an option to give it several values: --lr 0.1 --lr 0.01. The trials are numbered.
    """
    import itertools

    found = given(values, Trial)
    trials = [make(Trial, {"trial": str(number), **dict(zip(found, combination, strict=True))})
              for number, combination in enumerate(itertools.product(*found.values()), 1)]
    typer.echo(format_grid(trials), nl=False)


@add_options(app, Trial, names=["image_size", *AUGMENTATION, "seed"])
def augment(source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP, show_default=False)],
            out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("sheet.png"), **values: Any) -> None:
    """Draw a sheet of what the net will see.

    A row a picture: plain, as validation sees it, then augmented by the given settings.
    """
    from job.data.sheet import contact_sheet
    from job.data.source import read_source

    trial = make(Trial, {"weights": "none", "model": "mlp", **given(values, Trial)})
    out.write_bytes(contact_sheet(read_source(source, PictureOptions()), trial))
    typer.echo(f"{out}: each row is one picture, first as validation sees it, then as training may")


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
