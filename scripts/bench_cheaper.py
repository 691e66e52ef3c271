"""Cheaper epochs: smaller images in training, and the features of a frozen backbone once for all trials."""

import itertools
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from bench_run import Source, report, run
from torchvision.models import resnet18

from job.folder.grid import format_grid
from job.folder.layout import read_epochs, read_row
from job.folder.storage import Folder, open_folder
from job.training.exact import mcnemar
from job.trial import Trial

RATIOS = (1.0, 0.875, 0.79, 0.71)
# Where no image flips, but the program cannot know that.
RARELY = 1e-12


def train_size(num: Annotated[int, typer.Option(help="Images that are drawn.", min=60)] = 2500,
               source: Annotated[str, typer.Option(help="A folder of class folders instead of drawn images.")] = "",
               image_size: Annotated[int, typer.Option(help="Pixels of validation.", min=60)] = 96,
               num_epochs: Annotated[int, typer.Option("--epochs", help="Epochs per trial.", min=2)] = 8,
               seeds: Annotated[int, typer.Option(help="Seeds per size.", min=1)] = 3) -> None:
    """Smaller images in training: seconds per epoch and validation accuracy for sizes of 1 to 0.71 of validation's.

    The sizes of a seed follow each other, and their epochs are compared by the median. Accuracy is compared image by
    image over all seeds, by the exact McNemar test against training at full size.
    """
    sizes = {ratio: round(image_size * ratio) for ratio in RATIOS}
    plain = Trial(image_size=image_size, epochs=num_epochs, batch_size=32, weights="none", schedule="cosine", lr=0.02,
                  warmup=0.5, crop=0.25)
    trials = [replace(plain, trial=f"{ratio}-{seed}", seed=seed, train_size=size if ratio < 1 else 0)
              for seed in range(seeds) for ratio, size in sizes.items()]
    with tempfile.TemporaryDirectory() as folder:
        images, grid, sweep = (Path(folder) / name for name in ("images", "grid.csv", "sweep"))
        if not source:
            run("sample", images, "--num", num)
        grid.write_text(format_grid(trials))
        run("sweep", "--images", source or images, "--val", 0.4, "--grid", grid, sweep)
        found = open_folder(str(sweep))
        whole = right_of(found, 1.0, seeds)
        whole_seconds = seconds_of(found, 1.0, seeds)
        for ratio, size in sizes.items():
            right, seconds = right_of(found, ratio, seeds), seconds_of(found, ratio, seeds)
            lost, won = int((whole & ~right).sum()), int((~whole & right).sum())
            rows = [read_row(found, f"{ratio}-{seed}") for seed in range(seeds)]
            report("train-size", image_size=image_size, train_size=size, ratio=ratio, seeds=seeds, epochs=num_epochs,
                   num_val=len(right) // seeds, seconds_an_epoch=round(seconds, 2),
                   speed=round(whole_seconds / seconds, 2), val_acc=round(float(right.mean()), 4),
                   val_accs=[round(row.best_val_acc or 0.0, 4) for row in rows if row],
                   test_accs=[round(row.test_acc or 0.0, 4) for row in rows if row],
                   only_full_size_right=lost, only_smaller_right=won, p=round(mcnemar(lost, won), 4))


def right_of(sweep: Folder, ratio: float, seeds: int) -> "pd.Series[bool]":
    """Return which validation images the trials of a ratio have right, seed after seed."""
    tables = [pd.read_csv(Path(sweep.uri) / "trials" / f"{ratio}-{seed}" / "predictions.csv") for seed in range(seeds)]
    tables = [table[table["split"] == "val"].sort_values("image") for table in tables]
    return pd.concat([table["label"] == table["predicted"] for table in tables], ignore_index=True)


def seconds_of(sweep: Folder, ratio: float, seeds: int) -> float:
    """Return the median seconds of training per epoch; the first one of each trial warms up."""
    epochs = [read_epochs(sweep, f"{ratio}-{seed}")[1:] for seed in range(seeds)]
    return statistics.median(epoch.train_seconds or 0.0 for epoch in itertools.chain(*epochs))


def features(source: Source,
             positive: Annotated[str, typer.Option(help="Train this class against all others.")] = "",
             image_size: Annotated[int, typer.Option(help="Pixels.", min=40)] = 224,
             without: Annotated[int, typer.Option(help="Trials that are trained on images.", min=1)] = 2) -> None:
    """Features once: 20 linear probes of 25 epochs in one sweep, and some of them on images, as before.

    Seconds are those of the whole command, with packing and start; `times` is by trial, without both.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights, grid = (Path(folder) / name for name in ("r18.pt", "grid.csv"))
        torch.manual_seed(0)
        torch.save(resnet18().state_dict(), weights)
        plain = Trial(image_size=image_size, weights=str(weights), freeze=True, crop=0, flip=0)
        trials = [replace(plain, trial=f"{number}", lr=lr, batch_size=batch_size) for number, (lr, batch_size) in
                  enumerate(itertools.product((0.1, 0.03, 0.01, 0.003, 0.001), (4, 8, 16, 32)), 1)]
        images = ("--images", source, *(("--positive", positive) if positive else ()))
        seconds = {}
        for name, chosen, flip in (("features", trials, 0.0), ("images", trials[:without], RARELY)):
            grid.write_text(format_grid([replace(trial, flip=flip) for trial in chosen]))
            sweep = Path(folder) / name
            start = run("prepare", *images[1:], sweep)
            seconds[name] = run("sweep", "--grid", grid, sweep), start
        whole, start = seconds["features"]
        each = seconds["images"][0] / without
        report("features", image_size=image_size, trials=len(trials), seconds=round(whole + start, 1),
               prepare_seconds=round(start, 1), trials_on_images=without, seconds_a_trial_on_images=round(each, 1),
               times=round(len(trials) * each / whole, 1))
