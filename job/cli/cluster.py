"""Commands about a sweep in a cluster: status, manifests, rerun, tensorboard."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from job.cli.options import Grid, PerTrajectory, Sweep, add_options, given, image_options, make
from job.cluster.options import ClusterOptions
from job.trial import ImageOptions, Trial, trajectories

app = typer.Typer()


@app.command()
def status(sweep: Sweep, watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until every trial has "
                                                             "ended.")] = False) -> None:
    """Show what each trial is doing."""
    from job.cluster.status import pack_status, print_status, sweep_status, watch_status
    from job.folder.storage import open_folder

    folder = open_folder(sweep)
    if watch:
        watch_status(folder)
    else:
        print_status(sweep_status(folder), pack_status(folder))


@add_options(app, ClusterOptions, ImageOptions)
def manifests(sweep: Sweep, grid: Grid = "", per_trajectory: PerTrajectory = False, **values: Any) -> None:
    """Print Kubernetes Jobs, one a trial.

    Pipe them to `kubectl apply -f -`. The same grid and options give the same Jobs; a changed trial is another Job.
    """
    print_jobs(sweep, read_trials(sweep, grid), per_trajectory, values, "")


@add_options(app, ClusterOptions, ImageOptions)
def rerun(sweep: Sweep, failed: Annotated[bool, typer.Option("--failed", help="Of trials that failed.")] = False,
          missing: Annotated[bool, typer.Option("--missing", help="Of trials that have no row, and at which nobody is at "
                                                "work.")] = False, **values: Any) -> None:
    """Print Kubernetes Jobs of trials to run again.

    Their names differ from those of the Jobs before, which may still stand.
    """
    from job.cluster.status import sweep_status
    from job.folder.storage import open_folder

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
    from job.folder.grid import read_grid
    from job.folder.storage import open_folder, split_uri

    if not grid:
        return read_grid(open_folder(sweep))
    folder, name = split_uri(grid)
    return read_grid(open_folder(folder), name)


def print_jobs(sweep: str, trials: Sequence[Trial], per_trajectory: bool, values: dict[str, Any], suffix: str) -> None:
    """Print the Jobs as YAML, and on standard error what to know about the image."""
    from job.cluster.manifests import to_yaml, trial_jobs

    options, images = make(ClusterOptions, given(values, ClusterOptions)), image_options(values)
    if "@sha256:" not in options.image:
        print(f"job: {options.image} is not pinned by its digest: a row will not tell which program made it", file=sys.stderr)
    groups = trajectories(trials) if per_trajectory else [[trial] for trial in trials]
    print(to_yaml(trial_jobs(sweep.rstrip("/"), groups, options, images, suffix)), end="")


@app.command()
def tensorboard(sweep: Sweep, host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: every one.")] = "localhost",
                port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=65535)] = 6006) -> None:
    """Watch the sweep in TensorBoard.

    Mirrors its events to the local disk as they come, and serves them.
    """
    from job.cluster.board import serve
    from job.folder.storage import open_folder

    serve(open_folder(sweep), host, port, lambda text: print(text, flush=True))
