"""Measure this program against what people use instead, on the same images and machine: one command a table.

Each result is a line of JSON with commit and hardware; benchmarks.md records them. Run it on an otherwise idle machine.
"""

import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from torchvision import transforms

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench_steps import measure_steps

from job.data.cores import num_cores
from job.data.decode import decode
from job.data.pack import read_passport
from job.folder.grid import format_grid
from job.folder.storage import open_folder
from job.training.host import git_commit
from job.training.machine import cpu_facts
from job.trial import Trial

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__)
Source = Annotated[str, typer.Argument(metavar="SOURCE", help="Images: a folder of class folders.")]
Positive = Annotated[str, typer.Option(help="This class against all the others.")]
# The first study's trials: learning rate, epochs; its batch size was 4.
STUDY = [(1, 5), (0.1, 10), (0.01, 15), (0.01, 20), (0.01, 25), (0.01, 50), (0.01, 75), (0.01, 90)]
PEERS = ("lightning==2.6.6", "timm==1.0.31", "fastai==2.8.12")
JOB = [sys.executable, "-m", "job"]


def report(table: str, **figures: Any) -> None:
    """Print one result, with what it was measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_facts().get("model name", platform.machine())
    print(json.dumps({"table": table, **figures, "commit": git_commit()[:12], "device": device, "cores": num_cores(),
                      "torch": torch.__version__}), flush=True)


def run(*command: object) -> float:
    """Run `job` with these arguments; answers its seconds."""
    began = time.perf_counter()
    subprocess.run([*JOB, *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def split_lines(sweep: Path) -> list[dict[str, str]]:
    """The table of a sweep's pack."""
    passport = read_passport(open_folder(str(sweep)))
    assert passport, f"{sweep} has no pack"
    with (sweep / "pack" / passport.table["name"]).open(newline="") as file:
        return list(csv.DictReader(file))


def link_split(sweep: Path, source: Path, target: Path) -> None:
    """The very split of the sweep's pack as folders of links: TARGET/train/CLASS/*, TARGET/val/CLASS/*."""
    for line in split_lines(sweep):
        if line["split"] in ("train", "val"):
            folder = target / line["split"] / line["label"]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / line["image"].replace("/", "_")).symlink_to(source.resolve() / line["image"])


def peers_python() -> Path:
    """The Python of an environment with the other trainers, made beside .venv where it is missing."""
    folder = ROOT / ".venv-peers"
    python, wanted = folder / "bin" / "python", " ".join([*PEERS, torch.__version__])
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        print("bench: installing Lightning, timm and fastai into .venv-peers", file=sys.stderr)
        uv = Path(sys.executable).parent / "uv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)], check=True)
        subprocess.run([str(uv), "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *PEERS,
                        f"torch=={torch.__version__.partition('+')[0]}", "torchvision"], check=True)
        stamp.write_text(wanted)
    return python


@dataclass
class Sweep:
    """What a trainer made of some trials: its command's seconds, each epoch's with its validation, each trial's best accuracy."""

    seconds: float
    epoch_seconds: list[float]
    best_val_accs: list[float]
    memory_GiB: float

    def figures(self) -> dict[str, Any]:
        """As reported."""
        return {"seconds": round(self.seconds, 1), "epochs_trained": len(self.epoch_seconds),
                "seconds_an_epoch": round(median_epoch(self), 2), "best_val_acc": round(max(self.best_val_accs), 4),
                "best_val_accs": [round(found, 4) for found in self.best_val_accs], "memory_GiB": round(self.memory_GiB, 2)}


def our_sweep(source: str, positive: str, trials: list[tuple[float, int]], batch_size: int, sweep: Path) -> Sweep:
    """The trials by `job sweep` in a new folder, pack and workbook included, as a user would."""
    sweep.mkdir()
    lines = [Trial(trial=str(number), lr=lr, epochs=epochs, batch_size=batch_size, weights="none")
             for number, (lr, epochs) in enumerate(trials, 1)]
    (sweep / "wanted.csv").write_text(format_grid(lines))
    seconds, memory = run_measured("sweep", "--images", source, "--positive", positive, "--grid", sweep / "wanted.csv", sweep)
    rows = [json.loads((sweep / "trials" / trial.trial / "row.json").read_text()) for trial in lines]
    epochs = [line for trial, row in zip(lines, rows, strict=True) if not row["trained_by"]
              for line in csv.DictReader((sweep / "trials" / trial.trial / "epochs.csv").open(newline=""))]
    return Sweep(seconds, [float(line["train_seconds"]) + float(line["val_seconds"]) for line in epochs],
                 [row["best_val_acc"] or 0 for row in rows], memory)


def their_sweep(who: str, split: Path, trials: list[tuple[float, int]], batch_size: int) -> Sweep:
    """The trials by another trainer, each on its own, on folders of images."""
    python = sys.executable if who == "study" else peers_python()
    command = [str(python), str(ROOT / "scripts" / "trainers.py"), who, str(split), "--batch-size", str(batch_size)]
    began = time.perf_counter()
    done = subprocess.run([*command, *(f"{lr},{epochs}" for lr, epochs in trials)], check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Sweep(time.perf_counter() - began, found["epoch_seconds"], found["best_val_accs"], found["memory_GiB"])


Against = Annotated[str, typer.Option(help="Whom: some of study, lightning, timm, fastai, with commas.")]
BatchSize = Annotated[int, typer.Option(help="The study's was 4.", min=2)]


@app.command()
def grid(source: Source, positive: Positive = "",
         divide: Annotated[int, typer.Option(help="Divide the study's epochs by this, rounding up.", min=1)] = 1,
         batch_size: BatchSize = 4, against: Against = "study") -> None:
    """The study's eight-trial grid, end to end, against other trainers, which run each trial on its own.

    All at 224 pixels from random weights, on the same split; ours prepares, trains and gathers, as a user would. It runs
    before and after the others, and counts with its mean, so that a machine that slows down favours none.
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
        for who, found in theirs.items():
            report("grid", who=who, times_slower=round(found.seconds / statistics.mean(our.seconds for our in ours), 2),
                   times_slower_an_epoch=round(median_epoch(found) / statistics.mean(map(median_epoch, ours)), 2))


@app.command()
def epochs(source: Source, positive: Positive = "", num: Annotated[int, typer.Option(help="Epochs a turn.", min=2)] = 5,
           rounds: Annotated[int, typer.Option(help="Turns of each; medians are told.", min=1)] = 3,
           batch_size: BatchSize = 4, against: Against = "study,lightning,timm,fastai") -> None:
    """An epoch of one trial, with its validation, against other trainers, in turns: the median of each round's ratio."""
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
                   times_slower=round(statistics.median(ratios), 2), least=round(min(ratios), 2), most=round(max(ratios), 2),
                   batch_size=batch_size)


def median_epoch(found: Sweep) -> float:
    """Of the epochs after the command's first, which warms up."""
    return statistics.median(found.epoch_seconds[1:])


@app.command()
def steps(source: Source, sizes: Annotated[str, typer.Option(help="Batch sizes, with commas.")] = "4,32,256",
          seconds: Annotated[float, typer.Option(help="To train for at each size, about.", min=1)] = 30) -> None:
    """A training step end to end as a share of the same step on a constant batch, and that as a share of the hardware's limit.

    Both take turns in chunks of steps, so that a machine that slows down slows both.
    """
    with tempfile.TemporaryDirectory() as folder:
        run("prepare", source, folder)
        for batch_size in map(int, sizes.split(",")):
            report("steps", batch_size=batch_size, **measure_steps(Path(folder), batch_size, seconds))


@app.command()
def prepare(source: Source, runs: Annotated[int, typer.Option(help="Of each; medians are told.", min=1)] = 3) -> None:
    """Preparing: images a second and core, against a plain loop that opens and resizes with Pillow on one core."""
    files = [path for path in sorted(Path(source).rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".gif")]
    ours, theirs, alone = [], [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            ours.append(len(files) / run("prepare", source, folder) / num_cores())
        began = time.perf_counter()
        for path in files:
            with Image.open(path) as image:
                transforms.Resize(256)(image.convert("RGB"))
        theirs.append(len(files) / (time.perf_counter() - began))
        began = time.perf_counter()
        for path in files:
            decode(path.read_bytes(), 256)
        alone.append(len(files) / (time.perf_counter() - began))
    report("prepare", who="job prepare, from its start to its end", images_a_second_and_core=round(statistics.median(ours), 1),
           runs=runs, num_images=len(files))
    report("prepare", who="its decoder alone, one core", images_a_second_and_core=round(statistics.median(alone), 1), runs=runs)
    report("prepare", who="Pillow, one core", images_a_second_and_core=round(statistics.median(theirs), 1), runs=runs)


@app.command()
def growth(counts: Annotated[str, typer.Option(help="Numbers of images, with commas.")] = "1000,10000,100000") -> None:
    """Time an image and memory of preparing and of an epoch, for more and more small images."""
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
                   around_training_seconds=round(training - row["seconds"], 1), train_memory_GiB=round(training_memory, 2))


def run_measured(*command: object) -> tuple[float, float]:
    """Seconds of a `job` command, and the GiB of the largest of its processes."""
    began = time.perf_counter()
    # By a small process between, because a new process's peak begins with its parent's size, and torch is large.
    measure = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
               "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    done = subprocess.run([sys.executable, "-S", "-c", measure, *JOB, *map(str, command)], check=True, stdout=subprocess.PIPE,
                          text=True)
    return time.perf_counter() - began, int(done.stdout) / 2**20


def draw_noise(target: Path, count: int) -> None:
    """Small JPEG files, all different, in two class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        folder = target / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        blocks = random.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / f"{number}.jpg")


@app.command()
def start(source: Source, runs: Annotated[int, typer.Option(help="Medians are told.", min=1)] = 5,
          sweep: Annotated[str, typer.Option(help="A new s3:// folder to use; else a local one.")] = "") -> None:
    """The time from `job train` to its first step, and of importing torch and torchvision alone."""
    imports, starts = [], []
    with tempfile.TemporaryDirectory() as folder:
        where = sweep or folder
        run("prepare", source, where)
        for number in range(runs):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import torch, torchvision"], check=True)
            imports.append(time.perf_counter() - began)
            # A machine that has not seen the pack yet fetches it.
            with tempfile.TemporaryDirectory() as empty:
                starts.append(first_step(where, f"start-{time.time_ns()}-{number}", {**os.environ, "TMPDIR": empty}))
    report("start", who="import torch, torchvision", seconds=round(statistics.median(imports), 2), runs=runs)
    report("start", who="job train to its first step", seconds=round(statistics.median(starts), 2), runs=runs,
           storage="s3" if sweep else "local")


def first_step(sweep: str, trial: str, environment: dict[str, str]) -> float:
    """Seconds until `job train` says that it begins; it is then ended."""
    began = time.perf_counter()
    command = [*JOB, "train", sweep, "--trial", trial, "--lr", "0.01", "--epochs", "1", "--weights", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        line = next((line for line in process.stdout if line.startswith(f"trial {trial}  lr")), "")
        took = time.perf_counter() - began
        process.kill()
    assert line, "job train never began"
    return took


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(ROOT)
    app()
