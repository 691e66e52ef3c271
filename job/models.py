"""The models: torchvision's image classifiers by name and an mlp, and the image sizes that each of them takes.

A table, because a grid is read without torch; tests/training/test_models.py holds it equal to torchvision's.
"""

import difflib
from collections.abc import Sequence
from itertools import pairwise

MLP = "mlp"
# Adam keeps four numbers per parameter: 16 GB for so many.
MOST_PARAMETERS = 1_000_000_000
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
           "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2")
# Least image size, and the models that have it: the smallest on which a batch of one image trains. Batch normalisation
# refuses a single pixel, which five halvings leave of 32 pixels; the others run out of pixels to pool or to convolve.
TABLE = f"""
33 {' '.join(RESNETS)}
33 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
33 efficientnet_b7 efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l
33 mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large
33 regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf regnet_x_16gf regnet_x_32gf
33 regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf regnet_y_16gf regnet_y_32gf regnet_y_128gf
33 shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
61 densenet121 densenet161 densenet169 densenet201
32 convnext_tiny convnext_small convnext_base convnext_large
32 vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn
63 alexnet
21 squeezenet1_0
17 squeezenet1_1
8 swin_t swin_s swin_b swin_v2_t swin_v2_s swin_v2_b mlp
"""
# What remains of a resnet with the stem `small`, three halvings, refuses a single pixel as well.
LEAST_OF_SMALL_STEM = 9
# Models on a fixed grid take multiples of it: a vit of its patch, a maxvit of its windows after five halvings.
MULTIPLES = {"vit_b_16": 16, "vit_b_32": 32, "vit_l_16": 16, "vit_l_32": 32, "vit_h_14": 14, "maxvit_t": 224}
# A vit learns an embedding per patch, so its ImageNet weights fit one size.
IMAGENET_SIZES = {"vit_b_16": 224, "vit_b_32": 224, "vit_l_16": 224, "vit_l_32": 224, "vit_h_14": 518}
LEAST = {name: int(least) for least, *names in map(str.split, TABLE.strip().splitlines()) for name in names} | MULTIPLES
MODELS = tuple(LEAST)
CLASSIFIERS = tuple(name for name in MODELS if name != MLP)
OF_ANY_SIZE = tuple(name for name in CLASSIFIERS if name not in MULTIPLES)
# Classifiers whose training adds the losses of auxiliary heads, which this program does not.
WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


def refuse_unknown(model: str) -> None:
    """Raise ValueError for a name that is none of MODELS, with the names nearest to it."""
    if model in WITH_AUXILIARY_HEADS:
        raise ValueError(f"model is {model}, which is trained with auxiliary heads, and this program trains one head; "
                         "give another model")
    if model not in MODELS:
        nearest = difflib.get_close_matches(model[:60].lower(), MODELS, 3, 0.5)
        advice = f"do you mean {' or '.join(nearest)}?" if nearest else "docs/grid.md has the names"
        raise ValueError(f"model is {model[:60]!r}, which is neither mlp nor a classifier of torchvision; {advice}")


def refuse_size(name: str, size: int, model: str, weights: str, stem: str) -> None:
    """Raise ValueError, naming the setting, for a size of images that the model cannot take, with those that it can."""
    least = LEAST_OF_SMALL_STEM if stem == "small" else LEAST[model]
    if model in MULTIPLES and size % least:
        below = size // least * least
        sizes = " or ".join(str(near) for near in (below, below + least) if 0 < near <= 1024)
        raise ValueError(f"{name} is {size}; {model} takes multiples of {least}, here {sizes}")
    if weights == "imagenet" and size != IMAGENET_SIZES.get(model, size):
        raise ValueError(f"{name} is {size}; the ImageNet weights of {model} fit {IMAGENET_SIZES[model]} "
                         "alone: set that, or set weights to none")
    if size < least:
        raise ValueError(f"{name} is {size}; the least for model {model}"
                         f"{' with stem small' if stem == 'small' else ''} is {least}")


def refuse_too_many(hidden: str, image_size: int) -> None:
    """Raise ValueError for an mlp of more parameters than a machine can train; hidden: its widths, joined by '-'."""
    widths = [3 * image_size**2, *map(int, hidden.split("-"))]
    num_parameters = sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))
    if num_parameters > MOST_PARAMETERS:
        raise ValueError(f"hidden is {hidden[:60]!r}: with image_size {image_size} these are {num_parameters:,} "
                         f"parameters, and the most is {MOST_PARAMETERS:,}; give smaller widths or a smaller "
                         "image_size")


def listed(names: Sequence[str]) -> str:
    """Return names for a message: all of them, or the first and how many there are."""
    return " or ".join(names) if len(names) <= len(RESNETS) else f"{names[0]} or another of {len(names)} models"
