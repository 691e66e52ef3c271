"""Sound images with unsound descriptions are read, the right way up as far as they say it."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import files
from job.data.image_file.decode import Rejected, decode

SIX = (0x0112, 3, 1, struct.pack("<HH", 6, 0))


def encode(kind: str, **options: Any) -> bytes:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (64, 48), (255, 0, 0))
    image.paste((0, 0, 255), (32, 0, 64, 48))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def is_whole(data: bytes, *, is_turned: bool = False) -> None:
    """By orientation 6, left is shown at the top."""
    found = decode(data, 48)
    assert not isinstance(found, Rejected), found
    assert found.shape == ((64, 48, 3) if is_turned else (48, 64, 3))
    first, last = (found[5, 24], found[58, 24]) if is_turned else (found[24, 5], found[24, 58])
    assert np.abs(first.astype(int) - (255, 0, 0)).max() < 12 and np.abs(last.astype(int) - (0, 0, 255)).max() < 12


ODD = [(0x0128, 2, 2, b"2\0\0\0"), (0x0128, 7, 4, b"\1\2\3\4"), (0x011A, 2, 4, b"abc\0"), (0x0100, 2, 4, b"abc\0"),
       (0x011A, 5, 1, b"\xff\xff\xff\x7f"), (0x8769, 4, 1, b"\xff\xff\xff\xff"), (0x8769, 2, 4, b"abc\0"),
       (0x8825, 3, 900, b"\0\0\0\0"), (0x010E, 99, 1, b"\0\0\0\0"), (0x9003, 2, 0, b"\0\0\0\0"),
       (0x0201, 4, 1, b"\xff\xff\xff\xff"), (0x02BC, 12, 5000, b"\0\0\0\1")]


@pytest.mark.parametrize("entry", ODD)
def test_exif_tag_of_the_wrong_type_beside_an_orientation(entry: tuple[int, int, int, bytes]) -> None:
    block = files.exif_block(sorted([SIX, entry]))
    is_whole(files.jpeg_with(files.exif_segment(block), encode("JPEG", quality=95)), is_turned=True)
    is_whole(encode("PNG", exif=block), is_turned=True)
    is_whole(encode("WEBP", exif=b"Exif\0\0" + block, quality=95), is_turned=True)


@pytest.mark.parametrize("block", [
    b"no table at all", b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff",
    b"II*\0\x08\0\0\0\x01\0\x12"])
def test_exif_that_is_none(block: bytes) -> None:
    is_whole(files.jpeg_with(files.exif_segment(block), encode("JPEG", quality=95)))
    is_whole(encode("PNG", exif=b"Exif\0\0" + block))
    is_whole(encode("WEBP", exif=b"Exif\0\0" + block, quality=95))


@pytest.mark.parametrize("entry", [
    (0x0112, 2, 2, b"6\0\0\0"), (0x0112, 3, 1, struct.pack("<HH", 99, 0)), (0x0112, 3, 0, bytes(4)),
    (0x0112, 3, 40_000, struct.pack("<I", 8))])
def test_orientation_that_is_none(entry: tuple[int, int, int, bytes]) -> None:
    block = files.exif_block([entry])
    is_whole(files.jpeg_with(files.exif_segment(block), encode("JPEG", quality=95)))


def test_cut_exif_says_its_orientation_as_far_as_it_goes() -> None:
    block = files.exif_block([SIX, (0x0128, 3, 1, b"\2\0\0\0")])[:-12]
    is_whole(files.jpeg_with(files.exif_segment(block), encode("JPEG", quality=95)), is_turned=True)


@pytest.mark.parametrize("is_international", [False, True])
def test_long_compressed_text_of_a_png_is_passed_over(is_international: bool) -> None:
    text = PngInfo()
    if is_international:
        text.add_itxt("prompt", "A" * (2 << 20), zip=True)
    else:
        text.add_text("prompt", "A" * (2 << 20), zip=True)
    is_whole(encode("PNG", pnginfo=text))
    plain = encode("PNG", pnginfo=text)
    name = b"iTXt" if is_international else b"zTXt"
    start = plain.index(name) - 4
    end = start + 12 + int.from_bytes(plain[start:start + 4])
    after = plain[:start] + plain[end:-12] + plain[start:end] + plain[-12:]
    is_whole(after)
    is_whole(after[:-20] + b"wrong" + after[-15:])


@pytest.mark.parametrize("entry", [(282, ("s", [b"abc"])), (296, ("s", [b"2"])), (700, ("H", [7] * 9)),
                                   (34665, ("I", [2 ** 32 - 1])), (34853, ("H", [1, 2, 3]))])
def test_tiff_with_odd_tags(entry: tuple[int, Any]) -> None:
    values = np.zeros((48, 64, 3), np.uint8)
    values[:, :32, 0], values[:, 32:, 2] = 255, 255
    for deflate in (False, True):
        is_whole(files.tiff(values, 2, deflate=deflate, tags={entry[0]: entry[1], 274: ("H", [6])}), is_turned=True)


def test_long_comments_and_profiles_that_are_none() -> None:
    plain = encode("JPEG", quality=95)
    for marker, body in ((0xFE, b"x" * 65_000), (0xE2, b"ICC_PROFILE\0\xff\xff" + b"x" * 99), (0xE2, b"MPF\0II*\0\xff"),
                         (0xED, b"Photoshop 3.0\0008BIM\x03\xed"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0<\xff")):
        segment = bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
        is_whole(files.jpeg_with(segment, plain))
