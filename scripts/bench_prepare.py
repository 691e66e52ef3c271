"""Preparing against a plain loop, and how time and memory grow with the number of images."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from bench_run import Source, report, run, run_measured
from PIL import Image
from torchvision import transforms

from job.data.cores import num_cores
from job.data.image_file.decode import decode


def prepare(source: Source,
            runs: Annotated[int, typer.Option(help="Runs of each; medians are printed.", min=1)] = 3) -> None:
    """Preparing: images per second and core, against a loop that opens and resizes with Pillow on one core."""
    files = [path for path in sorted(Path(source).rglob("*"))
             if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".gif")]
    ours, theirs, alone = [], [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            ours.append(len(files) / run("prepare", source, folder) / num_cores())
        theirs.append(images_a_second(open_with_pillow, files))
        alone.append(images_a_second(lambda path: decode(path.read_bytes(), 256), files))
    for who, found in (("job prepare, from its start to its end", ours), ("its decoder alone, one core", alone),
                       ("Pillow, one core", theirs)):
        report("prepare", who=who, images_a_second_and_core=round(statistics.median(found), 1), runs=runs,
               num_images=len(files))


def open_with_pillow(path: Path) -> None:
    """Open an image and resize it, as a plain loop does."""
    with Image.open(path) as image:
        transforms.Resize(256)(image.convert("RGB"))


def images_a_second(read: Callable[[Path], object], files: list[Path]) -> float:
    """Return the images per second that `read` takes."""
    began = time.perf_counter()
    for path in files:
        read(path)
    return len(files) / (time.perf_counter() - began)


def growth(counts: Annotated[str, typer.Option(
        help="Numbers of images, separated by commas.")] = "1000,10000,100000") -> None:
    """Time per image and memory, of preparing and of an epoch, for growing numbers of small images."""
    for count in map(int, counts.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            source, sweep = Path(folder) / "in", Path(folder) / "sweep"
            draw_noise(source, count)
            preparing, preparing_memory = run_measured("prepare", source, sweep, "--short-side", 46)
            training, training_memory = run_measured(
                "train", sweep, "--trial", 1, "--lr", 0.01, "--epochs", 1, "--batch-size", 128, "--image-size", 40,
                "--weights", "none")
            row = json.loads((sweep / "trials" / "1" / "row.json").read_text())
            report("growth", num_images=count, prepare_milliseconds_an_image=round(1000 * preparing / count, 3),
                   prepare_memory_GiB=round(preparing_memory, 2),
                   train_milliseconds_an_image=round(1000 * row["train_seconds"] / row["num_train"], 3),
                   around_training_seconds=round(training - row["seconds"], 1),
                   train_memory_GiB=round(training_memory, 2))


def draw_noise(target: Path, count: int) -> None:
    """Write small JPEG files, all different, into two class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        folder = target / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        blocks = random.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / f"{number}.jpg")
