"""Commands that prepare and train: sweep, plan, prepare, train."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from job.cli.options import SOURCE_HELP, Grid, Images, Independent, Sweep, add_options, display, given, image_options, make
from job.cli.results import print_summary
from job.errors import BadConfig, BadData, MissingInput
from job.trial import ImageOptions, Trial, trajectories

app = typer.Typer()


@add_options(app, ImageOptions)
def sweep(sweep: Sweep, images: Images = "", grid: Grid = "", independent: Independent = False,
          workers: Annotated[int, typer.Option(min=0, max=64, help="Processes that share the trials; 0: one a GPU. More of them "
                                               "share a GPU, or the cores.")] = 0, **values: Any) -> None:
    """Do everything here: pack, trials, gather.

    Makes the pack if it is missing and trains every trial of the grid that has no row yet. Several machines may run it on
    one SWEEP: they share the trials.
    """
    from job.data.prepare import ensure_pack
    from job.folder.grid import load_grid
    from job.folder.same_settings import check_unchanged
    from job.folder.storage import open_folder

    options = image_options(values)
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


@add_options(app, ImageOptions)
def prepare(source: Annotated[str, typer.Argument(metavar="SOURCE", show_default=False,
                                                  help=SOURCE_HELP)],
            sweep: Sweep, grid: Grid = "", **values: Any) -> None:
    """Decode and split images into the pack, once."""
    from job.data.prepare import ensure_pack
    from job.folder.grid import load_grid
    from job.folder.same_settings import check_unchanged
    from job.folder.storage import open_folder

    options, folder = image_options(values), open_folder(sweep)
    if grid:
        trials, adopt = load_grid(folder, grid)
        check_unchanged(folder, trials)
        adopt()
    with display() as show:
        show.passport(ensure_pack(folder, source, options, show.packing, show.say))


@add_options(app, Trial, ImageOptions)
def train(sweep: Sweep, trial: Annotated[str, typer.Option(help="The trial's name, in SWEEP/grid.csv where no settings are given.",
                                                           show_default=False)],
          shorter: Annotated[list[str], typer.Option(metavar="NAME=EPOCHS", show_default=False, help="Another trial of these "
                                                     "settings, with fewer epochs; may be repeated.")] = [],  # noqa: B006
          images: Images = "", **values: Any) -> None:
    """Train one trial of the grid, or go on with it.

    Settings that are given stand in for the grid's line, and must not contradict it.
    """
    from job.data.prepare import ensure_pack, fail_without_pack
    from job.folder.grid import find_trial
    from job.folder.same_settings import check_unchanged
    from job.folder.storage import open_folder

    folder, settings, options = open_folder(sweep), given(values, Trial), image_options(values)
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


@add_options(app, ImageOptions)
def plan(sweep: Sweep, images: Images = "", grid: Grid = "", independent: Independent = False,
         price: Annotated[float, typer.Option(help="Of an hour of this machine, in any currency.", min=0, show_default=False)] = 0,
         **values: Any) -> None:
    """Say what a sweep would run, and how long.

    Makes the pack if it is missing, and measures a few steps; trains nothing.
    """
    from job.data.prepare import ensure_pack
    from job.folder.grid import load_grid
    from job.folder.same_settings import check_unchanged
    from job.folder.storage import open_folder
    from job.results.terminal import console

    folder, options = open_folder(sweep), image_options(values)
    trials, _ = load_grid(folder, grid)
    with display() as show:
        passport = ensure_pack(folder, images, options, show.packing, show.say)
        show.passport(passport)
        check_unchanged(folder, trials, passport.pack_hash)
        from job.training.plan import plan as make_plan
        from job.training.plan import print_plan

        runs = make_plan(folder, trials, passport, independent, show.say)
    print_plan(runs, len(trials), price, console())
