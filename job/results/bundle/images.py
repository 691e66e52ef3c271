"""The images that a bundle is proven on: validation images of the sweep, as they came, of many shapes."""

import hashlib
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from job.data.load import map_images, read_lines
from job.data.pack import Passport
from job.data.source import is_csv
from job.data.table import Packed
from job.errors import JobError, MissingInput
from job.folder.storage import Folder, local_path, open_folder, split_uri

NUM_PROVEN = 64
# Larger files are not read for a check; the pack's pixels stand in for them.
MOST_FILE_BYTES = 256 << 20

Item = TypeVar("Item")


@dataclass(frozen=True)
class Proof:
    """One image of the check. data: its file, or a PNG of the pack's pixels, as `is_from_source` tells."""

    line: Packed
    data: bytes
    is_from_source: bool


@dataclass
class Sources:
    """The source of a sweep's images, and its pack, which stands in for a file that is gone or was changed.

    Nothing here trusts the passport: a file counts only if it is a regular one inside the source with the hash that the
    pack noted, so that no other file of this machine gets into a bundle.
    """

    sweep: Folder
    passport: Passport
    lines: list[Packed]
    # Why nothing more is read from the source, '' while it answers.
    failure: str = ""
    pixels: list[Tensor] = field(default_factory=list)

    def proof(self, line: Packed) -> Proof:
        """Return the image with its file, or with the pack's pixels."""
        data = self.file(line)
        if data is not None:
            return Proof(line, data, True)
        self.pixels = self.pixels or map_images(self.sweep, self.passport, self.lines)
        file = io.BytesIO()
        Image.fromarray(np.asarray(self.pixels[self.lines.index(line)])).save(file, "PNG")
        return Proof(line, file.getvalue(), False)

    def file(self, line: Packed) -> bytes | None:
        """Return the file of an image, or None if the source does not have it as it was."""
        if self.failure or line.image.startswith("/") or ".." in line.image.split("/"):
            return None
        uri = self.passport.source
        try:
            folder = open_folder(split_uri(uri)[0] if is_csv(uri) else uri)
            if (path := local_path(folder)) and not is_small_file(path / line.image):
                return None
            data = folder.read(line.image)
        except MissingInput:
            return None
        except JobError as error:
            # Asking again for each image would take minutes each.
            self.failure = str(error)
            return None
        return data if hashlib.sha256(data).hexdigest() == line.sha256 else None


def is_small_file(path: Path) -> bool:
    """Return whether there is a regular file of bounded size: no pipe, which waits for ever, and no device."""
    try:
        return path.is_file() and path.stat().st_size <= MOST_FILE_BYTES
    except (OSError, ValueError):
        return False


def proofs(sweep: Folder, passport: Passport) -> Iterator[Proof]:
    """Yield 64 validation images from the widest to the tallest, then the others, each read when it is asked for."""
    lines = read_lines(sweep, passport)
    sources = Sources(sweep, passport, lines)
    val = sorted((line for line in lines if line.split == "val"),
                 key=lambda line: (line.height / line.width, line.image))
    first = spread(val, NUM_PROVEN)
    names = {line.image for line in first}
    yield from map(sources.proof, itertools.chain(first, (line for line in val if line.image not in names)))


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(number * (len(items) - 1) / (most - 1))] for number in range(most)]
