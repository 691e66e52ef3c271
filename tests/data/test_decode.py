"""Every format and mode comes out as the right colours, the right way up; what is no image says why."""

import io
import resource
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from job.data.image_file import colour
from job.data.image_file import decode as decode_module
from job.data.image_file.decode import MOST_PIXELS, Rejected, decode
from job.errors import TryAgain
from support import shared


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (64, 48), (255, 0, 0))
    image.paste((0, 0, 255), (32, 0, 64, 48))
    return image.convert(mode)


def pixels(data: bytes, short_side: int = 48) -> np.ndarray[Any, Any]:
    found = decode(data, short_side)
    assert not isinstance(found, Rejected), found
    assert found.dtype == np.uint8 and found.shape[2] == 3
    return found


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_each_format_keeps_its_colours(kind: str) -> None:
    found = pixels(encode(halves(), kind))
    assert found.shape == (48, 64, 3)
    assert np.abs(found[24, 8].astype(int) - (255, 0, 0)).max() < 12
    assert np.abs(found[24, 56].astype(int) - (0, 0, 255)).max() < 12


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the left: showing it right means turning it a quarter clockwise
    found = pixels(encode(halves(), "JPEG", exif=exif))
    assert found.shape == (64, 48, 3)
    assert found[5, 24, 0] > 240 and found[58, 24, 2] > 240


@pytest.mark.parametrize(("mode", "kind", "left"), [
    ("L", "PNG", (76, 76, 76)), ("P", "PNG", (255, 0, 0)), ("1", "PNG", None), ("CMYK", "JPEG", (255, 0, 0)),
    ("CMYK", "TIFF", (255, 0, 0)), ("LA", "PNG", (76, 76, 76))])
def test_modes_are_read_rightly(mode: str, kind: str, left: tuple[int, int, int] | None) -> None:
    found = pixels(encode(halves(mode), kind))
    if left:
        assert np.abs(found[24, 8].astype(int) - left).max() < 14


def test_transparency_shows_white_not_what_lies_beneath() -> None:
    image = halves("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 48))
    found = pixels(encode(image, "PNG"))
    assert tuple(found[24, 8]) == (255, 255, 255) and tuple(found[24, 56]) == (0, 0, 255)
    palette = Image.new("P", (64, 48), 0)
    palette.putpalette([9, 9, 9, 0, 200, 0])
    palette.paste(1, (32, 0, 64, 48))
    found = pixels(encode(palette, "PNG", transparency=0))
    assert tuple(found[24, 8]) == (255, 255, 255) and tuple(found[24, 56]) == (0, 200, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.repeat(np.linspace(0, 65535, 64, dtype=np.uint16)[None], 48, 0)
    found = pixels(encode(Image.fromarray(values), kind))
    assert found[0, 0, 0] == 0 and found[0, 63, 0] == 255
    assert abs(int(found[0, 32, 0]) - 130) <= 2


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (48, 48), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(pixels(data)[20, 20]) == (200, 0, 0)


def bomb() -> bytes:
    """A PNG whose header claims more pixels than anybody photographs."""
    data = bytearray(encode(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "empty file"), (b"hello", "not an image"), (encode(halves(), "JPEG")[:400], "damaged"),
    (encode(halves(), "PNG")[:60], "damaged"), (bomb(), "decompression bomb"),
    (encode(Image.new("L", (3000, 30)), "PNG"), "20 times as long"),
    (encode(Image.new("F", (40, 40)), "TIFF"), "32-bit float")])
def test_what_is_no_usable_image_says_why(data: bytes, reason: str) -> None:
    found = decode(data, 48)
    assert isinstance(found, Rejected) and reason in found.reason


def test_bomb_is_rejected_before_its_pixels_are_read() -> None:
    assert MOST_PIXELS < 60_000 * 60_000
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(decode(bomb(), 48), Rejected)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began < 100_000


def test_damage_anywhere_in_a_file_never_raises() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = np.frombuffer(encode(halves(), kind), np.uint8)
        for _ in range(60):
            data = whole.copy()
            data[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
            decode(data.tobytes()[:rng.integers(1, len(data) + 1)], 48)


def test_packed_image_then_center_crop_equals_torchvisions_pipeline() -> None:
    reference = Compose([Resize(256), CenterCrop(224), PILToTensor()])
    vehicles, laptops = shared("data", "emergency", "images"), shared("data", "phones", "laptop")
    paths = sorted(vehicles.iterdir())[:25] + sorted(laptops.iterdir())[:10]
    import torch

    from job.data.batches import crop_centers

    for path in paths:
        with Image.open(path) as image:
            expected = reference(image.convert("RGB"))
        found = crop_centers([torch.from_numpy(pixels(path.read_bytes(), 256).copy())], 224)[0]
        assert (found.int() - expected.int()).abs().max() <= 1, path


def test_real_palette_gif_is_read() -> None:
    path = shared("data", "ants_bees", "train", "ants") / "imageNotFound.gif"
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)).mean()
    assert abs(float(pixels(path.read_bytes(), 256).mean()) - expected) < 25


def test_small_images_are_enlarged_as_torchvision_does(tmp_path: Path) -> None:
    assert pixels(encode(Image.new("RGB", (30, 20)), "PNG"), 256).shape == (256, 384, 3)


@pytest.mark.parametrize("kind", [struct.error, zlib.error, IndexError, TypeError, AttributeError, ZeroDivisionError])
def test_every_error_of_a_decoder_is_a_rejection(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_it(image: Image.Image) -> None:
        raise kind

    monkeypatch.setattr(ImageFile.ImageFile, "load", raise_it)
    assert decode(encode(halves(), "PNG"), 48) == Rejected(f"damaged: {kind.__name__}")


def test_large_images_are_converted_in_bands_to_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 256, (150, 211, 4)).astype(np.uint8))
    for mode, kind in (("RGB", "PNG"), ("RGBA", "PNG"), ("L", "TIFF"), ("P", "PNG"), ("RGBA", "WEBP")):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            data = encode(noise.convert(mode), kind, exif=exif)
            monkeypatch.setattr(colour, "BAND_PIXELS", 16 << 20)
            whole = pixels(data)
            for band_pixels in (1, 1000, 20_000):
                monkeypatch.setattr(colour, "BAND_PIXELS", band_pixels)
                assert (pixels(data) == whole).all(), (mode, kind, orientation)


def test_lack_of_memory_says_nothing_about_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_it(image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", raise_it)
    with pytest.raises(TryAgain, match="memory ran out"):
        decode(encode(halves(), "PNG"), 48)


def test_failure_of_a_decoder_without_memory_says_nothing_about_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "can_allocate", lambda num_bytes: False)
    with pytest.raises(TryAgain, match="memory ran out"):
        decode(encode(halves(), "JPEG")[:400], 48)
