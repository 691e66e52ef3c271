"""Writers of TIFF and PNG files straight from their specifications, for samples that Pillow does not write."""

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[Any]


def tiff(samples_HWC: Samples, photometric: int, *, order: str = "<", bits: int = 0, planar: int = 1, tile: int = 0,
         big: bool = False, deflate: bool = False, tags: dict[int, tuple[str, list[int]]] | None = None) -> bytes:
    """Return a TIFF of samples, each `bits` wide (by default as wide as they lie in memory).

    tile: side of the tiles; 0: one strip per plane. tags: further tags, each a letter of struct and values.
    """
    height, width, channels = samples_HWC.shape
    bits = bits or samples_HWC.dtype.itemsize * 8
    planes = [samples_HWC[..., c:c + 1] for c in range(channels)] if planar == 2 else [samples_HWC]
    parts = [pack(part, bits, order) for plane in planes for part in cut(plane, tile)]
    parts = [zlib.compress(part) for part in parts] if deflate else parts
    found = {256: ("H", [width]), 257: ("H", [height]), 258: ("H", [bits] * channels),
             259: ("H", [8 if deflate else 1]), 262: ("H", [photometric]), 277: ("H", [channels]), 284: ("H", [planar])}
    room, count, pointer, start = (8, "Q", "Q", 16) if big else (4, "H", "I", 8)
    offsets = [start + sum(map(len, parts[:n])) for n in range(len(parts))]
    if tile:
        found |= {322: ("H", [tile]), 323: ("H", [tile]), 324: ("I", offsets), 325: ("I", list(map(len, parts)))}
    else:
        found |= {278: ("H", [height]), 273: ("I", offsets), 279: ("I", list(map(len, parts)))}
    found |= tags or {}
    body = b"".join(parts)
    body += bytes(len(body) % 2)
    extra, entries, place = b"", b"", start + len(body)
    for tag, (letter, values) in sorted(found.items()):
        data = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(data) > room:
            pointed, extra = struct.pack(f"{order}{pointer}", place + len(extra)), extra + data
        else:
            pointed = data.ljust(room, b"\0")
        kind = {"B": 1, "H": 3, "I": 4, "Q": 16, "s": 2}[letter]
        entries += struct.pack(f"{order}HH{pointer}", tag, kind, len(values)) + pointed
    table = struct.pack(f"{order}{count}", len(found)) + entries + bytes(room)
    head = (b"II" if order == "<" else b"MM") + (struct.pack(f"{order}HHH", 43, 8, 0) if big else
                                                  struct.pack(f"{order}H", 42))
    return head + struct.pack(f"{order}{pointer}", place + len(extra)) + body + extra + table


def cut(plane: Samples, side: int) -> list[Samples]:
    """Return the tiles of a plane, filled up with zeros, or the plane."""
    if not side:
        return [plane]
    height, width, _ = plane.shape
    full = np.pad(plane, ((0, -height % side), (0, -width % side), (0, 0)))
    return [full[y:y + side, x:x + side] for y in range(0, height, side) for x in range(0, width, side)]


def pack(samples_HWC: Samples, bits: int, order: str) -> bytes:
    """Return samples row by row; those of less than 8 or of 12 bits begin at the highest bit of a byte."""
    if bits % 8 == 0:
        dtype = np.dtype(f"{order}{samples_HWC.dtype.str[1:]}")
        return samples_HWC.astype(dtype).tobytes()
    rows = samples_HWC.reshape(len(samples_HWC), -1).astype(np.int64)
    binary = (rows[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)
    return np.packbits(binary.reshape(len(rows), -1), axis=1).tobytes()


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(samples_HWC: Samples, colour: int, bits: int = 8, *more: tuple[bytes, bytes]) -> bytes:
    """Return a PNG without filters; `more`: (name, data) of chunks before the pixels."""
    height, width, _ = samples_HWC.shape
    rows = pack(samples_HWC, bits, ">")
    size = len(rows) // height
    raw = b"".join(b"\0" + rows[y * size:(y + 1) * size] for y in range(height))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)) +
            b"".join(chunk(name, data) for name, data in more) + chunk(b"IDAT", zlib.compress(raw)) +
            chunk(b"IEND", b""))


def jpeg_with(segments: bytes, plain: bytes) -> bytes:
    """Return a JPEG with more segments after its first marker."""
    return plain[:2] + segments + plain[2:]


def exif_segment(block: bytes) -> bytes:
    """Return the segment of a JPEG that holds an EXIF block."""
    return b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block


def exif_block(entries: list[tuple[int, int, int, bytes]]) -> bytes:
    """Return an EXIF block of entries: tag, type, count, four bytes of value."""
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + table + bytes(4)
