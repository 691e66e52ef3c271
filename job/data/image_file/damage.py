"""Warnings of libjpeg: the only sign of a JPEG that is cut or overwritten and still ends as it should.

libjpeg fills what it cannot decode with grey, or goes on with shifted blocks, and counts a warning. Pillow does not
report that count, so it is read from the decoder's memory. The count lies in libjpeg's public `jpeg_error_mgr`; the way
there from Pillow's decoder object is found with a sound and a damaged image, once per process.
"""

import functools
import io
import os
import struct
from pathlib import Path
from typing import Any, cast

from PIL import Image, ImageFile
from PIL.Image import core  # type: ignore[attr-defined]

CODEC = "trialgrid_jpeg"
MEMORY = Path("/proc/self/mem")
# How far into the decoder's own structure to look for the pointer to its jpeg_error_mgr, and how large that is.
STATE_BYTES, ERROR_BYTES = 2048, 168
# In jpeg_error_mgr (jpeglib.h), with 64-bit pointers: msg_parm.i[0], i[1], and num_warnings.
PARAMETERS_AT, NUM_WARNINGS_AT = 44, 128
EOI = 0xD9
# Some cameras write a few bytes too many before the end marker; libjpeg warns, and the image is whole.
MOST_SPARE_BYTES = 4


class Watched:
    """Pillow's JPEG decoder; it counts libjpeg's warnings about the image data, not those about the header."""

    pulls_fd = False

    def __init__(self, decoder: Any, num_header_bytes: int) -> None:
        self.decoder = decoder
        self.header_left = num_header_bytes
        self.warnings_before = 0

    def setimage(self, *where: Any) -> None:
        self.decoder.setimage(*where)

    def cleanup(self) -> None:
        self.decoder.cleanup()

    def decode(self, data: bytes) -> tuple[int, int]:
        """Pass data to the decoder, the header on its own; return the number of bytes used, or -1 at the end."""
        used = 0
        if self.header_left > 0:
            used, error = self.decoder.decode(data[:self.header_left])
            if used < 0 or len(data) < self.header_left:
                self.header_left -= max(used, 0)
                return used, error
            self.header_left = 0
            self.warnings_before = read_warnings(self.decoder)[0]
        more, error = self.decoder.decode(data[used:])
        return (used + more if more >= 0 else more), error

    def is_damaged(self) -> bool:
        """Return whether libjpeg warned of the image data; False where its count cannot be read."""
        num_warnings, spare_bytes, marker = read_warnings(self.decoder)
        num_warnings -= self.warnings_before
        return num_warnings > 1 or (num_warnings == 1 and not (marker == EOI and 0 < spare_bytes <= MOST_SPARE_BYTES))


def watch(image: ImageFile.ImageFile, num_header_bytes: int) -> list[Watched]:
    """Make Pillow decode a JPEG by a `Watched` decoder; it is in the list after `image.load()`."""
    made: list[Watched] = []
    own = (made, num_header_bytes)
    image.tile = [tile._replace(codec_name=CODEC, args=own + cast(Any, tile.args)) for tile in image.tile]
    return made


def make_watched(mode: str, made: list[Watched], num_header_bytes: int, *arguments: Any) -> Watched:
    """Return the decoder that Pillow asks for by `CODEC`."""
    made.append(Watched(core.jpeg_decoder(mode, *arguments), num_header_bytes))
    return made[-1]


Image.register_decoder(CODEC, cast(Any, make_watched))


def read_warnings(decoder: Any) -> tuple[int, int, int]:
    """Return libjpeg's number of warnings, and the two parameters of its last one; zeros if they cannot be read."""
    way = way_to_warnings()
    if not way:
        return 0, 0, 0
    with MEMORY.open("rb", 0) as memory:
        return warnings_at(memory.fileno(), id(decoder), *way)


def warnings_at(memory: int, decoder: int, slot: int, delta: int) -> tuple[int, int, int]:
    """Follow the pointer in the decoder object to the state, and read the jpeg_error_mgr within it."""
    state, = struct.unpack("<Q", os.pread(memory, 8, decoder + slot))
    errors = os.pread(memory, ERROR_BYTES, state + delta)
    num_warnings, = struct.unpack_from("<q", errors, NUM_WARNINGS_AT)
    return num_warnings, *struct.unpack_from("<2i", errors, PARAMETERS_AT)


@functools.cache
def way_to_warnings() -> tuple[int, int] | None:
    """Return where a decoder object points to its state, and where its jpeg_error_mgr lies there; None if not found.

    libjpeg's own structure holds a pointer to its jpeg_error_mgr, and Pillow keeps both in one block of memory. The
    memory is read by way of /proc, where a wrong address is an error and not a crash. Needs Linux with 64 bits.
    """
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "JPEG")
    sound = buffer.getvalue()
    found = None
    try:
        with MEMORY.open("rb", 0) as memory:
            for data, is_sound in ((sound, True), (sound[:-200] + b"\xff\xd9", False)) * 2:
                ways = {way for way, warned in ways_in(memory.fileno(), decoder_of(data)) if warned != is_sound}
                found = ways if found is None else found & ways
    except OSError:
        return None
    return found.pop() if found and len(found) == 1 else None


def decoder_of(data: bytes) -> Any:
    """Return Pillow's decoder object after it has decoded a JPEG."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        decoder = core.jpeg_decoder(image.mode, image.mode, "")
        decoder.setimage(Image.new(image.mode, image.size).im, (0, 0, *image.size))
        decoder.decode(data)
        decoder.cleanup()
    return decoder


def ways_in(memory: int, decoder: Any) -> list[tuple[tuple[int, int], bool]]:
    """Return each (slot, delta) that may lead to a jpeg_error_mgr, and whether warnings are counted there."""
    found = []
    for slot in range(0, type(decoder).__basicsize__, 8):
        try:
            state, = struct.unpack("<Q", os.pread(memory, 8, id(decoder) + slot))
            words = struct.unpack(f"<{STATE_BYTES // 8}Q", os.pread(memory, STATE_BYTES, state))
        except (OSError, OverflowError, struct.error):
            continue
        for delta in {word - state for word in words if 0 < word - state < STATE_BYTES - ERROR_BYTES}:
            num_warnings, *_ = warnings_at(memory, id(decoder), slot, delta)
            if 0 <= num_warnings < 10 and all(words[delta // 8 + n] for n in range(5)):
                found.append(((slot, delta), num_warnings > 0))
    return found
