"""A damaged image is rejected, though its file ends as it should and its decoder does not complain."""

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

import files
from job.data.image_file import damage, jpeg
from job.data.image_file.decode import Rejected, decode
from support import shared

END = b"\xff\xd9"
WAYS: dict[str, dict[str, Any]] = {
    "baseline": {}, "optimised": {"optimize": True}, "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1}, "progressive restarts": {"progressive": True, "restart_marker_blocks": 7},
    "full colour": {"subsampling": 0}}


def photograph(seed: int) -> Image.Image:
    """Something smooth, something sharp, some noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8))
    smooth = small.resize((480, 360), Image.Resampling.BICUBIC)
    noise = rng.normal(0, 12, (360, 480, 1))
    return Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def is_rejected(data: bytes) -> bool:
    found = decode(data, 48)
    if isinstance(found, Rejected):
        assert found.reason.startswith("damaged: "), found
    return isinstance(found, Rejected)


def test_warnings_of_this_pillow_can_be_read() -> None:
    assert damage.way_to_warnings()


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[:chance.randrange(jpeg.header_size(data) + 20, len(data) - 60)] + END


def overwrite(data: bytes, chance: random.Random, run: bytes) -> bytes:
    start = chance.randrange(jpeg.header_size(data), len(data) - len(run) - 2)
    return data[:start] + run + data[start + len(run):]


def leave_out(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(jpeg.header_size(data), len(data) - 4098)
    return data[:start] + data[start + 4096:]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "spoil", "least"), [
    ("cut", cut, 30), ("zeros", lambda data, chance: overwrite(data, chance, bytes(4096)), 24),
    ("noise", lambda data, chance: overwrite(data, chance, chance.randbytes(4096)), 29), ("gap", leave_out, 29)])
def test_jpeg_that_still_ends_as_it_should(way: str, name: str, spoil: Callable[[bytes, random.Random], bytes],
                                           least: int) -> None:
    chance, num_rejected = random.Random(f"{way} {name}"), 0
    for seed in range(30):
        whole = encode(photograph(seed), quality=chance.choice([75, 90]), **WAYS[way])
        assert not is_rejected(whole)
        num_rejected += is_rejected(spoil(whole, chance))
    assert num_rejected >= least


@pytest.mark.parametrize("folder", ["phones", "emergency", "ants_bees"])
def test_no_real_image_is_rejected(folder: str) -> None:
    kinds = (".jpg", ".jpeg", ".png", ".gif")
    paths = [path for path in shared("data", folder).rglob("*") if path.suffix.lower() in kinds]
    assert len(paths) > 200
    assert [path for path in paths if is_rejected(path.read_bytes())] == []


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (48, 64), (333, 217)])
def test_no_sound_jpeg_is_rejected(mode: str, way: str, size: tuple[int, int]) -> None:
    for image in (Image.new(mode, size), photograph(1).convert(mode).resize(size)):
        for quality in (1, 50, 100):
            data = encode(image, quality=quality, **WAYS[way])
            assert not is_rejected(data)
            assert not is_rejected(data + b"what a camera appends" + data)


def test_what_the_header_says_oddly_is_no_damage() -> None:
    whole = encode(photograph(0))
    odd_version = whole[:11] + b"\x07" + whole[12:]
    assert whole[6:11] == b"JFIF\0" and not is_rejected(odd_version)
    assert not is_rejected(whole[:-2] + b"\0\0" + END)
    assert not is_rejected(whole[:20] + b"\0\0\0" + whole[20:])


def test_scans_that_are_missing_and_a_missing_end() -> None:
    whole = encode(photograph(0), progressive=True)
    starts = [place for place in range(len(whole)) if whole[place:place + 2] in (b"\xff\xda", b"\xff\xc4")]
    for start in starts[3:]:
        assert is_rejected(whole[:start] + END)
    assert is_rejected(encode(photograph(0))[:-2] + bytes(5000))


@pytest.mark.parametrize("place", [0.3, 0.5, 0.9])
def test_png_with_a_wrong_byte_is_rejected(place: float) -> None:
    whole = bytearray(encode(photograph(0), "PNG"))
    whole[int(len(whole) * place)] ^= 1
    assert is_rejected(bytes(whole))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_cut_files_of_the_other_formats_are_rejected(kind: str) -> None:
    whole = encode(photograph(0), kind)
    for share in (0.2, 0.5, 0.8, 0.95):
        data = whole[:int(len(whole) * share)]
        assert is_rejected(data), share
        if kind == "PNG":
            assert is_rejected(data + files.chunk(b"IEND", b""))
        if kind == "GIF":
            assert is_rejected(data + b"\0;")


def test_where_warnings_cannot_be_read_images_are_decoded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(photograph(0))
    expected = decode(whole, 48)
    monkeypatch.setattr(damage, "way_to_warnings", lambda: None)
    found = decode(whole, 48)
    assert not isinstance(found, Rejected) and (found == expected).all()
