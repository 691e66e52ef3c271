"""The chunks of a PNG file (W3C PNG, third edition), read before any pixel is decoded."""

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Critical chunks, and the one ancillary chunk that changes pixels.
NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of each whole chunk, its length, name and checksum included."""
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start:start + 4])
        if end > len(data):
            return
        yield data[start + 4:start + 8], start, end
        start = end


def check(data: bytes) -> None:
    """Raise ValueError if a chunk of pixels fails its checksum, as browsers do; Pillow does not look at these."""
    view = memoryview(data)
    for name, start, end in chunks(data):
        if name in NEEDED and zlib.crc32(view[start + 4:end - 4]) != int.from_bytes(data[end - 4:end]):
            raise ValueError(f"the checksum of chunk {name.decode()} is wrong")


def without_metadata(data: bytes) -> bytes | None:
    """Return the file without chunks that change no pixel; None if it does not end with a whole IEND."""
    found = list(chunks(data))
    if not any(name == b"IEND" for name, _, _ in found):
        return None
    return SIGNATURE + b"".join(data[start:end] for name, start, end in found if name in NEEDED)


def exif(data: bytes) -> bytes:
    """Return the EXIF block, from its byte order on; empty if there is none."""
    block = next((data[start + 8:end - 4] for name, start, end in chunks(data) if name == b"eXIf"), b"")
    return block.removeprefix(b"Exif\0\0")


def bits_per_sample(data: bytes) -> int:
    """Return the bit depth of IHDR."""
    return data[24]


def in_8_bits(transparent: object, mode: str, num_bits: int) -> object:
    """Return a transparent colour that tRNS gives in the file's samples, in the 8 bits that Pillow scales them to."""
    if mode == "L" and isinstance(transparent, int) and num_bits < 8:
        return transparent * (255 // (2 ** num_bits - 1))
    if mode == "RGB" and isinstance(transparent, tuple) and num_bits == 16:
        return tuple(value >> 8 for value in transparent)
    return transparent
