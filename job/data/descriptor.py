"""A small descriptor of an image, and the likeness of two images by it: the same numbers on every machine.

All of it is whole numbers until the last division. Sums of whole numbers below 2**53 are exact in float64 in whatever
order a processor adds them, so every machine finds the same near-duplicates and makes the same split.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Numbers = NDArray[np.float64]

# Brightness on 32 x 32 cells, and two differences of colour on 16 x 16, as a JPEG stores them.
SIDE, COLOUR_SIDE = 32, 16
NUM_CELLS = SIDE * SIDE + 2 * COLOUR_SIDE * COLOUR_SIDE
# Height and width, four bytes each, come last.
NUM_BYTES = NUM_CELLS + 8
# A crop is compared on this many cells to a side; finer ones tell two shots apart, and coarser ones forgive a crop.
CELLS, COLOUR_CELLS = 16, 8
# Crops are tried in steps of 1/40 of the length, 2.5%, at each side, up to 5%.
STEPS, NUM_MARGINS = 40, 3
# Cropping 5% off two opposite sides changes width over height by 10/9; a small image's size is rounded besides.
MOST_STRETCH = (23, 20)
# Mean change of brightness from cell to cell, grey levels, below which an image shows nothing that could be compared.
FLAT = 1.0
# With twice the weight, straps of another colour tell two watches apart, which a paler copy still does not.
COLOUR_WEIGHT = 2


def describe(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """Return the descriptor of an RGB image: means of brightness and colour over cells that tile it, and its shape."""
    image = Image.fromarray(pixels_HWC).resize((2 * SIDE, 2 * SIDE), Image.Resampling.BOX).convert("YCbCr")
    brightness, blue, red = image.split()
    cells = (channel.resize((side, side), Image.Resampling.BOX).tobytes()
             for channel, side in ((brightness, SIDE), (blue, COLOUR_SIDE), (red, COLOUR_SIDE)))
    return b"".join((*cells, np.array(pixels_HWC.shape[:2], "<u4").tobytes()))


def windows(side: int, cells: int, margins: Sequence[tuple[int, int]]) -> Numbers:
    """Return for each pair of margins the matrix that adds up a row of `side` values in `cells`, without the margins.

    Margins, at the first and at the last end, are in steps, of which the row has STEPS. The numbers are whole: lengths
    that values and cells share, in units of which a step has `cells`.
    """
    unit = STEPS * cells // side
    found = np.zeros((len(margins), cells, side))
    for number, (first, last) in enumerate(margins):
        ends = [first * cells + (STEPS - first - last) * cell for cell in range(cells + 1)]
        for cell in range(cells):
            for i in range(side):
                found[number, cell, i] = max(0, min(ends[cell + 1], (i + 1) * unit) - max(ends[cell], i * unit))
    return found


MARGINS = [(first, last) for first in range(NUM_MARGINS) for last in range(NUM_MARGINS)]
BRIGHTNESS, COLOUR = windows(SIDE, CELLS, MARGINS), windows(COLOUR_SIDE, COLOUR_CELLS, MARGINS)


@dataclass(frozen=True)
class Descriptors:
    """Descriptors of many images, uint8: brightness_NHW on 32 x 32 cells, colour_NCHW on 16 x 16; and sizes_N2."""

    brightness_NHW: NDArray[np.uint8]
    colour_NCHW: NDArray[np.uint8]
    sizes_N2: NDArray[np.uint32]

    @classmethod
    def of(cls, data: bytes | bytearray) -> "Descriptors":
        """Return the descriptors that lie end to end."""
        table = np.frombuffer(data, np.uint8).reshape(-1, NUM_BYTES)
        return cls(table[:, :SIDE * SIDE].reshape(-1, SIDE, SIDE),
                   table[:, SIDE * SIDE:NUM_CELLS].reshape(-1, 2, COLOUR_SIDE, COLOUR_SIDE),
                   np.ascontiguousarray(table[:, NUM_CELLS:]).view("<u4"))

    def __len__(self) -> int:
        return len(self.brightness_NHW)

    def __getitem__(self, at: Any) -> "Descriptors":
        return Descriptors(self.brightness_NHW[at], self.colour_NCHW[at], self.sizes_N2[at])

    def shaped_alike(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for pairs of places whether width over height of both is alike, as of an image and a crop of it."""
        (h1, w1), (h2, w2) = (self.sizes_N2[at].astype(np.int64).T for at in (first, second))
        more, less = np.maximum(h1 * w2, h2 * w1), np.minimum(h1 * w2, h2 * w1)
        return np.asarray(more * MOST_STRETCH[1] <= less * MOST_STRETCH[0])


def crops(found: Descriptors, rows: Sequence[int], columns: Sequence[int]) -> tuple[Numbers, Numbers]:
    """Return the changes from cell to cell within crops of N images, features_NVD, and their squared lengths_NV.

    rows, columns: places in MARGINS; V counts each of the rows with each of the columns. Changes do not depend on
    brightness, and their direction does not depend on contrast.
    """
    parts = []
    for channels_NCHW, of_side, weight in ((found.brightness_NHW[:, None], BRIGHTNESS, 1),
                                           (found.colour_NCHW, COLOUR, COLOUR_WEIGHT)):
        narrow = channels_NCHW[:, :, None] @ of_side[columns].transpose(0, 2, 1)
        cells = np.einsum("rij,ncvjk->nrvcik", of_side[rows], narrow, optimize=True)
        across, down = np.diff(cells, axis=-1), np.diff(cells, axis=-2)
        parts += [weight * change.reshape(len(found), len(rows) * len(columns), math.prod(change.shape[3:]))
                  for change in (across, down)]
    features_NVD = np.concatenate(parts, axis=-1)
    return features_NVD, np.einsum("nvd,nvd->nv", features_NVD, features_NVD)


def flat(found: Descriptors) -> NDArray[np.bool_]:
    """Return which images show nothing: a plain colour, a faint gradient, or noise alone."""
    _, lengths_NV = crops(found, [0], [0])
    num_changes = 2 * CELLS * (CELLS - 1)
    # In a crop without margins the weights of a cell add up to STEPS in each direction.
    return np.asarray(lengths_NV[:, 0] < num_changes * (FLAT * STEPS ** 2) ** 2)


def alike(whole: Descriptors, cropped: Descriptors, rows: Sequence[int], columns: Sequence[int],
          least: float) -> NDArray[np.bool_]:
    """Return for each pair of images whether the first is like a crop of the second: correlation of at least `least`.

    The correlation is the cosine between the changes of both, the best over all crops of `rows` and `columns`.
    """
    first_N1D, length_N1 = crops(whole, [0], [0])
    second_NVD, lengths_NV = crops(cropped, rows, columns)
    products_NV = np.einsum("nvd,nd->nv", second_NVD, first_N1D[:, 0], optimize=True)
    is_like = (products_NV > 0) & (products_NV * products_NV >= least * least * (lengths_NV * length_N1))
    return np.asarray(is_like.any(axis=1))
