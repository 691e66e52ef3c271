"""Run `job` commands, measure them and report the figures: what the benchmarks share."""

import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from job.data.cores import num_cores
from job.training.host import git_commit
from job.training.machine import cpu_facts

ROOT = Path(__file__).resolve().parents[1]
JOB = [sys.executable, "-m", "job"]
Source = Annotated[str, typer.Argument(metavar="SOURCE", help="Images: a folder of class folders.")]


def report(table: str, **figures: Any) -> None:
    """Print one result as a line of JSON, with commit and hardware."""
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else cpu_facts().get("model name", platform.machine())
    print(json.dumps({"table": table, **figures, "commit": git_commit()[:12], "device": device, "cores": num_cores(),
                      "torch": torch.__version__}), flush=True)


def run(*command: object, environment: dict[str, str] | None = None) -> float:
    """Run `job` with these arguments; return its seconds."""
    began = time.perf_counter()
    subprocess.run([*JOB, *map(str, command)], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - began


def run_measured(*command: object) -> tuple[float, float]:
    """Run `job` with these arguments; return its seconds and the GiB of the largest of its processes."""
    began = time.perf_counter()
    # A small process starts it: a new process's peak includes the size of its parent, and torch makes this one large.
    measure = ("import resource, subprocess, sys; "
               "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
               "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    done = subprocess.run([sys.executable, "-S", "-c", measure, *JOB, *map(str, command)], check=True,
                          stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - began, int(done.stdout) / 2**20
