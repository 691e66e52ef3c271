"""Picture files -> uint8 RGB pictures with the wanted short side, or the reason why not; knows no torch."""

import collections
import hashlib
import io
import multiprocessing
import os
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from job.data.source import Labelled
from job.errors import MissingInput, TryAgain
from job.storage import Folder, open_folder

# Pillow's own limit for a decompression bomb, and a ratio that keeps one packed picture under about 4 MB.
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)
MOST_ASPECT = 20
CHUNK = 16
FEW_PICTURES = 64
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a file is not a usable picture."""

    reason: str


def decode(data: bytes, short_side: int) -> NDArray[np.uint8] | Rejected:
    """Decode a JPEG, PNG, WebP, GIF, BMP or TIFF file to pixels_HWC, uint8 RGB, its shorter side `short_side` long.

    The first frame; EXIF rotation applied; transparency laid over white; 16-bit scaled to 8. The resize is the one of
    torchvision's Resize on a PIL picture (bilinear, antialiased), so that a centre crop equals its pipeline exactly.
    """
    if not data:
        return Rejected("empty file (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    return Rejected(f"{width} x {height} is more than {MOST_PIXELS:,} pixels (decompression bomb)")
                if max(width, height) > MOST_ASPECT * min(width, height):
                    return Rejected(f"{width} x {height} is more than {MOST_ASPECT} times as long as wide")
                picture = to_rgb(ImageOps.exif_transpose(image))
        return np.asarray(resize(picture, short_side))
    except Image.DecompressionBombError:
        return Rejected(f"more than {MOST_PIXELS:,} pixels (decompression bomb)")
    except UnidentifiedImageError:
        return Rejected("not a picture, or of a kind that is not read (JPEG, PNG, WebP, GIF, BMP, TIFF are)")
    # Pillow's decoders raise these for damaged files; the set was found by flipping bytes of real ones.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
            struct.error) as error:
        return Rejected(f"damaged: {error or type(error).__name__}")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB; raises ValueError for 32-bit float pictures, which have no agreed range."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        # Integer modes hold 16-bit pictures (PNG, TIFF); Pillow's own conversion would clip them to white.
        image = Image.fromarray((np.clip(values, 0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("32-bit float pictures are not read; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")


def resize(image: Image.Image, short_side: int) -> Image.Image:
    """The picture with its shorter side `short_side` pixels long, its longer one in proportion, rounded down."""
    width, height = image.size
    short = min(width, height)
    size = (int(short_side * width / short), int(short_side * height / short))
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)


Outcome = tuple[str, NDArray[np.uint8] | Rejected]


def read_and_decode(folder: Folder, name: str, short_side: int) -> Outcome:
    """The SHA-256 of one picture's bytes, and its pixels or why it was rejected."""
    try:
        name.encode()
        data = folder.read(name)
    except UnicodeEncodeError:
        return "", Rejected("its name is not UTF-8")
    except MissingInput:
        return "", Rejected("missing")
    return hashlib.sha256(data).hexdigest(), decode(data, short_side)


def decode_chunk(uri: str, names: Sequence[str], short_side: int) -> list[Outcome]:
    """Some pictures, read by a few threads, because reading from object storage is mostly waiting."""
    folder = open_folder(uri)
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(lambda name: read_and_decode(folder, name, short_side), names))


def end_with_parent() -> None:
    """In a decoding process: end when the process that started it is gone, however that came."""
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def num_cores() -> int:
    """The processor cores that this process may use, and no more than OMP_NUM_THREADS, which a pod sets to its share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(share)) if share.isdecimal() and int(share) else cores


def decode_all(folder: Folder, pictures: Sequence[Labelled],
               short_side: int) -> Iterator[tuple[Labelled, str, NDArray[np.uint8] | Rejected]]:
    """Every picture, in order: the labelled picture, its SHA-256, and its pixels or why it was rejected.

    Decodes in a process a core with a few chunks in flight, so memory does not grow with the number of pictures.
    """
    if len(pictures) <= FEW_PICTURES:
        for item in pictures:
            yield item, *read_and_decode(folder, item.picture, short_side)
        return
    in_flight: collections.deque[tuple[Sequence[Labelled], Future[list[Outcome]]]] = collections.deque()
    with ProcessPoolExecutor(num_cores(), multiprocessing.get_context("spawn"), end_with_parent) as pool:
        try:
            for start in range(0, len(pictures), CHUNK):
                chunk = pictures[start:start + CHUNK]
                names = [item.picture for item in chunk]
                in_flight.append((chunk, pool.submit(decode_chunk, folder.uri, names, short_side)))
                if len(in_flight) > 2 * num_cores():
                    yield from finish(*in_flight.popleft())
            while in_flight:
                yield from finish(*in_flight.popleft())
        except BrokenProcessPool:
            raise TryAgain("a decoding process was killed, perhaps for want of memory; start again") from None
        finally:
            # Whoever stops early, by a signal too, does not wait for pictures that a slow store still owes.
            if in_flight:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():
                    process.kill()


def finish(chunk: Sequence[Labelled],
           future: Future[list[Outcome]]) -> Iterator[tuple[Labelled, str, NDArray[np.uint8] | Rejected]]:
    """Wait for one chunk and pair its pictures with their outcomes."""
    for item, (sha256, outcome) in zip(chunk, future.result(), strict=True):
        yield item, sha256, outcome
