"""A contact sheet of the model's input: some images, and beside each its augmented versions."""

import functools
import io
from collections import defaultdict
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from job.data.augment import MEAN, STD, draw
from job.data.batches import Batches
from job.data.image_file.decode import Rejected
from job.data.names import Labelled
from job.data.shards import read_and_decode
from job.data.sizes import resize_side
from job.data.source import Source
from job.errors import BadData
from job.folder.escape import for_terminal
from job.trial import AUGMENTATION, Trial

NUM_ROWS = 6
NUM_VERSIONS = 7
GAP_PIXELS = 4
FONT_PIXELS = 14
LINE_PIXELS = 18
# The class names stand left of the images.
NAME_PIXELS = 120
MARGIN_PIXELS = 6


def contact_sheet(source: Source, trial: Trial) -> bytes:
    """Return a PNG with one row per image: first as in validation, then seven augmented versions. Classes take turns.

    The classes' names stand to the left, the settings of the augmentation above. Raises BadData if none of the images
    can be read.
    """
    images, labels = [], []
    items = one_of_each_class(source.images)
    decoded = read_and_decode(source.folder, [item.image for item in items], resize_side(trial.image_size))
    for item, (_, outcome) in zip(items, decoded, strict=False):
        if not isinstance(outcome, Rejected):
            images.append(torch.from_numpy(outcome.copy()))
            labels.append(item.label)
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
    return to_png(columns, trial.image_size, labels, heading(trial))


def heading(trial: Trial) -> str:
    """Return the settings of the augmentation in one line, those that do nothing left out."""
    used = [f"{name} {value:g}" for name in AUGMENTATION if (value := getattr(trial, name))]
    return f"left: as in validation; then augmented: {', '.join(used) or 'nothing changes'}; seed {trial.seed}"


def one_of_each_class(images: Sequence[Labelled]) -> list[Labelled]:
    """Return the images reordered: the first of each class, then the second of each, and so on."""
    number_in_class: dict[str, int] = defaultdict(int)
    order = []
    for item in images:
        order.append((number_in_class[item.label], item.label, item.image, item))
        number_in_class[item.label] += 1
    return [item for *_, item in sorted(order, key=lambda entry: entry[:3])]


@functools.cache
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that Pillow brings along."""
    return ImageFont.load_default(FONT_PIXELS)


def shortened(text: str, most_pixels: int) -> str:
    """Return a name from outside in one line, escaped, and cut to a width."""
    shown = for_terminal(text[:200])
    if font().getlength(shown) <= most_pixels:
        return shown
    while shown and font().getlength(f"{shown}...") > most_pixels:
        shown = shown[:-1]
    return f"{shown}..."


def wrapped(text: str, most_pixels: int) -> list[str]:
    """Return a text as lines of at most this width."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font().getlength(longer) <= most_pixels or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def to_pixels(images_NCHW: Tensor) -> Tensor:
    """Return uint8 pixels_NHWC of normalised images_NCHW."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((images_NCHW * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1)


def to_png(columns: Sequence[Tensor], size: int, labels: Sequence[str], above: str) -> bytes:
    """Return a PNG of normalised images_NCHW, one tensor per column, with a label per row and a line above them all."""
    step = size + GAP_PIXELS
    names = [shortened(label, NAME_PIXELS) for label in labels]
    left = 2 * MARGIN_PIXELS + max(int(font().getlength(name)) + 1 for name in names)
    width = left + step * len(columns) + GAP_PIXELS
    lines = wrapped(above, width - 2 * MARGIN_PIXELS)
    top = 2 * MARGIN_PIXELS + LINE_PIXELS * len(lines)
    sheet = Image.new("RGB", (width, top + step * len(labels) + GAP_PIXELS), "white")
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((MARGIN_PIXELS, MARGIN_PIXELS + LINE_PIXELS * number), line, "black", font())
    for row, name in enumerate(names):
        pen.text((MARGIN_PIXELS, top + GAP_PIXELS + row * step + size // 2), name, "black", font(), anchor="lm")
    for column, images_NCHW in enumerate(columns):
        for row, pixels_HWC in enumerate(to_pixels(images_NCHW)):
            sheet.paste(Image.fromarray(pixels_HWC.numpy()), (left + GAP_PIXELS + column * step,
                                                              top + GAP_PIXELS + row * step))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
