"""Everything to measure on a machine with a GPU, in one command."""

import contextlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from bench_run import ROOT, report, run
from bench_start import start
from bench_steps import measure_steps
from bench_trainers import STUDY, link_split, median_epoch, our_sweep, their_sweep
from PIL import Image

from job.folder.grid import format_grid
from job.trial import Trial

# Figure -> its goal, or what was expected of an H100 before any GPU had run this.
GOALS = {
    "steps, batch 4: images/s": "3,000 to 5,000 expected", "steps, batch 256: images/s": "12,000",
    **{f"steps, batch {size}: share of a constant batch": "0.97" for size in (4, 32, 256)},
    "grid: times the study's loop": "40", "epoch: times timm": "1.5", "epoch: times lightning": "1.5"}
MPS = "nvidia-cuda-mps-control"


class Table:
    """The figures, each printed as it is found, and written with its goal as a line of a Markdown table."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines, self.skipped = folder, list[tuple[str, ...]](), list[str]()
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, what: str, value: float, **more: Any) -> None:
        report("gpu", what=what, value=value, **more)
        self.lines.append((what, f"{value:,g}", GOALS.get(what, ""),
                           ", ".join(f"{name} {number}" for name, number in more.items())))

    def skip(self, what: str, reason: str) -> None:
        print(f"bench: skipped {what}: {reason}", file=sys.stderr)
        self.skipped.append(f"{what}: {reason}")

    def write(self) -> None:
        head = ["| what | measured | goal or expectation | besides |", "| --- | --- | --- | --- |"]
        text = "\n".join([*head, *(f"| {' | '.join(line)} |" for line in self.lines), "",
                          *(f"Skipped: {reason}." for reason in self.skipped), ""])
        (self.folder / "gpu.md").write_text(text)
        print(text)


def gpu(out: Annotated[Path, typer.Argument(help="A folder for gpu.md, the table of all figures.")],
        images: Annotated[str, typer.Option(help="Images of the study's grid and the workers; else drawn.")] = "",
        positive: Annotated[str, typer.Option(help="Train this class of them against all others.")] = "",
        divide: Annotated[int, typer.Option(help="Divide the epochs of the other loops by this.", min=1)] = 5,
        dry: Annotated[bool, typer.Option("--dry", help="Tiny sizes, on whatever device there is.")] = False) -> None:
    """Everything to measure on a machine with a GPU: tests, steps, the study's grid, workers, start-up. 10 minutes.

    It needs no network. What the machine lacks (pytest, timm, Lightning, MPS) is skipped and named.
    """
    if not dry and not torch.cuda.is_available():
        raise typer.BadParameter("there is no GPU here; --dry runs everything on the CPU, with tiny sizes")
    table = Table(out)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        test(table, dry)
        few = images or str(draw(folder / "few", 20 if dry else 250))
        steps(table, folder, *((20, [4], 64, 0.1) if dry else (4000, [4, 32, 256], 224, 10)))
        study(table, few, positive, folder, *(([(0.01, 2)], 1) if dry else (STUDY, divide)))
        for num_workers in (2,) if dry else (1, 2, 4, 8):
            workers(table, few, positive, folder, num_workers, *((2, 1, 64) if dry else (8, 12, 224)))
        start(few, runs=1 if dry else 3, sweep="")
    table.write()


def draw(folder: Path, num: int) -> Path:
    """Make images of blurred noise, 300 pixels wide, in two class folders."""
    generator = np.random.default_rng(0)
    for number in range(num):
        path = folder / ("cellphone" if number % 4 == 0 else "other") / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = generator.integers(0, 256, (20, 15, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((300, 400 - number % 90)).save(path)
    return folder


def test(table: Table, dry: bool) -> None:
    """Run the tests of the GPU's path."""
    if dry:
        return table.skip("tests/training/test_gpu.py", "they are about a GPU")
    if not importlib.util.find_spec("pytest"):
        return table.skip("tests/training/test_gpu.py", "pytest is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "tests/training/test_gpu.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (table.folder / "tests.txt").write_text(done.stdout + done.stderr)
    outcome = done.stdout.strip().splitlines()[-1]
    return table.add("tests/training/test_gpu.py: exit code", done.returncode, outcome=outcome)


def steps(table: Table, folder: Path, num_images: int, sizes: list[int], image_size: int, seconds: float) -> None:
    """Measure training steps end to end: as they are, with torch's rendering, and with a pack in host memory."""
    run("prepare", draw(folder / "many", num_images), folder / "pack")
    for size in sizes:
        for form, where in (("", ""), (", torch renders", "render"), (", pack in host memory", "fed")):
            found = measure_steps(folder / "pack", size, seconds, where, image_size)
            if "left_out" in found:
                table.skip(f"steps, batch {size}{form}", found["left_out"])
                continue
            table.add(f"steps, batch {size}{form}: images/s", found["images_a_second"],
                      milliseconds_constant=found["milliseconds"], precision=found["precision"],
                      bottleneck=found["bottleneck"], milliseconds_of=json.dumps(found["milliseconds_of"]))
            table.add(f"steps, batch {size}{form}: share of a constant batch", found["share_of_constant_batch"],
                      share_of_operations=found["share_of_operations"], share_of_bytes=found["share_of_bytes"])


def study(table: Table, source: str, positive: str, folder: Path, trials: list[tuple[float, int]], divide: int) -> None:
    """Run the study's trials, and a part of their epochs with the loops of others; compare them."""
    whole = our_sweep(source, positive, trials, 4, folder / "whole")
    table.add("grid: seconds of job sweep", round(whole.seconds, 1), epochs=len(whole.epoch_seconds),
              seconds_an_epoch=round(median_epoch(whole), 3))
    asked = sum(epochs for _, epochs in trials)
    link_split(folder / "whole", Path(source), folder / "split")
    for who in ("study", "timm", "lightning"):
        if who != "study" and not importlib.util.find_spec(who):
            table.skip(f"grid of {who}", "it is not installed")
            continue
        part = max(2, asked // divide) if who == "study" else 3 + 27 // divide
        theirs = their_sweep(who, folder / "split", [(0.01, part)], 4)
        if who == "study":
            table.add("grid: times the study's loop", round(asked * median_epoch(theirs) / whole.seconds, 1),
                      their_epoch=round(median_epoch(theirs), 2), theirs="extrapolated from its median epoch")
        table.add(f"epoch: times {who}", round(median_epoch(theirs) / median_epoch(whole), 1),
                  their_epoch=round(median_epoch(theirs), 3))


def workers(table: Table, source: str, positive: str, folder: Path, num_workers: int, num_trials: int,
            epochs: int, image_size: int) -> None:
    """Train trials of batch 4 by several processes on one GPU, without and with MPS."""
    for form in ("", " with MPS"):
        if form and (num_workers == 1 or not shutil.which(MPS)):
            if num_workers > 1:
                table.skip(f"{num_workers} workers{form}", f"there is no {MPS}")
            continue
        sweep = folder / f"workers-{num_workers}{form.strip().replace(' ', '-')}"
        trials = [Trial(trial=str(k), lr=0.001 * k, epochs=epochs, batch_size=4, image_size=image_size, weights="none")
                  for k in range(1, num_trials + 1)]
        sweep.mkdir()
        (sweep / "wanted.csv").write_text(format_grid(trials))
        with mps(folder, bool(form)) as variables:
            try:
                seconds = run("sweep", "--images", source, "--positive", positive, "--grid", sweep / "wanted.csv",
                              "--workers", num_workers, sweep, environment={**os.environ, **variables})
            except subprocess.CalledProcessError as error:
                table.skip(f"{num_workers} workers{form}", f"job sweep ended with {error.returncode}")
                continue
        rows = [json.loads((sweep / "trials" / trial.trial / "row.json").read_text()) for trial in trials]
        each = statistics.median(row["images_per_second"] for row in rows)
        table.add(f"{num_workers} workers{form}: images/s of all", round(num_workers * each),
                  seconds_of_the_sweep=round(seconds, 1))


@contextlib.contextmanager
def mps(folder: Path, wanted: bool) -> Iterator[dict[str, str]]:
    """Run NVIDIA's Multi-Process Service, by which kernels of several processes run at the same time, if wanted."""
    if not wanted:
        yield {}
        return
    variables = {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "mps-pipe"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "mps-log")}
    environment = {**os.environ, **variables}
    subprocess.run([MPS, "-d"], env=environment, check=False)
    time.sleep(1)
    try:
        yield variables
    finally:
        subprocess.run([MPS], input="quit\n", text=True, env=environment, check=False, timeout=60)
