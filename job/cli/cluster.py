"""Commands about a sweep in a cluster: status, manifests, rerun, tensorboard."""

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from job.cli.options import (
    AsJson,
    Grid,
    PerTrajectory,
    Race,
    Sweep,
    command,
    given,
    image_options,
    make,
    note,
    number,
    say,
)
from job.cluster.options import ClusterOptions
from job.errors import TryAgain
from job.folder.groups import trajectories
from job.trial import ImageOptions, Trial

if TYPE_CHECKING:
    from job.folder.storage import Folder

app = typer.Typer()


@command(app)
def status(sweep: Sweep, watch: Annotated[bool, typer.Option(
               "--watch", help="Show it again after each change, until every trial has ended.")] = False,
           json: AsJson = False) -> None:
    """Show the state of each trial."""
    from job.cluster.status import pack_status, status_json, sweep_status
    from job.cluster.watch import print_status, watch_status
    from job.folder.storage import open_folder
    from job.results.json_output import print_json

    folder = open_folder(sweep)
    if watch:
        with contextlib.suppress(TryAgain):
            note_without_grid(folder)
        watch_status(folder, json)
        return
    found, pack = sweep_status(folder), pack_status(folder)
    note_without_grid(folder)
    if json:
        print_json("status", folder, status_json(found, pack))
    else:
        print_status(found, pack)


@command(app, ClusterOptions, ImageOptions)
def manifests(sweep: Sweep, grid: Grid = "", per_trajectory: PerTrajectory = False, race: Race = None,
              **values: Any) -> None:
    """Print Kubernetes Jobs, one per trial.

    Pipe them to `kubectl apply -f -`. The same grid and options give the same Jobs; a changed trial gives a new Job.
    """
    trials = read_trials(sweep, grid)
    if race and not grid:
        from job.folder.storage import open_folder
        from job.training.options import will_race

        will_race(open_folder(sweep), race)
    print_jobs(sweep, trials, per_trajectory, values, race=race)


@command(app, ClusterOptions, ImageOptions)
def rerun(sweep: Sweep, failed: Annotated[bool, typer.Option("--failed", help="The trials that failed.")] = False,
          missing: Annotated[bool, typer.Option(
              "--missing", help="The trials that have no row and that no process is training.")] = False,
          raced: Annotated[bool, typer.Option(
              "--raced", help="The trials that the race stopped; these Jobs train them to their ends.")] = False,
          **values: Any) -> None:
    """Print Kubernetes Jobs for trials to run again.

    Give --failed, --missing or --raced. The names of the Jobs are new, because the earlier Jobs may still exist.
    """
    from job.cluster.status import sweep_status
    from job.folder.grid import known_trials
    from job.folder.storage import open_folder

    if raced == (failed or missing):
        raise typer.BadParameter("--failed, --missing or both are needed, or --raced alone: its Jobs do not race")
    states = [state for on, found in ((failed, ("failed",)), (missing, ("waiting", "paused", "stopped", "interrupted")),
                                      (raced, ("raced",))) if on for state in found]
    folder = open_folder(sweep)
    trials = known_trials(folder)
    found = [item for item in sweep_status(folder) if item.state in states and item.trial in trials]
    note_without_grid(folder)
    if not found:
        note(f"{sweep}: no trial is in the state {' or '.join(states)}; there is nothing to run again")
    print_jobs(sweep, [item.trial for item in found], False, values, f"-r{datetime.now(UTC):%m%d%H%M%S}",
               False if raced else None)


def note_without_grid(folder: "Folder") -> None:
    """Say that a sweep without a grid shows only what has begun; Jobs made from a grid elsewhere leave such a sweep."""
    from job.folder.layout import GRID

    if not folder.exists(GRID):
        note(f"{folder.uri}: there is no {GRID}, so only trials that have begun are known; "
             "`job prepare SOURCE SWEEP --grid GRID` puts it there")


def read_trials(sweep: str, grid: str) -> list[Trial]:
    """Return the trials of a grid, or of the sweep's own."""
    from job.folder.grid import read_grid
    from job.folder.storage import open_folder, split_uri

    if not grid:
        return read_grid(open_folder(sweep))
    folder, name = split_uri(grid)
    return read_grid(open_folder(folder), name)


def print_jobs(sweep: str, trials: Sequence[Trial], per_trajectory: bool, values: dict[str, Any], suffix: str = "",
               race: bool | None = None) -> None:
    """Print the Jobs as YAML, and a warning on standard error if the image has no digest."""
    from job.cluster.manifests import to_yaml, trial_jobs
    from job.folder.storage import refuse_key

    for value in (sweep, *values.values()):
        refuse_key(str(value))
    options, images = make(ClusterOptions, given(values, ClusterOptions)), image_options(values)
    # Jobs of a sweep that a variable names are for kustomize, which sets the image too.
    if "@sha256:" not in options.image and "$(" not in sweep:
        note(f"{options.image} has no digest (NAME@sha256:...): the rows will not identify the program that wrote them")
    groups = trajectories(trials) if per_trajectory else [[trial] for trial in trials]
    print(to_yaml(trial_jobs(sweep.rstrip("/"), groups, options, images, suffix, race)), end="")


@command(app)
def tensorboard(sweep: Sweep, host: Annotated[str, typer.Option(
                    help="Address to listen on; 0.0.0.0: all addresses.")] = "localhost",
                port: Annotated[int, typer.Option(help="Port to listen on, up to 65535; 0: a free one.",
                                                  **number(int, 0, 65535))] = 6006,
                ) -> None:
    """Watch the sweep in TensorBoard.

    Copies its events to the local disk as they arrive, and serves them.
    """
    from job.cluster.board import serve
    from job.folder.storage import open_folder

    serve(open_folder(sweep), host, port, say)
