"""Pixels, scans, time and memory of one image are bounded; what is beyond is rejected by name, and never by chance."""

import io
import resource
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

import files
from job.data.image_file.bounds import MOST_PIXELS, MOST_SCANS, MOST_WEBP_PIXELS
from job.data.image_file.decode import Rejected, decode


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(data: bytes) -> str:
    """Return why a file is rejected, within a second of processor time and 100 MB."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = decode(data, 48)
    assert time.process_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert isinstance(found, Rejected)
    return found.reason


def lossless_webp(width: int, height: int, *, is_extended: bool) -> bytes:
    """Return the header of a WebP of this size; a decoder takes memory for it before it sees that nothing follows."""
    body = b"VP8L" + struct.pack("<I", 10) + b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14) + bytes(5)
    if is_extended:
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + body
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.parametrize("is_extended", [False, True])
def test_webp_of_a_few_bytes_takes_no_memory(is_extended: bool) -> None:
    data = lossless_webp(12_000, 12_000, is_extended=is_extended)
    assert reason(data) == f"12000 x 12000 is more than {MOST_WEBP_PIXELS:,} pixels in a WebP (decompression bomb)"


def test_lossy_webp_says_its_size_too() -> None:
    data = bytearray(encode(Image.new("RGB", (64, 48)), "WEBP"))
    assert data[12:16] == b"VP8 "
    data[26:30] = struct.pack("<HH", 16_000, 16_000)
    assert "16000 x 16000 is more than" in reason(bytes(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_more_pixels_than_documented(kind: str) -> None:
    data = bytearray(encode(Image.new("RGB", (64, 48)), kind))
    at, size = {"JPEG": (data.find(b"\xff\xc0") + 5, struct.pack(">HH", 60_000, 60_000)),
                "PNG": (16, struct.pack(">II", 60_000, 60_000)), "GIF": (6, struct.pack("<HH", 60_000, 60_000)),
                "BMP": (18, struct.pack("<ii", 60_000, 60_000)), "TIFF": (0, b"")}[kind]
    data[at:at + len(size)] = size
    if kind == "PNG":
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    if kind == "TIFF":
        values = np.zeros((48, 64, 1), np.uint8)
        data = bytearray(files.tiff(values, 1, tags={256: ("I", [60_000]), 257: ("I", [60_000])}))
    assert f"{MOST_PIXELS:,} pixels" in reason(bytes(data))


def test_tiff_of_few_pixels_in_huge_tiles() -> None:
    values = np.zeros((16, 16, 1), np.uint8)
    sizes = {322: ("I", [60_000]), 323: ("I", [60_000])}
    assert "tiles have more than" in reason(files.tiff(values, 1, tile=16, tags=sizes))


def test_jpeg_of_repeated_scans() -> None:
    data = encode(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    last_scan = data[data.rfind(b"\xff\xda"):-2]
    assert reason(data[:-2] + last_scan * 5000 + data[-2:]) == (
        f"a JPEG of more than {MOST_SCANS} scans (decompression bomb)")
    assert not isinstance(decode(data, 48), Rejected)


def test_thumbnail_in_a_jpeg_adds_no_scans() -> None:
    small = encode(Image.new("RGB", (32, 32)), "JPEG", progressive=True)
    segment = b"\xff\xe1" + struct.pack(">H", len(small) * 20 + 2) + small * 20
    data = files.jpeg_with(segment, encode(Image.new("RGB", (64, 48)), "JPEG", progressive=True))
    assert not isinstance(decode(data, 48), Rejected)
