"""Train one or more trials with another trainer: the study's loop, Lightning, timm or fastai.

scripts/bench runs it; it prints a line of JSON. All trainers get the same images (FOLDER/train/CLASS/*,
FOLDER/val/CLASS/*), ResNet18 from random weights, 224 pixels, random crop and flip, SGD with momentum 0.9. The study's
loop is unchanged, in fp32. The others run with their fastest settings: bfloat16 and channels_last where they support
them, and one loading process per core.
"""

import argparse
import copy
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Clock:
    """The seconds of each epoch with its validation, and its validation accuracy."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.accuracies: list[float] = []
        self.begun = time.perf_counter()

    def epoch(self, accuracy: float) -> None:
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self.begun)
        self.accuracies.append(accuracy)
        self.begun = now


def folders(folder: Path) -> dict[str, ImageFolder]:
    """Return datasets that open and transform each image every time, as the study does."""
    end = [transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
    how = {"train": transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *end]),
           "val": transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *end])}
    return {phase: ImageFolder(str(folder / phase), of) for phase, of in how.items()}


def study(folder: Path, lr: float, epochs: int, batch_size: int) -> Clock:
    """Train one trial with the study's loop, which is that of PyTorch's transfer learning tutorial."""
    datasets = folders(folder)
    loaders = {phase: DataLoader(of, batch_size=batch_size, shuffle=True, num_workers=min(4, CORES))
               for phase, of in datasets.items()}
    model = resnet18()
    model.fc = nn.Linear(model.fc.in_features, len(datasets["train"].classes))
    model = model.to(DEVICE)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    best, best_weights, clock = 0.0, copy.deepcopy(model.state_dict()), Clock()
    for _ in range(epochs):
        for phase in ("train", "val"):
            model.train(phase == "train")
            running_loss, correct = 0.0, 0
            for inputs, labels in loaders[phase]:
                inputs, labels = inputs.to(DEVICE), labels.to(DEVICE)  # noqa: PLW2901 - as in the tutorial
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
            accuracy = correct / len(datasets[phase])
            if phase == "val" and accuracy > best:
                best, best_weights = accuracy, copy.deepcopy(model.state_dict())
        clock.epoch(accuracy)
    model.load_state_dict(best_weights)
    return clock


def lightning(folder: Path, lr: float, epochs: int, batch_size: int) -> Clock:
    """Train one trial with Lightning's Trainer."""
    import lightning as pl

    datasets, clock = folders(folder), Clock()
    loaders = {phase: DataLoader(of, batch_size=batch_size, shuffle=phase == "train", num_workers=CORES,
                                 persistent_workers=True, pin_memory=DEVICE.type == "cuda")
               for phase, of in datasets.items()}

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = resnet18(num_classes=len(datasets["train"].classes)).to(memory_format=torch.channels_last)
            self.correct = self.seen = 0

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            images, labels = batch
            return nn.functional.cross_entropy(self.model(images.contiguous(memory_format=torch.channels_last)), labels)

        def validation_step(self, batch: Any, _: int) -> None:
            images, labels = batch
            self.correct += int((self.model(images).argmax(1) == labels).sum())
            self.seen += len(labels)

        def on_validation_epoch_end(self) -> None:
            clock.epoch(self.correct / self.seen)
            self.correct = self.seen = 0

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr, 0.9)

    trainer = pl.Trainer(max_epochs=epochs, precision="bf16-mixed", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0)
    clock.begun = time.perf_counter()
    trainer.fit(Module(), loaders["train"], loaders["val"])
    return clock


def timm(folder: Path, lr: float, epochs: int, batch_size: int) -> Clock:
    """Train one trial with timm's model, datasets, loaders and optimizer, in the loop of its train.py.

    The package does not contain train.py, so the loop is written out here.
    """
    import timm
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2

    loaders = {phase: create_loader(
        create_dataset("", str(folder / phase)), (3, 224, 224), batch_size, is_training=phase == "train",
        num_workers=CORES, interpolation="bilinear", mean=MEAN, std=DEVIATION, color_jitter=None, crop_pct=0.875,
        device=DEVICE, use_prefetcher=DEVICE.type == "cuda", persistent_workers=True) for phase in ("train", "val")}
    num_classes = sum(1 for path in (folder / "train").iterdir())
    model = timm.create_model("resnet18", num_classes=num_classes).to(DEVICE, memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="momentum", lr=lr, momentum=0.9, weight_decay=0.0)
    clock = Clock()
    for _ in range(epochs):
        model.train()
        for images, labels in loaders["train"]:
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = nn.functional.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        correct = seen = 0
        for images, labels in loaders["val"]:
            with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16):
                correct += int((model(images).argmax(1) == labels).sum())
            seen += len(labels)
        clock.epoch(correct / seen)
    return clock


def fastai(folder: Path, lr: float, epochs: int, batch_size: int) -> Clock:
    """Train one trial with fastai's Learner, which supports bfloat16 only on a GPU."""
    from fastai.vision import all as fa

    dls = fa.ImageDataLoaders.from_folder(
        folder, train="train", valid="val", bs=batch_size, num_workers=CORES,
        item_tfms=fa.RandomResizedCrop(224, min_scale=0.08),
        batch_tfms=[fa.Flip(), fa.Normalize.from_stats(MEAN, DEVIATION)], device=DEVICE)
    clock = Clock()

    class Timed(fa.Callback):  # type: ignore[misc, name-defined]
        order = 60

        def after_epoch(self) -> None:
            clock.epoch(float(self.learn.recorder.values[-1][-1]))

    learner = fa.Learner(dls, resnet18(num_classes=dls.c), loss_func=fa.CrossEntropyLossFlat(), opt_func=fa.SGD,
                         moms=(0.9,) * 3, metrics=fa.accuracy, cbs=Timed())
    learner = learner.to_channelslast(use_amp=False)
    if DEVICE.type == "cuda":
        learner = learner.to_bf16()
    clock.begun = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fit(epochs, lr)
    return clock


def main() -> None:
    """Train the given trials one after another with one trainer."""
    trainers = {"study": study, "lightning": lightning, "timm": timm, "fastai": fastai}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", choices=trainers)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("trials", nargs="+", metavar="LR,EPOCHS")
    given = parser.parse_args()
    begun, clocks = time.perf_counter(), []
    for trial in given.trials:
        lr, epochs = trial.split(",")
        clocks.append(trainers[given.who](given.folder, float(lr), int(epochs), given.batch_size))
    print(json.dumps({
        "seconds": time.perf_counter() - begun, "epoch_seconds": [s for clock in clocks for s in clock.seconds],
        "best_val_accs": [max(clock.accuracies) for clock in clocks],
        "memory_GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


if __name__ == "__main__":
    main()
