"""What one image may take: pixels, scans, memory, processor time. Beyond it the image is rejected by name."""

import mmap
import resource

from PIL import Image

# Pillow's own limit for a decompression bomb.
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)
# libwebp and Pillow hold up to 24 bytes per pixel at the same time.
MOST_WEBP_PIXELS = MOST_PIXELS // 2
# An aspect ratio that keeps a packed image under about 4 MB.
MOST_ASPECT = 20
# Each scan of a JPEG visits every block; encoders write about ten.
MOST_SCANS = 100
# Bytes that a decoder needs for an image within these limits: a progressive JPEG's coefficients and pixels, or a WebP.
MOST_BYTES = 2 << 30
BYTES_PER_PIXEL, LEAST_BYTES = 24, 64 << 20
# What a decoding process may take for one image before it is stopped: far more than an image within the limits needs.
MOST_PROCESS_BYTES = 2 * MOST_BYTES
MOST_SECONDS = 120


class Refused(Exception):
    """An image that is not read; the message says why."""


def check_size(width: int, height: int, kind: str) -> None:
    """Raise Refused if an image is too large or too long."""
    most = MOST_WEBP_PIXELS if kind == "WEBP" else MOST_PIXELS
    if width * height > most:
        of_kind = "in a WebP " if kind == "WEBP" else ""
        raise Refused(f"{width} x {height} is more than {most:,} pixels {of_kind}(decompression bomb)")
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise Refused(f"{width} x {height} is more than {MOST_ASPECT} times as long as wide; crop it")


def can_allocate(num_bytes: int) -> bool:
    """Return whether this process may take so much more memory; nothing is written to it."""
    try:
        mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return False
    return True


def memory_for(num_pixels: int, num_file_bytes: int) -> int:
    """Return an upper bound of the bytes that decoding takes."""
    return max(LEAST_BYTES, num_file_bytes + min(MOST_BYTES, BYTES_PER_PIXEL * num_pixels))


def is_memory_limited() -> bool:
    """Return whether a limit of this process (ulimit) makes allocations fail."""
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY
               for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
