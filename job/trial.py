"""What a person asks for: a `Trial` (one line of the grid) and `ImageOptions` (how images become a pack).

Every default lives here, once; grid columns, options, rows and workbook columns follow from the fields.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

LEAST_RESNET_SIZE = 40
# A trial's name is a folder, a sheet and part of a Kubernetes name.
NAME_PATTERN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,38}[A-Za-z0-9])?")
MONITORS = {"val_loss": "min", "val_acc": "max", "train_loss": "min", "train_acc": "max"}
AUGMENTATION = ("crop", "flip", "flip_up", "rotation", "shift", "noise", "blur")
MODES = ("auto", "min", "max")
HIDDEN_PATTERN = re.compile(r"[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})*")


def option(default: Any, help: str, *, least: float | None = None, most: float | None = None,
           above: float | None = None, choices: Sequence[str] = ()) -> Any:
    """A dataclass field with its help text and its allowed values."""
    rule = {"help": help, "least": least, "most": most, "above": above, "choices": tuple(choices)}
    return field(default=default, metadata=rule)


def brief(value: float) -> str:
    """A number for a message, cut where it has hundreds of digits."""
    text = str(value) if isinstance(value, int) else f"{value:g}"
    return text if len(text) <= 20 else f"{text[:20]}..."


def check(item: Any) -> None:
    """Raise ValueError, naming the field, where a value is outside what its field allows."""
    for spec in fields(item):
        value, rule = getattr(item, spec.name), spec.metadata
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{spec.name} is {value}; a finite number is needed")
        if rule.get("above") is not None and not value > rule["above"]:
            raise ValueError(f"{spec.name} is {brief(value)}; it must be greater than {rule['above']:g}")
        if rule.get("least") is not None and value < rule["least"]:
            raise ValueError(f"{spec.name} is {brief(value)}; {rule['least']:g} is the least")
        if rule.get("most") is not None and value > rule["most"]:
            raise ValueError(f"{spec.name} is {brief(value)}; {rule['most']:g} is the most")
        if rule.get("choices") and value not in rule["choices"]:
            raise ValueError(f"{spec.name} is {value!r}; one of {', '.join(rule['choices'])} is needed")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One line of the grid. The defaults are the first study's recipe (its batch size was 4)."""

    trial: str = option("1", "name: letters, digits, '.', '_', '-'; 40 characters at most")
    lr: float = option(0.01, "learning rate of the first epoch", above=0, most=1e30)
    epochs: int = option(25, "how many times each training image is seen", least=1, most=1_000_000)
    batch_size: int = option(32, "images a step", least=1, most=1_000_000)
    image_size: int = option(224, "height and width of what the net sees, pixels", least=8, most=1024)
    model: str = option("resnet18", "resnet18, or mlp: a fully connected net on the flattened image",
                        choices=("resnet18", "mlp"))
    weights: str = option("imagenet", "imagenet (torchvision's), none, or the path or URI of a state dict")
    freeze: bool = option(False, "train resnet18's head alone; the rest keeps its weights and statistics")
    hidden: str = option("100-50-25-12-6", "sizes of the mlp's hidden layers")
    activation: str = option("relu", "of the mlp's hidden layers: relu or sigmoid", choices=("relu", "sigmoid"))
    dropout: float = option(0.0, "share dropped before resnet18's head, after each of the mlp's hidden layers",
                            least=0, most=0.95)
    batch_norm: bool = option(False, "batch normalisation in the mlp's hidden layers")
    optimizer: str = option("sgd", "sgd or adam", choices=("sgd", "adam"))
    momentum: float = option(0.9, "momentum of sgd", least=0, most=0.9999)
    weight_decay: float = option(0.0, "weight decay of sgd and adam", least=0, most=1e6)
    schedule: str = option("step", "how the learning rate goes on: step, constant, or cosine (falls to 0 at the last epoch)",
                           choices=("step", "constant", "cosine"))
    step_size: int = option(7, "epochs after which the schedule step multiplies the learning rate by gamma",
                            least=1, most=1_000_000)
    gamma: float = option(0.1, "factor of the schedule step", above=0, most=1)
    warmup: float = option(0.0, "epochs over which the learning rate rises from 0 to lr first", least=0, most=1_000_000)
    class_weights: str = option("none", "balanced: a class counts in the loss by the inverse of its frequency",
                                choices=("none", "balanced"))
    label_smoothing: float = option(0.0, "share of each label that is spread over all classes", least=0, most=0.95)
    crop: float = option(0.08, "smallest share of an image that a random resized crop takes; 0: no random crop",
                         least=0, most=1)
    flip: float = option(0.5, "probability of a left-right flip; 0: none", least=0, most=1)
    flip_up: float = option(0.0, "probability of an up-down flip; 0: none", least=0, most=1)
    rotation: float = option(0.0, "largest turn to either side, degrees; 0: none", least=0, most=180)
    shift: float = option(0.0, "largest shift in either direction, share of the image; 0: none", least=0, most=1)
    noise: float = option(0.0, "largest standard deviation of Gaussian noise, white being 1; 0: none", least=0, most=1)
    blur: float = option(0.0, "largest sigma of a Gaussian blur, pixels of what the net sees; 0: none", least=0, most=20)
    stop_monitor: str = option("none", "the figure that early stopping watches; none: every epoch is trained",
                               choices=("none", *MONITORS))
    stop_mode: str = option("auto", "whether that figure is best at its min or max; auto: by its name", choices=MODES)
    stop_min_delta: float = option(0.0, "the least change that counts as an improvement", least=0)
    stop_patience: int = option(0, "epochs without improvement after which training stops", least=0)
    best_monitor: str = option("val_acc", "the figure whose best epoch's weights are kept: val_loss, val_acc, train_loss or "
                               "train_acc", choices=tuple(MONITORS))
    best_mode: str = option("auto", "whether that figure is best at its min or max; auto: by its name", choices=MODES)
    recall: float = option(0.0, "wanted recall of the positive class of two: sets the decision threshold; 0: threshold 0.5",
                           least=0, most=1)
    seed: int = option(0, "seed of the initial weights, the order of images, augmentation and dropout", least=0, most=2**32 - 1)
    precision: str = option("auto", "fp32, bf16, or auto: bf16 where the processor has it in hardware",
                            choices=("auto", "fp32", "bf16"))

    def __post_init__(self) -> None:
        check(self)
        if not NAME_PATTERN.fullmatch(self.trial):
            raise ValueError(f"trial is {self.trial!r}; a name has 1 to 40 letters, digits, '.', '_' or '-', "
                             "and begins and ends with a letter or digit")
        if not self.weights or "\0" in self.weights:
            raise ValueError("weights is empty; imagenet, none, or a path or URI is needed")
        if not HIDDEN_PATTERN.fullmatch(self.hidden):
            raise ValueError(f"hidden is {self.hidden!r}; sizes joined by '-' are needed, such as 100-50-25")
        self.check_model()

    def check_model(self) -> None:
        """Raise ValueError for settings that would have no effect, so that no row records what was not done."""
        if self.model == "resnet18" and self.image_size < LEAST_RESNET_SIZE:
            # Below, the last layers see one pixel.
            raise ValueError(f"image_size is {self.image_size}; {LEAST_RESNET_SIZE} is the least for model resnet18")
        if self.model == "mlp" and self.weights == "imagenet":
            raise ValueError("weights is imagenet, which model mlp has not; set weights to none")
        if self.freeze and self.weights == "none":
            raise ValueError("freeze keeps the weights that the net begins with, and weights is none")
        if self.batch_norm and self.batch_size == 1:
            raise ValueError("batch_size is 1; batch_norm needs 2 or more")
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup is {self.warmup:g}; it must be less than epochs, {self.epochs}")
        for name, (other, wanted) in ONLY_WITH.items():
            default = next(spec.default for spec in fields(self) if spec.name == name)
            if getattr(self, name) != default and getattr(self, other) not in wanted:
                raise ValueError(f"{name} has no effect where {other} is {getattr(self, other)}; leave it out, "
                                 f"or set {other} to {' or '.join(wanted)}")


# Settings that mean something only where another one has one of these values.
ONLY_WITH = {
    "hidden": ("model", ("mlp",)), "activation": ("model", ("mlp",)), "batch_norm": ("model", ("mlp",)),
    "freeze": ("model", ("resnet18",)), "momentum": ("optimizer", ("sgd",)),
    "step_size": ("schedule", ("step",)), "gamma": ("schedule", ("step",)),
    "stop_mode": ("stop_monitor", tuple(MONITORS)), "stop_min_delta": ("stop_monitor", tuple(MONITORS)),
    "stop_patience": ("stop_monitor", tuple(MONITORS))}


def is_max(monitor: str, mode: str) -> bool:
    """Whether a monitored figure is best when it is largest."""
    return (MONITORS[monitor] if mode == "auto" else mode) == "max"


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images become a pack: everything besides the images themselves that its hash covers."""

    positive: str = option("", "this class against all the others, called 'other'")
    val: float = option(0.2, "share for validation, of what the test split leaves", above=0, most=0.9)
    test: float = option(0.1, "share for the test split", least=0, most=0.9)
    split_seed: int = option(0, "another number draws another split", least=0)
    short_side: int = option(256, "height or width, the smaller, of a packed image, pixels", least=40, most=2048)
    max_bad: float = option(0.05, "share of unreadable images above which preparing stops", least=0, most=1)

    def __post_init__(self) -> None:
        check(self)


def shown(value: Any) -> str:
    """A setting as grids and command lines have it."""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def trajectories(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials that differ in `epochs` alone under a schedule that never looks at the total, together, the shortest first.

    The longest of them passes through all the others. Any other trial stands alone; the order is that of the first trials.
    """
    groups: dict[Any, list[Trial]] = {}
    for trial in trials:
        alone = trial.schedule == "cosine"
        groups.setdefault(trial.trial if alone else replace(trial, trial="1", epochs=1_000_000), []).append(trial)
    return [sorted(group, key=lambda trial: trial.epochs) for group in groups.values()]
