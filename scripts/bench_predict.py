"""`job predict` against its decoding alone, on thousands of drawn images, and the memory that it takes."""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from bench_run import JOB, report, run, run_measured
from PIL import Image

SETTINGS = ("--lr", 0.01, "--epochs", 1, "--batch-size", 32, "--weights", "none")
# Images for a bundle on one core: names on a command line.
MOST_FOR_BUNDLE = 500
# In a process of its own, as `job predict` is.
DECODE = ("import sys; from job.data.named import images_named; from job.data.stream import decoded; "
          "print(sum(1 for _ in decoded(images_named(sys.argv[1:]), 256)))")


def predict(num: Annotated[int, typer.Option(help="Images to predict: copies of the drawn ones.", min=1)] = 10_000,
            drawn: Annotated[int, typer.Option(help="Images that are drawn.", min=60)] = 300,
            enlarged: Annotated[int, typer.Option(help="Factor by which the images are enlarged.", min=1)] = 1,
            image_size: Annotated[int, typer.Option(help="Pixels that the model takes.", min=40)] = 64,
            rounds: Annotated[int, typer.Option(help="Turns of each; medians are printed.", min=1)] = 3) -> None:
    """Predicting: images per second of ResNet18, of its decoding alone, and GiB of the largest process.

    They run in turns, so that a machine that slows down slows both. `share` is the median of the rounds' ratios, from
    start to end; `share_without_start` leaves out what predicting and decoding one image take.
    """
    with tempfile.TemporaryDirectory() as folder:
        images, sweep, copies = (Path(folder) / name for name in ("images", "sweep", "copies"))
        run("sample", images, "--num", drawn)
        run("prepare", images, sweep)
        run("train", sweep, "--trial", 1, "--image-size", image_size, *SETTINGS)
        copy(images, copies, num, enlarged)
        one = next(copies.iterdir())
        command = ("predict", sweep, "--trial", 1, "--output", Path(folder) / "found.csv")
        starts = run(*command, one), decode(one)
        run("export", sweep, Path(folder) / "bundle", "--trial", 1, "--no-samples")
        bundle(Path(folder) / "bundle", sweep, sorted(copies.iterdir())[:MOST_FOR_BUNDLE], image_size)
        found = [(*run_measured(*command, copies), decode(copies)) for _ in range(rounds)]
    predicting, memory, decoding = ([turn[place] for turn in found] for place in range(3))
    report("predict", num_images=num, enlarged=enlarged, image_size=image_size, rounds=rounds,
           images_a_second=round(num / statistics.median(predicting), 1),
           decoded_a_second=round(num / statistics.median(decoding), 1),
           share=round(statistics.median(alone / whole for whole, _, alone in found), 3),
           share_without_start=round(statistics.median((alone - starts[1]) / (whole - starts[0])
                                                       for whole, _, alone in found), 3),
           start_seconds=round(starts[0], 1), memory_GiB=round(max(memory), 2))


def bundle(folder: Path, sweep: Path, images: Sequence[Path], image_size: int) -> None:
    """Report images per second of a bundle's predict.py and of `job predict`, each on one core, without its start."""
    commands = {"predict.py of the bundle": (sys.executable, folder / "predict.py"),
                "job predict": (*JOB, "predict", sweep, "--trial", 1)}
    for who, command in commands.items():
        few, many = (on_one_core(*command, *some) for some in (images[:1], images))
        report("bundle", who=who, images_a_second=round((len(images) - 1) / (many - few), 1), num_images=len(images),
               start_seconds=round(few, 1), image_size=image_size)


def on_one_core(*command: object) -> float:
    """Run a program on one core; return its seconds."""
    core = min(os.sched_getaffinity(0))
    began = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    return time.perf_counter() - began


def copy(source: Path, target: Path, num: int, enlarged: int) -> None:
    """Give the images of a folder other names, in turn, until there are so many; enlarged ones are written first."""
    target.mkdir()
    files = sorted(source.rglob("*.jpg"))
    if enlarged > 1:
        for path in files:
            with Image.open(path) as image:
                image.resize((image.width * enlarged, image.height * enlarged)).save(path, quality=90)
    for number, path in zip(range(num), itertools.cycle(files)):
        (target / f"{number:06d}.jpg").hardlink_to(path)


def decode(images: Path) -> float:
    """Decode these images as `job predict` does, with as many processes; return the seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", DECODE, str(images)], check=True, stdout=subprocess.DEVNULL,
                   env={**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"]})
    return time.perf_counter() - began
