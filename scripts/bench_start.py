"""The time from the start of `job train` to its first step."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Annotated

import typer
from bench_run import JOB, Source, report, run


def start(source: Source, runs: Annotated[int, typer.Option(help="Runs; medians are printed.", min=1)] = 5,
          sweep: Annotated[str, typer.Option(help="A new s3:// folder to use instead of a local one.")] = "") -> None:
    """The time from `job train` to its first step, and of importing torch and torchvision alone."""
    imports, starts = [], []
    with tempfile.TemporaryDirectory() as folder:
        where = sweep or folder
        run("prepare", source, where)
        for number in range(runs):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import torch, torchvision"], check=True)
            imports.append(time.perf_counter() - began)
            # An empty TMPDIR holds no copy of the pack, so an S3 pack is fetched.
            with tempfile.TemporaryDirectory() as empty:
                environment = {**os.environ, "TMPDIR": empty}
                starts.append(first_step(where, f"start-{time.time_ns()}-{number}", environment))
    report("start", who="import torch, torchvision", seconds=round(statistics.median(imports), 2), runs=runs)
    report("start", who="job train to its first step", seconds=round(statistics.median(starts), 2), runs=runs,
           storage="s3" if sweep else "local")


def first_step(sweep: str, trial: str, environment: dict[str, str]) -> float:
    """Return the seconds until `job train` prints that the trial begins; then stop it."""
    began = time.perf_counter()
    command = [*JOB, "train", sweep, "--trial", trial, "--lr", "0.01", "--epochs", "1", "--weights", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        line = next((line for line in process.stdout if line.startswith(f"trial {trial}  lr")), "")
        took = time.perf_counter() - began
        process.kill()
    assert line, "job train ended before its first step"
    return took
