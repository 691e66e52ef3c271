"""The orientation that EXIF gives an image (tag 0x0112), also where the rest of the EXIF is unsound."""

import struct

from PIL import Image

from job.data.image_file import tiff

ORIENTATION = 0x0112
METHODS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
           5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
           8: Image.Transpose.ROTATE_90}
# Found by giving Pillow EXIF blocks with wrong types, counts and offsets.
UNSOUND = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, ArithmeticError,
           AttributeError, RuntimeError, struct.error)


def orientation_of(image: Image.Image) -> int:
    """Return the orientation of a loaded image, 1 to 8; 1 if it says none."""
    try:
        return valid(image.getexif().get(ORIENTATION, 1))
    except UNSOUND:
        return orientation_in(image.info.get("exif") or b"")


def orientation_in(block: bytes) -> int:
    """Return the orientation of an EXIF block, which is laid out as a TIFF; 1 if it says none."""
    block = block.removeprefix(b"Exif\0\0")
    if not block.startswith(tiff.SIGNATURES):
        return 1
    found = tiff.read_directory(block, {ORIENTATION})
    return valid(found.first(ORIENTATION, 1)) if found else 1


def valid(value: object) -> int:
    """Return the value if it is an orientation, else 1."""
    return value if isinstance(value, int) and value in METHODS else 1
