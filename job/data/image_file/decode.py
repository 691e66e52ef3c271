"""Image files -> uint8 RGB images of a given short side, or the reason for a rejection; needs no torch."""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from job.data.image_file import damage, jpeg, png, tiff, webp
from job.data.image_file.bounds import MOST_ASPECT, MOST_PIXELS, Refused, can_allocate, check_size, memory_for
from job.data.image_file.colour import ToRgb, grey_to_rgb, to_rgb, upright_rgb
from job.data.image_file.orientation import orientation_in, orientation_of
from job.errors import TryAgain

__all__ = ["MOST_ASPECT", "MOST_PIXELS", "Rejected", "decode"]

# What Pillow's decoders raise for damaged files; found by flipping bytes of real files.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, ArithmeticError,
          AttributeError, RuntimeError, struct.error, zlib.error)
SIGNATURES: dict[str, bytes | tuple[bytes, ...]] = {
    "JPEG": jpeg.SIGNATURE, "PNG": png.SIGNATURE, "GIF": (b"GIF87a", b"GIF89a"), "BMP": b"BM",
    "TIFF": tiff.SIGNATURES}
CONTAINERS: dict[str, Any] = {"JPEG": jpeg, "PNG": png, "TIFF": tiff}
OUT_OF_MEMORY = ("memory ran out while an image was decoded; free some memory, or allow this process more of it, then "
                 "start again")


@dataclass(frozen=True, slots=True)
class Rejected:
    """The reason why a file is not a usable image."""

    reason: str


def decode(data: bytes, short_side: int) -> NDArray[np.uint8] | Rejected:
    """Decode a JPEG, PNG, WebP, GIF, BMP or TIFF file to pixels_HWC, uint8 RGB, with a shorter side of `short_side`.

    It takes the first frame, applies EXIF rotation, puts transparency on white and scales 16 bits to 8. It resizes like
    torchvision's Resize on a PIL image (bilinear, antialiased), so that a centre crop equals torchvision's exactly.
    Raises TryAgain if memory runs out, which says nothing about the image.
    """
    if not data:
        return Rejected("empty file (0 bytes)")
    kind = kind_of(data)
    if not kind:
        return Rejected("not an image in a supported format (JPEG, PNG, WebP, GIF, BMP, TIFF)")
    num_pixels = [0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decode_kind(data, kind, short_side, num_pixels)
    except Refused as error:
        return Rejected(str(error))
    except Image.DecompressionBombError:
        return Rejected(f"more than {MOST_PIXELS:,} pixels (decompression bomb)")
    except DAMAGE as error:
        cause: Exception = error
        # A decoder that gets too little memory says that the file is damaged.
        if can_allocate(memory_for(num_pixels[0], len(data))):
            return Rejected(damage_of(data, kind, error))
    except MemoryError as error:
        cause = error
    raise TryAgain(OUT_OF_MEMORY) from cause


def kind_of(data: bytes) -> str:
    """Return the format that the first bytes name, or ''."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for kind, signatures in SIGNATURES.items() if data.startswith(signatures)), "")


def damage_of(data: bytes, kind: str, error: Exception) -> str:
    """Return the reason for rejecting a file that Pillow cannot decode."""
    if isinstance(error, UnidentifiedImageError):
        return tiff.describe(data) if kind == "TIFF" else f"damaged: the header of the {kind} cannot be read"
    return f"damaged: {str(error) or type(error).__name__}"


def decode_kind(data: bytes, kind: str, short_side: int, num_pixels: list[int]) -> NDArray[np.uint8]:
    """Decode a file of a known format; if that fails, try it without its metadata.

    Pillow fails on a tag of the wrong type, or on a long compressed text, beside sound pixels. num_pixels[0] becomes
    the size of the image, also if decoding fails.
    """
    if kind == "TIFF":
        tiff.silence_libtiff()
    if kind == "WEBP":
        width, height = webp.canvas_size(data)
        check_size(width, height, kind)
        # Pillow's WebP decoder takes its memory when the file is opened.
        num_pixels[0] = width * height
    elif kind in CONTAINERS:
        CONTAINERS[kind].check(data)
    try:
        return decode_file(data, kind, short_side, num_pixels, None)
    except DAMAGE:
        plain = CONTAINERS[kind].without_metadata(data) if kind in CONTAINERS else None
        if plain is None or plain == data:
            raise
        told = 1 if kind == "TIFF" else orientation_in(CONTAINERS[kind].exif(data))
    return decode_file(plain, kind, short_side, num_pixels, told)


def decode_file(data: bytes, kind: str, short_side: int, num_pixels: list[int], told: int | None) -> NDArray[np.uint8]:
    """Decode a file by Pillow; told: the orientation, or None to ask Pillow for it."""
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        check_size(*image.size, kind)
        num_pixels[0] = image.width * image.height
        watched = damage.watch(image, jpeg.header_size(data)) if kind == "JPEG" else []
        image.load()
        if any(decoder.is_damaged() for decoder in watched):
            raise ValueError("the image data breaks off or is overwritten")
        return upright_rgb(image, told or orientation_of(image), short_side, converter(image, data, kind))


def converter(image: ImageFile.ImageFile, data: bytes, kind: str) -> ToRgb:
    """Return the function that converts this image's samples to RGB, by what its file says of them."""
    transparent = image.info.get("transparency")
    if image.mode in ("F", "LAB"):
        raise Refused(f"an image of Pillow's mode {image.mode} is not supported; save it as a PNG of 8 or 16 bits")
    if image.mode.startswith("I") and kind == "TIFF":
        found = tiff.read_directory(data)
        assert found
        return grey_to_rgb(2 ** found.first(tiff.BITS, 16) - 1, found.first(tiff.PHOTOMETRIC, 0) == 0, None)
    if image.mode.startswith("I"):
        return grey_to_rgb(65535, False, transparent if isinstance(transparent, int) else None)
    if kind == "PNG" and transparent is not None:
        image.info["transparency"] = png.in_8_bits(transparent, image.mode, png.bits_per_sample(data))
    return to_rgb
