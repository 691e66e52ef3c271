"""Sweeps and epochs of this program against other trainers, on the same images and split."""

import csv
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench_run import ROOT, Source, report, run_measured

from job.data.pack import read_passport
from job.folder.grid import format_grid
from job.folder.storage import open_folder
from job.trial import Trial

Positive = Annotated[str, typer.Option(help="Train this class against all others.")]
Against = Annotated[str, typer.Option(help="Other trainers, separated by commas: study, lightning, timm, fastai.")]
BatchSize = Annotated[int, typer.Option(help="Images per step; the study's batch size is 4.", min=2)]
# The first study's trials: learning rate, epochs.
STUDY = [(1, 5), (0.1, 10), (0.01, 15), (0.01, 20), (0.01, 25), (0.01, 50), (0.01, 75), (0.01, 90)]
PEERS = ("lightning==2.6.6", "timm==1.0.31", "fastai==2.8.12")


@dataclass
class Sweep:
    """A trainer's result for some trials: seconds of the whole command and of each epoch, best accuracy per trial."""

    seconds: float
    epoch_seconds: list[float]
    best_val_accs: list[float]
    memory_GiB: float

    def figures(self) -> dict[str, Any]:
        """Return the figures to report."""
        return {"seconds": round(self.seconds, 1), "epochs_trained": len(self.epoch_seconds),
                "seconds_an_epoch": round(median_epoch(self), 2), "best_val_acc": round(max(self.best_val_accs), 4),
                "best_val_accs": [round(found, 4) for found in self.best_val_accs],
                "memory_GiB": round(self.memory_GiB, 2)}


def median_epoch(found: Sweep) -> float:
    """Return the median seconds of the epochs after the first, which warms up."""
    return statistics.median(found.epoch_seconds[1:])


def link_split(sweep: Path, source: Path, target: Path) -> None:
    """Make the split of the sweep's pack as folders of links: TARGET/train/CLASS/*, TARGET/val/CLASS/*."""
    passport = read_passport(open_folder(str(sweep)))
    assert passport, f"{sweep} has no pack"
    with (sweep / "pack" / passport.table["name"]).open(newline="") as file:
        for line in csv.DictReader(file):
            if line["split"] in ("train", "val"):
                folder = target / line["split"] / line["label"]
                folder.mkdir(parents=True, exist_ok=True)
                (folder / line["image"].replace("/", "_")).symlink_to(source.resolve() / line["image"])


def peers_python(who: str) -> Path:
    """Return this Python if it has the trainer, else that of .venv-peers, which is installed if it is missing."""
    if importlib.util.find_spec(who):
        return Path(sys.executable)
    return environment_with(".venv-peers", [*PEERS, f"torch=={torch.__version__.partition('+')[0]}", "torchvision"])


def environment_with(name: str, packages: Sequence[str]) -> Path:
    """Return the Python of a virtual environment beside .venv that has these packages; it is made if it is missing."""
    folder = ROOT / name
    python, wanted = folder / "bin" / "python", " ".join(packages)
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"bench: installing {wanted} into {name}", file=sys.stderr)
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *packages],
                       check=True)
        stamp.write_text(wanted)
    return python


def our_sweep(source: str, positive: str, trials: list[tuple[float, int]], batch_size: int, sweep: Path) -> Sweep:
    """Run the trials with `job sweep` in a new folder, pack and workbook included, as a user does."""
    sweep.mkdir()
    lines = [Trial(trial=str(number), lr=lr, epochs=epochs, batch_size=batch_size, weights="none")
             for number, (lr, epochs) in enumerate(trials, 1)]
    (sweep / "wanted.csv").write_text(format_grid(lines))
    seconds, memory = run_measured("sweep", "--images", source, "--positive", positive, "--grid",
                                   sweep / "wanted.csv", sweep)
    rows = [json.loads((sweep / "trials" / trial.trial / "row.json").read_text()) for trial in lines]
    epochs = [line for trial, row in zip(lines, rows, strict=True) if not row["trained_by"]
              for line in csv.DictReader((sweep / "trials" / trial.trial / "epochs.csv").open(newline=""))]
    return Sweep(seconds, [float(line["train_seconds"]) + float(line["val_seconds"]) for line in epochs],
                 [row["best_val_acc"] or 0 for row in rows], memory)


def their_sweep(who: str, split: Path, trials: list[tuple[float, int]], batch_size: int) -> Sweep:
    """Run the trials with another trainer, each trial on its own, on folders of images."""
    python = sys.executable if who == "study" else peers_python(who)
    command = [str(python), str(ROOT / "scripts" / "trainers.py"), who, str(split), "--batch-size", str(batch_size)]
    # What scripts/bench.py sets for this program is not what others have.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    began = time.perf_counter()
    done = subprocess.run([*command, *(f"{lr},{epochs}" for lr, epochs in trials)], check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, env=environment)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Sweep(time.perf_counter() - began, found["epoch_seconds"], found["best_val_accs"], found["memory_GiB"])


def grid(source: Source, positive: Positive = "",
         divide: Annotated[int, typer.Option(help="Divide the study's epochs by this, rounding up.", min=1)] = 1,
         batch_size: BatchSize = 4, against: Against = "study") -> None:
    """The study's grid of eight trials, end to end, against other trainers, which train each trial on its own.

    All trainers use 224 pixels, random weights and the same split. `job sweep` prepares, trains and gathers, as for a
    user. It runs before and after the others and its mean counts, so that a machine that slows down favours none.
    """
    trials = [(lr, -(-epochs // divide)) for lr, epochs in STUDY]
    asked = sum(epochs for _, epochs in trials)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = [], {}

        def turn(name: str) -> None:
            ours.append(our_sweep(source, positive, trials, batch_size, Path(folder) / name))
            report("grid", who="job sweep", **ours[-1].figures(), epochs_asked=asked, batch_size=batch_size)

        turn("before")
        link_split(Path(folder) / "before", Path(source), Path(folder) / "split")
        for who in filter(None, against.split(",")):
            theirs[who] = their_sweep(who, Path(folder) / "split", trials, batch_size)
            report("grid", who=who, **theirs[who].figures())
        turn("after")
        seconds, epoch = (statistics.mean(figure) for figure in (
            [our.seconds for our in ours], [median_epoch(our) for our in ours]))
        for who, found in theirs.items():
            report("grid", who=who, times_slower=round(found.seconds / seconds, 2),
                   times_slower_an_epoch=round(median_epoch(found) / epoch, 2))


def epochs(source: Source, positive: Positive = "",
           num: Annotated[int, typer.Option(help="Epochs per turn.", min=2)] = 5,
           rounds: Annotated[int, typer.Option(help="Turns per trainer; medians are printed.", min=1)] = 3,
           batch_size: BatchSize = 4, against: Against = "study,lightning,timm,fastai") -> None:
    """An epoch of one trial with its validation, against other trainers, in turns: the median of the rounds' ratios."""
    with tempfile.TemporaryDirectory() as folder:
        split, names = Path(folder) / "split", list(filter(None, against.split(",")))
        seconds: dict[str, list[float]] = {who: [] for who in ("job sweep", *names)}
        for number in range(rounds):
            sweep = Path(folder) / str(number)
            seconds["job sweep"].append(median_epoch(our_sweep(source, positive, [(0.01, num)], batch_size, sweep)))
            if number == 0:
                link_split(sweep, Path(source), split)
            for who in names:
                seconds[who].append(median_epoch(their_sweep(who, split, [(0.01, num)], batch_size)))
        for who, found in seconds.items():
            ratios = [theirs / ours for theirs, ours in zip(found, seconds["job sweep"], strict=True)]
            report("epochs", who=who, seconds_an_epoch=round(statistics.median(found), 2), rounds=rounds,
                   times_slower=round(statistics.median(ratios), 2), least=round(min(ratios), 2),
                   most=round(max(ratios), 2), batch_size=batch_size)
