"""What a user asks for: a `Trial` (one line of the grid) and `ImageOptions` (how images become a pack).

Every default is defined here, once; grid columns, options, rows and workbook columns follow from the fields.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from job.models import CLASSIFIERS, MLP, OF_ANY_SIZE, RESNETS, listed, refuse_size, refuse_too_many, refuse_unknown

# User info, or a query that signs: what no grid, row or log may hold.
KEY_IN_URI = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://([^/?]*@|[^/]*:[^/]*/.*@|[^?]*\?[^=]*=)", re.IGNORECASE)
# A trial's name becomes a folder, a sheet of the workbook and a part of a Kubernetes name.
NAME_PATTERN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,38}[A-Za-z0-9])?")
MONITORS = {"val_loss": "min", "val_acc": "max", "train_loss": "min", "train_acc": "max"}
AUGMENTATION = ("crop", "flip", "flip_up", "rotation", "shift", "noise", "blur")
MODES = ("auto", "min", "max")
HIDDEN_PATTERN = re.compile(r"[1-9][0-9]{0,4}(-[1-9][0-9]{0,4}){0,99}")


def option(default: Any, help: str, *, least: float | None = None, most: float | None = None,
           above: float | None = None, choices: Sequence[str] = ()) -> Any:
    """Return a dataclass field with its help text and its allowed values."""
    rule = {"help": help, "least": least, "most": most, "above": above, "choices": tuple(choices)}
    return field(default=default, metadata=rule)


def brief(value: float) -> str:
    """Return a number for a message, at most about 20 characters long."""
    text = str(value) if isinstance(value, int) else f"{value:g}"
    return text if len(text) <= 20 else f"{text[:20]}..."


def quoted(text: str) -> str:
    """Return a text in quotes for a message, cut after 60 characters."""
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}..."


def check(item: Any) -> None:
    """Raise ValueError, naming the field first, for a value that its field does not allow."""
    for spec in fields(item):
        value, rule = getattr(item, spec.name), spec.metadata
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{spec.name} is {value}; give a finite number")
        if rule.get("above") is not None and not value > rule["above"]:
            raise ValueError(f"{spec.name} is {brief(value)}; it must be greater than {rule['above']:.15g}")
        if rule.get("least") is not None and value < rule["least"]:
            raise ValueError(f"{spec.name} is {brief(value)}; the least is {rule['least']:.15g}")
        if rule.get("most") is not None and value > rule["most"]:
            raise ValueError(f"{spec.name} is {brief(value)}; the most is {rule['most']:.15g}")
        if rule.get("choices") and value not in rule["choices"]:
            raise ValueError(f"{spec.name} is {quoted(value)}; give one of {', '.join(rule['choices'])}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One line of the grid. The defaults are the first study's recipe (its batch size was 4)."""

    trial: str = option("1", "name of the trial: at most 40 letters, digits, '.', '_', '-'")
    lr: float = option(0.01, "initial learning rate, before the schedule lowers it", above=0, most=1e30)
    epochs: int = option(25, "number of passes over the training images", least=1, most=1_000_000)
    batch_size: int = option(32, "images per training step", least=1, most=1_000_000)
    image_size: int = option(224, "height and width of the model's input, pixels", least=8, most=1024)
    train_size: int = option(0, "height and width of the images in training, pixels; 0: image_size", least=0, most=1024)
    model: str = option("resnet18", "an image classifier of torchvision by its name there, or mlp: a fully connected "
                        "network on the flattened image")
    stem: str = option("imagenet", "first layers of a resnet: imagenet (7x7 convolution of stride 2, max pooling), or "
                       "small (3x3 of stride 1, no pooling) for images under 64 pixels", choices=("imagenet", "small"))
    weights: str = option("imagenet", "initial weights: imagenet (torchvision's), none (random), or the path or URI of "
                          "a state dict")
    freeze: bool = option(False, "train only the head, the last layer; the others keep weights and batch statistics")
    hidden: str = option("100-50-25-12-6", "widths of the mlp's hidden layers, joined by '-'")
    activation: str = option("relu", "activation of the mlp's hidden layers: relu or sigmoid",
                             choices=("relu", "sigmoid"))
    dropout: float = option(0.0, "dropout probability, before the head or after the mlp's hidden layers",
                            least=0, most=0.95)
    batch_norm: bool = option(False, "batch normalisation after each hidden layer of the mlp")
    optimizer: str = option("sgd", "optimizer: sgd or adam", choices=("sgd", "adam"))
    momentum: float = option(0.9, "momentum of sgd", least=0, most=0.9999)
    weight_decay: float = option(0.0, "weight decay (L2 penalty) of sgd or adam", least=0, most=1e6)
    schedule: str = option("step", "learning-rate schedule: step, constant, or cosine (falls to 0 at the end)",
                           choices=("step", "constant", "cosine"))
    step_size: int = option(7, "schedule step: epochs between two multiplications of the learning rate by gamma",
                            least=1, most=1_000_000)
    gamma: float = option(0.1, "schedule step: factor of the learning rate every step_size epochs", above=0, most=1)
    warmup: float = option(0.0, "linear warm-up of the learning rate from 0 to lr, epochs; 0: none",
                           least=0, most=1_000_000)
    class_weights: str = option("none", "class weights in the training loss: none, or balanced (by inverse frequency)",
                                choices=("none", "balanced"))
    label_smoothing: float = option(0.0, "label smoothing: share of each label that is spread over all classes",
                                    least=0, most=0.95)
    crop: float = option(0.08, "random resized crop: smallest share of the image's area; 0: centre crop instead",
                         least=0, most=1)
    flip: float = option(0.5, "probability of a left-right flip", least=0, most=1)
    flip_up: float = option(0.0, "probability of an up-down flip", least=0, most=1)
    rotation: float = option(0.0, "random rotation: largest angle to either side, degrees", least=0, most=180)
    shift: float = option(0.0, "random shift: largest distance in each direction, share of the image's side",
                          least=0, most=1)
    noise: float = option(0.0, "Gaussian noise: largest standard deviation, for pixel values from 0 to 1",
                          least=0, most=1)
    blur: float = option(0.0, "Gaussian blur: largest sigma, pixels of the model's input", least=0, most=20)
    stop_monitor: str = option("none", "early stopping: metric to monitor (val_loss, val_acc, train_loss, train_acc), "
                               "or none", choices=("none", *MONITORS))
    stop_mode: str = option("auto", "early stopping: whether a lower (min) or higher (max) metric is better; auto: by "
                            "its name", choices=MODES)
    stop_min_delta: float = option(0.0, "early stopping: change of the metric that an improvement must exceed", least=0,
                                   most=1e30)
    stop_patience: int = option(0, "early stopping: epochs without improvement after which training stops", least=0,
                                most=1_000_000)
    best_monitor: str = option("val_acc", "metric that selects the best epoch, whose weights are kept: val_loss, "
                               "val_acc, train_loss or train_acc", choices=tuple(MONITORS))
    best_mode: str = option("auto", "whether a lower (min) or higher (max) best_monitor is better; auto: by its name",
                            choices=MODES)
    recall: float = option(0.0, "two classes: recall of the positive class that the decision threshold must reach on "
                           "validation; 0: threshold 0.5", least=0, most=1)
    fold: int = option(0, "fold on which the trial validates; it trains on the others; 0: the plain split", least=0,
                       most=100)
    folds: int = option(5, "number of folds into which training and validation images together are divided", least=2,
                        most=100)
    seed: int = option(0, "random seed of the initial weights, the image order, augmentation and dropout",
                       least=0, most=2**32 - 1)
    precision: str = option("auto", "number format of training: fp32, bf16, fp16 (GPUs only), or auto (bf16 if the "
                            "hardware supports it, else fp16 on a GPU and fp32 on a CPU)",
                            choices=("auto", "fp32", "bf16", "fp16"))

    def __post_init__(self) -> None:
        check(self)
        refuse_unknown(self.model)
        if not NAME_PATTERN.fullmatch(self.trial):
            raise ValueError(f"trial is {quoted(self.trial)}; give a name of 1 to 40 letters, digits, '.', '_' or '-' "
                             "that begins and ends with a letter or digit")
        if not self.weights or "\0" in self.weights:
            raise ValueError("weights is empty; give imagenet, none, or a path or URI")
        if KEY_IN_URI.match(self.weights):
            raise ValueError("weights names a URI with a key, a password or a signature in it, which every row would "
                             "hold; give the path or s3:// URI alone, and the key in AWS_SECRET_ACCESS_KEY")
        if not HIDDEN_PATTERN.fullmatch(self.hidden):
            raise ValueError(f"hidden is {quoted(self.hidden)}; give at most 100 widths from 1 to 99999, joined "
                             "by '-', such as 100-50-25")
        self.check_model()
        self.check_size()

    def check_model(self) -> None:
        """Raise ValueError for a setting that would have no effect, so that no row records what was not done."""
        if self.train_size > self.image_size:
            raise ValueError(f"train_size is {self.train_size}; the most is image_size, {self.image_size}")
        if self.model == MLP and self.weights == "imagenet":
            raise ValueError("weights is imagenet, but model mlp has no such weights; set weights to none")
        if self.freeze and self.weights == "none":
            raise ValueError("freeze is yes, but weights is none: the frozen layers would stay random; set weights, or "
                             "leave freeze out")
        if self.batch_norm and self.batch_size == 1:
            raise ValueError("batch_size is 1; batch_norm needs 2 or more")
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup is {self.warmup:g}; it must be less than epochs, {self.epochs}")
        if self.fold > self.folds:
            raise ValueError(f"fold is {self.fold}, but folds is {self.folds}; give a fold from 1 to {self.folds}, or "
                             "more folds")
        if not self.fold and self.folds != Trial.folds:
            raise ValueError(f"folds is {self.folds}, which has no effect when fold is 0, the plain split; leave it "
                             f"out, or set fold from 1 to {self.folds}")
        for name, (other, wanted) in ONLY_WITH.items():
            default = next(spec.default for spec in fields(self) if spec.name == name)
            if getattr(self, name) != default and getattr(self, other) not in wanted:
                raise ValueError(f"{name} has no effect when {other} is {getattr(self, other)}; leave it out, "
                                 f"or set {other} to {listed(wanted)}")
        if self.stem == "small" and self.weights == "imagenet":
            raise ValueError("weights is imagenet, and its first layer does not fit stem small; set weights to none")

    def check_size(self) -> None:
        """Raise ValueError for a size of images that the model cannot take, and for an mlp of too many parameters."""
        for name in ("image_size", "train_size"):
            # 0 stands for image_size.
            if size := getattr(self, name):
                refuse_size(name, size, self.model, self.weights, self.stem)
        if self.model == MLP:
            refuse_too_many(self.hidden, self.image_size)


# Settings that have an effect only if another setting has one of these values.
ONLY_WITH = {
    "hidden": ("model", (MLP,)), "activation": ("model", (MLP,)), "batch_norm": ("model", (MLP,)),
    "freeze": ("model", CLASSIFIERS), "stem": ("model", RESNETS), "train_size": ("model", OF_ANY_SIZE),
    "momentum": ("optimizer", ("sgd",)),
    "step_size": ("schedule", ("step",)), "gamma": ("schedule", ("step",)),
    "stop_mode": ("stop_monitor", tuple(MONITORS)), "stop_min_delta": ("stop_monitor", tuple(MONITORS)),
    "stop_patience": ("stop_monitor", tuple(MONITORS))}


def is_max(monitor: str, mode: str) -> bool:
    """Return whether a higher value of the monitored metric is better."""
    return (MONITORS[monitor] if mode == "auto" else mode) == "max"


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images become a pack. The pack's hash covers the images, their split and these options but the last two."""

    positive: str = option("", "positive class; all the others become one class, 'other'")
    val: float = option(0.2, "validation split, share of the images outside the test split", above=0, most=0.9)
    test: float = option(0.1, "test split, share of all images", least=0, most=0.9)
    split_seed: int = option(0, "random seed of the split", least=0)
    short_side: int = option(256, "shorter side of the images in the pack, pixels", least=40, most=2048)
    near: float = option(0.1, "largest difference of images that count as near-identical; 0: none", least=0, most=0.5)
    max_bad: float = option(0.05, "share of unusable images above which no pack is made", least=0, most=1)

    def __post_init__(self) -> None:
        check(self)


def shown(value: Any) -> str:
    """Return a setting as grids and command lines write it."""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
