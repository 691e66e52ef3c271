"""A contact sheet of the model's input: some images, and beside each its augmented versions."""

import io
from collections import defaultdict
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from job.data.augment import MEAN, STD, draw
from job.data.batches import Batches
from job.data.decode import Rejected
from job.data.names import Labelled
from job.data.shards import read_and_decode
from job.data.sizes import resize_side
from job.data.source import Source
from job.errors import BadData
from job.trial import Trial

NUM_ROWS = 6
NUM_VERSIONS = 7
GAP_PIXELS = 4


def contact_sheet(source: Source, trial: Trial) -> bytes:
    """Return a PNG with one row per image: first as in validation, then seven augmented versions. Classes take turns.

    Raises BadData if none of the images can be read.
    """
    images = []
    names = [item.image for item in one_of_each_class(source.images)]
    for _, outcome in read_and_decode(source.folder, names, resize_side(trial.image_size)):
        if not isinstance(outcome, Rejected):
            images.append(torch.from_numpy(outcome.copy()))
        if len(images) == NUM_ROWS:
            break
    if not images:
        raise BadData(f"{source.uri}: none of its images can be read; `job prepare` lists the reasons")
    sizes_N2 = torch.tensor([image.shape[:2] for image in images])
    batches = Batches(trial.image_size, torch.device("cpu"), images, sizes_N2, torch.zeros(len(images)), {}, [], None)
    indices = torch.arange(len(images))
    columns = [batches.centered(indices)]
    for version in range(NUM_VERSIONS):
        generator = torch.manual_seed(trial.seed + version)
        columns.append(batches.augmented(indices, draw(sizes_N2, trial, generator)))
    return to_png(columns, trial.image_size)


def one_of_each_class(images: Sequence[Labelled]) -> list[Labelled]:
    """Return the images reordered: the first of each class, then the second of each, and so on."""
    number_in_class: dict[str, int] = defaultdict(int)
    order = []
    for item in images:
        order.append((number_in_class[item.label], item.label, item.image, item))
        number_in_class[item.label] += 1
    return [item for *_, item in sorted(order, key=lambda entry: entry[:3])]


def to_png(columns: Sequence[Tensor], size: int) -> bytes:
    """Return a PNG of normalised images_NCHW, one tensor per column."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    step = size + GAP_PIXELS
    sheet = Image.new("RGB", (step * len(columns) + GAP_PIXELS, step * len(columns[0]) + GAP_PIXELS), "white")
    for column, images_NCHW in enumerate(columns):
        for row, image_CHW in enumerate(images_NCHW):
            pixels = ((image_CHW * std + mean) * 255).round().clamp(0, 255).byte().permute(1, 2, 0)
            sheet.paste(Image.fromarray(pixels.numpy()), (GAP_PIXELS + column * step, GAP_PIXELS + row * step))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
