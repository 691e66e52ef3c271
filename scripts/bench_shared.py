"""An epoch on a processor that other programs use too."""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from bench_run import report, run

OURS = "job's default (OMP_WAIT_POLICY=passive)"
# How the threads of OpenMP wait for each other. If OMP_WAIT_POLICY is not set, they spin about 3 ms and then sleep: the
# number of spins is that of libgomp (config env.c), because job sets the variable if it is not set.
WAITING = {OURS: {}, "OpenMP's default": {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "300000"},
           "OMP_WAIT_POLICY=active": {"OMP_WAIT_POLICY": "active"}}
SETTINGS = ("--lr", 0.01, "--epochs", 2, "--batch-size", 8, "--image-size", 64, "--crop", 0.7, "--weights", "none")


def shared(threads: Annotated[int, typer.Option(help="Threads of the training.", min=1)] = 2,
           busy: Annotated[int, typer.Option(help="Busy processes beside it.", min=0)] = 2,
           num: Annotated[int, typer.Option(help="Images that are drawn.", min=20)] = 100,
           rounds: Annotated[int, typer.Option(help="Turns of each; medians are printed.", min=1)] = 3) -> None:
    """An epoch of the demo beside busy processes: threads that spin while they wait, against job's default.

    They train in turns, so that a machine that slows down slows all. The second epoch of each turn counts, with its
    validation; times_slower is the median of the rounds' ratios. On two cores it takes about 15 minutes.
    """
    seconds: dict[str, list[float]] = {who: [] for who in WAITING}
    with tempfile.TemporaryDirectory() as folder:
        images, sweep = Path(folder) / "images", Path(folder) / "sweep"
        run("sample", images, "--num", num)
        run("prepare", images, sweep, "--positive", "phone")
        for number in range(rounds):
            for place, (who, variables) in enumerate(WAITING.items()):
                with busy_processes(busy):
                    seconds[who].append(last_epoch(sweep, f"{number}-{place}", threads, variables))
    for who, found in seconds.items():
        ratios = [other / our for other, our in zip(found, seconds[OURS], strict=True)]
        report("shared", who=who, seconds_an_epoch=round(statistics.median(found), 2), rounds=rounds,
               times_slower=round(statistics.median(ratios), 2), least=round(min(ratios), 2),
               most=round(max(ratios), 2), threads=threads, busy=busy, num_images=num)


def last_epoch(sweep: Path, trial: str, threads: int, variables: dict[str, str]) -> float:
    """Train a trial with these environment variables; return the seconds of its last epoch, validation included."""
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    run("train", sweep, "--trial", trial, *SETTINGS, environment={**kept, "OMP_NUM_THREADS": str(threads), **variables})
    with (sweep / "trials" / trial / "epochs.csv").open(newline="") as file:
        *_, line = csv.DictReader(file)
    return float(line["train_seconds"]) + float(line["val_seconds"])


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run so many processes that compute without a pause, on whatever core the system gives them."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
