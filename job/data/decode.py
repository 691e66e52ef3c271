"""Image files -> uint8 RGB images of a given short side, or the reason for a rejection; needs no torch."""

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow's own limit for a decompression bomb, and an aspect ratio that keeps a packed image under about 4 MB.
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)
MOST_ASPECT = 20
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@dataclass(frozen=True, slots=True)
class Rejected:
    """The reason why a file is not a usable image."""

    reason: str


def decode(data: bytes, short_side: int) -> NDArray[np.uint8] | Rejected:
    """Decode a JPEG, PNG, WebP, GIF, BMP or TIFF file to pixels_HWC, uint8 RGB, with a shorter side of `short_side`.

    It takes the first frame, applies EXIF rotation, puts transparency on white and scales 16 bits to 8. It resizes like
    torchvision's Resize on a PIL image (bilinear, antialiased), so that a centre crop equals torchvision's exactly.
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
                    return Rejected(f"{width} x {height} is more than {MOST_ASPECT} times as long as wide; crop it")
                rgb = to_rgb(ImageOps.exif_transpose(image))
        return np.asarray(resize(rgb, short_side))
    except Image.DecompressionBombError:
        return Rejected(f"more than {MOST_PIXELS:,} pixels (decompression bomb)")
    except UnidentifiedImageError:
        return Rejected("not an image in a supported format (JPEG, PNG, WebP, GIF, BMP, TIFF)")
    # Pillow's decoders raise these for damaged files; found by flipping bytes of real files.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
            struct.error) as error:
        return Rejected(f"damaged: {error or type(error).__name__}")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any of Pillow's modes to RGB; raises ValueError for 32-bit float images, whose range is undefined."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        # Integer modes hold 16-bit images (PNG, TIFF); Pillow's conversion would clip them to white.
        image = Image.fromarray((np.clip(values, 0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("32-bit float images are not supported; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")


def resize(image: Image.Image, short_side: int) -> Image.Image:
    """Return the image with a shorter side of `short_side` pixels, its longer side in proportion, rounded down."""
    width, height = image.size
    short = min(width, height)
    size = (int(short_side * width / short), int(short_side * height / short))
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)
