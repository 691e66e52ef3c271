"""Commands that prepare and train: sweep, plan, prepare, train, weights."""

import shlex
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from job.cli.options import (
    SOURCE_HELP,
    AsJson,
    BudgetCost,
    BudgetTime,
    Grid,
    Images,
    Independent,
    Price,
    Race,
    Sweep,
    budget_seconds,
    command,
    display,
    given,
    image_options,
    make,
    not_empty,
    note,
    number,
)
from job.cli.results import print_summary
from job.errors import BadConfig, BadData, MissingInput
from job.folder.grid import parse_number
from job.folder.groups import trajectories
from job.models import IMAGENET_SIZES, MODELS
from job.trial import ImageOptions, Trial

app = typer.Typer()


@command(app, ImageOptions)
def sweep(sweep: Sweep, images: Images = "", grid: Grid = "", independent: Independent = False,
          race: Race = None,
          workers: Annotated[int, typer.Option(
              help="Processes that share the trials, 64 at most; 0: one per GPU. More than one per GPU share it; "
                   "without a GPU they share the cores.", **number(int, 0, 64))] = 0,
          budget: BudgetTime = "", budget_cost: BudgetCost = 0, price: Price = 0, **values: Any) -> None:
    """Run the whole sweep on this machine: pack, trials, gather.

    Makes the pack if there is none, and trains each trial of the grid that has no row. Run it again to resume. A trial
    of more epochs continues a finished one. Several machines may run it on one SWEEP: they share the trials.
    """
    from job.data.prepare import ensure_pack, refuse_before_packing
    from job.folder.grid import load_grid
    from job.folder.layout import trials_with
    from job.folder.same_settings import refuse_changed_settings
    from job.folder.storage import open_patiently
    from job.training.options import SweepOptions, race_mode

    options, ends_at = image_options(values), time.time() + budget_seconds(budget, budget_cost, price)
    folder = open_patiently(sweep)
    trials, adopt = load_grid(folder, grid)
    refuse_changed_settings(folder, trials)
    refuse_before_packing(folder, images, options, trials)
    mode = race_mode(folder, race, "together")
    adopt()
    with display() as show:
        passport = ensure_pack(folder, images, options, show.packing, show.say)
        show.passport(passport)
        refuse_changed_settings(folder, trials, passport.pack_hash)
        # Importing torch takes seconds: every fault that is found without it is reported before.
        from job.training.workers import run_workers

        how = SweepOptions(independent=independent, race=mode, ends_at=ends_at)
        failures = run_workers(folder, trials, passport, show, how, workers)
    if trials_with(folder, "row.json"):
        print_summary(sweep)
    if failures:
        first = next(failures[trial.trial] for trial in trials if trial.trial in failures)
        raise type(first)(f"{len(failures)} of {len(trials)} trials failed; the first: {first}")


@command(app, ImageOptions)
def prepare(source: Annotated[str, typer.Argument(metavar="SOURCE", show_default=False, callback=not_empty,
                                                 help=SOURCE_HELP)],
            sweep: Sweep, grid: Grid = "", **values: Any) -> None:
    """Decode and split the images into the pack, once.

    With --grid, SWEEP gets its grid.csv too.
    """
    from job.data.prepare import ensure_pack, refuse_before_packing
    from job.folder.grid import load_grid
    from job.folder.same_settings import refuse_changed_settings
    from job.folder.storage import open_patiently

    options, folder = image_options(values), open_patiently(sweep)
    if grid:
        trials, adopt = load_grid(folder, grid)
        refuse_changed_settings(folder, trials)
        refuse_before_packing(folder, source, options, trials)
        adopt()
    with display() as show:
        show.passport(ensure_pack(folder, source, options, show.packing, show.say))


@command(app, Trial, ImageOptions)
def train(sweep: Sweep,
          trial: Annotated[str, typer.Option(
              show_default=False, help="The trial's name in SWEEP/grid.csv, which has its settings unless they are "
                                       "given here.")],
          shorter: Annotated[list[str], typer.Option(
              metavar="NAME=EPOCHS", show_default=False, help="Another trial with these settings and fewer epochs; may "
                                                              "be repeated.")] = [],  # noqa: B006
          images: Images = "", race: Race = None, **values: Any) -> None:
    """Train one trial of the grid, or resume it.

    The settings are those of the grid's line, or all of them are given here; if both exist, they must agree.
    """
    from job.data.prepare import ensure_pack, fail_without_pack, refuse_before_packing
    from job.folder.grid import find_trial
    from job.folder.same_settings import refuse_changed_settings
    from job.folder.storage import open_patiently
    from job.training.options import SweepOptions, race_mode

    folder, settings, options = open_patiently(sweep), given(values, Trial), image_options(values)
    longest = find_trial(folder, trial, make(Trial, {"trial": trial, **settings}) if settings else None)
    trials = [longest, *(find_trial(folder, *shorter_trial(longest, text)) for text in shorter)]
    if len({item.trial for item in trials}) < len(trials):
        raise BadConfig("--shorter: a name is given twice; name each trial once")
    mode = race_mode(folder, race, "alone")
    with display() as show:
        try:
            refuse_before_packing(folder, images, options, trials)
            passport = ensure_pack(folder, images, options, show.packing, show.say)
        except (BadData, MissingInput, BadConfig) as error:
            fail_without_pack(folder, trials, error)
            raise
        refuse_changed_settings(folder, trials, passport.pack_hash)
        from job.training.sweep import run_sweep

        failures = run_sweep(folder, trials, passport, show, SweepOptions(race=mode))
    if failures:
        raise next(iter(failures.values()))


def shorter_trial(longest: Trial, text: str) -> tuple[str, Trial]:
    """Return NAME=EPOCHS as a trial with the same other settings; raises BadConfig."""
    name, _, number_of_epochs = text.rpartition("=")
    try:
        epochs = int(parse_number(int, number_of_epochs))
    except ValueError:
        epochs = longest.epochs
    if not epochs < longest.epochs:
        raise BadConfig(f"--shorter {text}: give NAME=EPOCHS with fewer than {longest.epochs} epochs")
    found = make(Trial, {**asdict(longest), "trial": name, "epochs": epochs})
    if len(trajectories([found, longest])) > 1:
        raise BadConfig(f"--shorter {text}: under the schedule {longest.schedule} a longer trial does not contain a "
                        "shorter one; leave --shorter out")
    return name, found


@command(app, ImageOptions)
def plan(sweep: Sweep, images: Images = "", grid: Grid = "", independent: Independent = False,
         race: Race = None, price: Price = 0,
         json: AsJson = False, **values: Any) -> None:
    """Estimate time, memory and cost of a sweep.

    Makes the pack if there is none, and measures a few steps on this machine; trains nothing.
    """
    from job.data.prepare import ensure_pack, refuse_before_packing
    from job.folder.grid import load_grid
    from job.folder.same_settings import refuse_changed_settings
    from job.folder.storage import open_folder
    from job.results.json_output import plan_json, print_json
    from job.results.terminal import print_plan
    from job.training.options import will_race

    folder, options = open_folder(sweep), image_options(values)
    trials, _ = load_grid(folder, grid)
    races = will_race(folder, race)
    refuse_before_packing(folder, images, options, trials)
    with display(to_stderr=json) as show:
        passport = ensure_pack(folder, images, options, show.packing, show.say)
        show.passport(passport)
        refuse_changed_settings(folder, trials, passport.pack_hash)
        from job.training.plan import plan as make_plan

        runs = make_plan(folder, trials, passport, independent, show.say)
    if json:
        print_json("plan", folder, plan_json(runs, len(trials), price, races))
    else:
        also = (["--grid", grid] if grid else []) + (["--independent"] if independent else [])
        also += ["--race"] if race else []
        print_plan(runs, len(trials), price, shlex.join(["job", "sweep", *also, sweep]), races)


@command(app)
def weights(named: Annotated[list[str], typer.Argument(
                metavar="MODEL... FOLDER", show_default=False,
                help="Names of the grid's column model, such as resnet50; then where their weights lie from now on: "
                     "a path or s3://bucket/folder.")]) -> None:
    """Download ImageNet weights into a folder, for machines without internet.

    Set TRIALGRID_WEIGHTS to FOLDER there. A file that is there already, whole, is left as it is.
    """
    from job.folder.storage import join, open_folder

    *models, folder = named
    not_empty(folder)
    if not models or folder in MODELS:
        raise typer.BadParameter(f"{folder!r} is the last argument: name the models first, then the folder")
    for model in models:
        make(Trial, {"model": model, "image_size": IMAGENET_SIZES.get(model, 224)})
    from job.training.imagenet import store_weights, weights_file, weights_url

    target = open_folder(folder)
    for model in models:
        url = weights_url(model)
        is_new = store_weights(url, target)
        note(f"{join(target.uri, weights_file(url))}: {model}{'' if is_new else ', there already'}", to_stderr=False)
