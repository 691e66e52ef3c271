"""Pillow's images of any mode -> RGB of a given short side, in bands where an image is large."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from job.data.image_file.orientation import METHODS

# Larger images are converted and resized in bands of so many pixels, so that memory holds only one copy of them.
BAND_PIXELS = 16 << 20

ToRgb = Callable[[Image.Image], Image.Image]


def upright_rgb(image: Image.Image, orientation: int, short_side: int, to_rgb: ToRgb) -> NDArray[np.uint8]:
    """Return pixels_HWC of a loaded image, turned upright, with a shorter side of `short_side` pixels.

    Bands give the same pixels as the whole where Pillow resizes each row on its own first, then the columns. From
    version 13 on it begins with the columns of an image of over twice its width; there a value may differ by one level.
    """
    method = METHODS.get(orientation)
    width, height = image.size if orientation < 5 else image.size[::-1]
    size = resized(width, height, short_side)
    if width * height <= BAND_PIXELS:
        rgb = to_rgb(image.transpose(method) if method is not None else image)
        return np.asarray(rgb if size == rgb.size else rgb.resize(size, Image.Resampling.BILINEAR))
    narrow = Image.new("RGB", (size[0], height))
    num_rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, num_rows):
        bottom = min(height, top + num_rows)
        band = image.crop(place_in_file(orientation, (0, top, width, bottom), width, height))
        rgb = to_rgb(band.transpose(method) if method is not None else band)
        narrow.paste(rgb.resize((size[0], bottom - top), Image.Resampling.BILINEAR), (0, top))
    return np.asarray(narrow if size == narrow.size else narrow.resize(size, Image.Resampling.BILINEAR))


def resized(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return the size with a shorter side of `short_side` pixels, the longer side in proportion, rounded down."""
    short = min(width, height)
    return int(short_side * width / short), int(short_side * height / short)


def place_in_file(orientation: int, box: tuple[int, int, int, int], width: int,
                  height: int) -> tuple[int, int, int, int]:
    """Return which box of the stored image becomes this box of the upright one; width and height are the upright's."""
    left, top, right, bottom = box
    boxes = {2: (width - right, top, width - left, bottom),
             3: (width - right, height - bottom, width - left, height - top),
             4: (left, height - bottom, right, height - top),
             5: (top, left, bottom, right),
             6: (top, width - right, bottom, width - left),
             7: (height - bottom, width - right, height - top, width - left),
             8: (height - bottom, left, height - top, right)}
    return boxes.get(orientation, box)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any of Pillow's 8-bit modes to RGB, transparency on white."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def grey_to_rgb(highest: int, is_white_low: bool, transparent: int | None) -> ToRgb:
    """Return a function that converts unsigned grey samples of more than 8 bits to RGB.

    highest: the value of white, or of black if `is_white_low`. transparent: the value that is shown as white.
    Pillow holds 32-bit samples as signed integers and its own conversion clips what is above 255.
    """
    def convert(image: Image.Image) -> Image.Image:
        values = np.asarray(image)
        values = values.view(np.uint32).astype(np.int64) if values.dtype == np.int32 else values.astype(np.int64)
        grey = np.minimum(values, highest) // (highest // 255) if highest % 255 == 0 else values * 255 // highest
        if is_white_low:
            grey = 255 - grey
        if transparent is not None:
            grey[values == transparent] = 255
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")

    return convert
