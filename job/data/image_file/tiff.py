"""The first directory of a TIFF file (TIFF 6.0, BigTIFF), read before any pixel is decoded."""

import contextlib
import ctypes
import functools
import struct
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from job.data.image_file.bounds import MOST_PIXELS, Refused

SIGNATURES = (b"II\x2a\0", b"MM\0\x2a", b"II\x2b\0", b"MM\0\x2b", b"MM\x2a\0", b"II\0\x2a")
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR = 256, 257, 258, 259, 262, 277, 284
ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH, INK_SET, EXTRA, FORMAT, SUBSAMPLING, BLACK_WHITE = (
    278, 322, 323, 332, 338, 339, 530, 532)
# What a reader needs to know; the other tags describe.
NEEDED = {254, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, 266, 273, 274, SAMPLES, ROWS_PER_STRIP, 279, PLANAR, 292,
          293, 317, 320, TILE_WIDTH, TILE_LENGTH, 324, 325, INK_SET, EXTRA, FORMAT, 347, *range(512, 522), 529,
          SUBSAMPLING, 531, BLACK_WHITE}
# Types of values: bytes each, and the letter of struct (0: not read here).
TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "Q", 6: "b", 7: "B", 8: "h", 9: "i", 10: "q", 11: "f", 12: "d", 13: "I",
         16: "Q", 17: "q", 18: "Q"}
PHOTOMETRICS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "ICC Lab",
                10: "ITU Lab", 32803: "colour filter array", 32844: "LogL", 32845: "LogLuv", 34892: "raw"}
SUPPORTED = {0, 1, 2, 3, 5, 6}
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
MOST_ENTRIES, MOST_VALUES = 4096, 16


@dataclass(frozen=True)
class Directory:
    """The first directory: where it lies, how its numbers are written, its entries and the values of some tags."""

    order: str
    is_big: bool
    offset: int
    entries: list[bytes]
    values: dict[int, tuple[int, ...]]

    def first(self, tag: int, default: int) -> int:
        """Return the first value of a tag."""
        return next(iter(self.values.get(tag, ())), default)


def read_directory(data: bytes, wanted: Container[int] = NEEDED) -> Directory | None:
    """Return the first directory with the values of the wanted tags, as far as it goes; None if there is none."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = b"\x2b" in data[2:4]
    try:
        offset, = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, 8 if is_big else 4)
        count, = struct.unpack_from(f"{order}{'Q' if is_big else 'H'}", data, offset)
    except (struct.error, OverflowError):
        return None
    size, start = (20, offset + 8) if is_big else (12, offset + 2)
    count = min(count, MOST_ENTRIES, max(0, len(data) - start) // size)
    entries = [data[start + n * size:start + (n + 1) * size] for n in range(count)]
    values = {tag: found for tag, found in (read_entry(data, entry, order, is_big) for entry in entries)
              if tag in wanted and found}
    return Directory(order, is_big, offset, entries, values)


def read_entry(data: bytes, entry: bytes, order: str, is_big: bool) -> tuple[int, tuple[int, ...]]:
    """Return an entry's tag, and its first values as integers; none if its type is unknown or its place is wrong."""
    tag, kind, count = struct.unpack_from(f"{order}HH{'Q' if is_big else 'I'}", entry)
    letter, room = TYPES.get(kind, ""), 8 if is_big else 4
    if not letter or not count:
        return tag, ()
    where, start = entry, len(entry) - room
    if struct.calcsize(letter) * count > room:
        where, (start,) = data, struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", entry, start)
    try:
        found = struct.unpack_from(f"{order}{min(count, MOST_VALUES)}{letter}", where, start)
        if kind in (5, 10):
            halves = struct.unpack_from(f"{order}{2 * len(found)}{'I' if kind == 5 else 'i'}", where, start)
            found = tuple(top // (bottom or 1) for top, bottom in zip(halves[::2], halves[1::2], strict=True))
        return tag, tuple(int(value) for value in found)
    except (struct.error, OverflowError, ValueError):
        return tag, ()


def check(data: bytes) -> None:
    """Raise Refused for a TIFF whose samples are not read as its tags say, naming what is wrong."""
    found = read_directory(data)
    if found is None:
        return
    photometric, bits = found.first(PHOTOMETRIC, 0), found.first(BITS, 1)
    kind, form = PHOTOMETRICS.get(photometric, f"photometric {photometric}"), found.first(FORMAT, UNSIGNED)
    advice = "is not supported; save it as a PNG"
    if form == FLOAT:
        raise Refused(f"a TIFF of {bits}-bit float samples, whose range is undefined, {advice}")
    if form == SIGNED:
        raise Refused(f"a TIFF of {bits}-bit signed samples, whose range is undefined, {advice}")
    if photometric not in SUPPORTED or found.first(INK_SET, 1) != 1:
        raise Refused(f"a TIFF of {kind if photometric not in SUPPORTED else 'inks other than CMYK'} {advice}")
    if photometric == 6 and found.first(COMPRESSION, 1) == 1 and is_scaled(found):
        raise Refused(f"a TIFF of YCbCr with subsampling or a range of its own, uncompressed, {advice}")
    is_odd = (bits == 16 and photometric in (2, 5)) or found.first(EXTRA, 0) == 1
    if found.first(PLANAR, 1) == 2 and found.first(COMPRESSION, 1) == 1 and is_odd:
        raise Refused(f"a TIFF of {bits}-bit {kind} in separate planes, uncompressed, {advice}")
    if min(found.first(TILE_WIDTH, 1), MOST_PIXELS) * found.first(TILE_LENGTH, 1) > MOST_PIXELS:
        raise Refused(f"a TIFF whose tiles have more than {MOST_PIXELS:,} pixels (decompression bomb)")


def is_scaled(found: Directory) -> bool:
    """Return whether YCbCr samples need more than the plain conversion: subsampling or a range of their own."""
    plain = found.values.get(BLACK_WHITE, (0, 255, 128, 255, 128, 255))
    return found.values.get(SUBSAMPLING, (2, 2)) != (1, 1) or plain[::2] != (0, 128, 128)


def describe(data: bytes) -> str:
    """Return what kind of TIFF it is, for a message."""
    found = read_directory(data)
    if found is None:
        return "damaged: the directory of the TIFF cannot be read"
    bits = ", ".join(map(str, found.values.get(BITS, (1,))))
    photometric, order = found.first(PHOTOMETRIC, 0), "little" if found.order == "<" else "big"
    return (f"a {'Big' if found.is_big else ''}TIFF of {PHOTOMETRICS.get(photometric, 'unknown colours')} with {bits} "
            f"bits, {found.first(SAMPLES, 1)} samples per pixel, photometric {photometric}, compression "
            f"{found.first(COMPRESSION, 1)}, {order} endian, is not supported; save it as a PNG")


def without_metadata(data: bytes) -> bytes | None:
    """Return the file with a first directory of the tags that a reader needs, and no other directory."""
    found = read_directory(data)
    if found is None:
        return None
    needed = [entry for entry in found.entries if struct.unpack_from(f"{found.order}H", entry)[0] in NEEDED]
    count = struct.pack(f"{found.order}{'Q' if found.is_big else 'H'}", len(needed))
    table = count + b"".join(needed) + bytes(8 if found.is_big else 4)
    return data[:found.offset] + table + data[found.offset + len(table):]


@functools.cache
def silence_libtiff() -> None:
    """Make libtiff write no messages of its own to standard error; no effect if its library is not found."""
    with contextlib.suppress(OSError, AttributeError, StopIteration):
        lines = Path("/proc/self/maps").read_text().splitlines()
        path = next(line.split(None, 5)[5] for line in lines if "libtiff" in line)
        set_handler = ctypes.CDLL(path).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)
