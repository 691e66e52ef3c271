"""Measure this program against what people use instead, on the same pictures and machine: one command a table.

Each result is a line of JSON with commit and hardware; benchmarks.md records them. Run it on an otherwise idle machine.

"""
import copy
import csv
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import resnet18

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from job.data.decode import decode
from job.data.pack import read_passport
from job.data.shards import num_cores
from job.storage import open_folder
from job.training.host import git_commit
from job.training.model import cpu_facts
from job.trial import Trial, format_grid

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__)
Source = Annotated[str, typer.Argument(metavar="SOURCE", help="Pictures: a folder of class folders, or a CSV of labels.")]
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The first study's trials: learning rate, epochs; its batch size was 4.
STUDY = [(1, 5), (0.1, 10), (0.01, 15), (0.01, 20), (0.01, 25), (0.01, 50), (0.01, 75), (0.01, 90)]


def report(table: str, **figures: Any) -> None:
    """Print one result, with what it was measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_facts().get("model name", platform.machine())
    print(json.dumps({"table": table, **figures, "commit": git_commit()[:12], "device": device, "cores": num_cores(),
                      "torch": torch.__version__}), flush=True)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Files and labels, opened and transformed anew each time, as the study's ImageFolder did."""

    def __init__(self, folder: Path, names: Sequence[str], labels: Sequence[int], transform: Any) -> None:
        self.folder, self.names, self.labels, self.transform = folder, names, labels, transform

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.folder / self.names[index]) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


def study_trial(loaders: dict[str, DataLoader[Any]], num_classes: int, lr: float, epochs: int) -> float:
    """The study's loop for one trial, as PyTorch's transfer learning tutorial has it; answers the best validation accuracy."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = resnet18()
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    model = model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    best, best_weights = 0.0, copy.deepcopy(model.state_dict())
    for _ in range(epochs):
        for phase in ("train", "val"):
            model.train(phase == "train")
            running_loss, correct = 0.0, 0
            for inputs, labels in loaders[phase]:
                inputs, labels = inputs.to(device), labels.to(device)  # noqa: PLW2901 - as people write it
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    loss = criterion(outputs, labels)
                    if phase == "train":
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)
                correct += int((outputs.argmax(1) == labels).sum())
            if phase == "train":
                scheduler.step()
            accuracy = correct / len(loaders[phase].dataset)  # type: ignore[arg-type]
            if phase == "val" and accuracy > best:
                best, best_weights = accuracy, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    return best


def study_loaders(sweep: Path, source: Path) -> tuple[dict[str, DataLoader[Any]], int]:
    """Loaders over the very split that the sweep's pack has."""
    passport = read_passport(open_folder(str(sweep)))
    assert passport
    found: dict[str, list[tuple[str, int]]] = {"train": [], "val": []}
    with (sweep / "pack" / passport.table["name"]).open(newline="") as file:
        for line in csv.DictReader(file):
            if line["split"] in found:
                found[line["split"]].append((line["picture"], passport.classes.index(line["label"])))
    end = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
    how = {"train": transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *end]),
           "val": transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *end])}
    folder = source if source.is_dir() else source.parent
    pictures = {phase: Pictures(folder, [n for n, _ in of], [k for _, k in of], how[phase]) for phase, of in found.items()}
    loaders = {phase: DataLoader(of, batch_size=4, shuffle=True, num_workers=min(4, num_cores())) for phase, of in pictures.items()}
    return loaders, len(passport.classes)


@app.command()
def grid(source: Source, positive: Annotated[str, typer.Option(help="This class against all the others.")] = "",
         divide: Annotated[int, typer.Option(help="Divide the study's epochs by this, rounding up.", min=1)] = 1,
         most: Annotated[int, typer.Option(help="Take so many pictures of each class at most; 0: all.", min=0)] = 0) -> None:
    """The study's eight-trial grid, end to end: its loop, each trial on its own, against `job sweep`.

    Both at 224 pixels and batch 4 from random weights, on the same split; ours prepares, trains and gathers, as a user would.
    """
    trials = [(lr, -(-epochs // divide)) for lr, epochs in STUDY]
    with tempfile.TemporaryDirectory() as folder:
        pictures, sweep = choose(Path(source), most, Path(folder) / "pictures"), Path(folder) / "sweep"
        lines = [Trial(trial=str(number), lr=lr, epochs=epochs, batch_size=4, weights="none")
                 for number, (lr, epochs) in enumerate(trials, 1)]
        (Path(folder) / "grid.csv").write_text(format_grid(lines))
        began = time.perf_counter()
        command = [sys.executable, "-m", "job.cli", "sweep", "--images", str(pictures), "--positive", positive,
                   "--grid", f"{folder}/grid.csv", str(sweep)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        ours = time.perf_counter() - began
        rows = [json.loads((sweep / "trials" / trial.trial / "row.json").read_text()) for trial in lines]
        trained = sum(row["epochs_run"] for row in rows if not row["trained_by"])
        report("grid", who="job sweep", seconds=round(ours, 1), epochs_asked=sum(e for _, e in trials), epochs_trained=trained,
               seconds_an_epoch=round(sum(row["seconds"] for row in rows if not row["trained_by"]) / trained, 2),
               best_val_acc=round(max(row["best_val_acc"] or 0 for row in rows), 4), precision=rows[0]["precision_used"],
               memory_GiB=round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2), num_train=rows[0]["num_train"])
        loaders, num_classes = study_loaders(sweep, pictures)
        began = time.perf_counter()
        best = max(study_trial(loaders, num_classes, lr, epochs) for lr, epochs in trials)
        theirs = time.perf_counter() - began
        report("grid", who="the study's loop", seconds=round(theirs, 1), epochs_trained=sum(e for _, e in trials),
               seconds_an_epoch=round(theirs / sum(e for _, e in trials), 2), best_val_acc=round(best, 4), precision="fp32",
               memory_GiB=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
               times_slower=round(theirs / ours, 2))


def choose(source: Path, most: int, target: Path) -> Path:
    """The source, or a copy of the first pictures of each of its classes."""
    if not most:
        return source
    for label in (path for path in sorted(source.iterdir()) if path.is_dir()):
        for picture in sorted(label.iterdir())[:most]:
            (target / label.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, target / label.name)
    return target


@app.command()
def prepare(source: Source, runs: Annotated[int, typer.Option(help="Of each; medians are told.", min=1)] = 3) -> None:
    """Preparing: pictures a second and core, against a plain loop that opens and resizes with Pillow on one core."""
    files = [path for path in sorted(Path(source).rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".gif")]
    ours, theirs, alone = [], [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "job.cli", "prepare", source, folder], check=True, stdout=subprocess.DEVNULL)
            ours.append(len(files) / (time.perf_counter() - began) / num_cores())
        began = time.perf_counter()
        for path in files:
            with Image.open(path) as image:
                transforms.Resize(256)(image.convert("RGB"))
        theirs.append(len(files) / (time.perf_counter() - began))
        began = time.perf_counter()
        for path in files:
            decode(path.read_bytes(), 256)
        alone.append(len(files) / (time.perf_counter() - began))
    report("prepare", who="job prepare, from its start to its end", pictures_a_second_and_core=round(statistics.median(ours), 1),
           runs=runs, num_pictures=len(files))
    report("prepare", who="its decoder alone, one core", pictures_a_second_and_core=round(statistics.median(alone), 1), runs=runs)
    report("prepare", who="Pillow, one core", pictures_a_second_and_core=round(statistics.median(theirs), 1), runs=runs)


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    app()
