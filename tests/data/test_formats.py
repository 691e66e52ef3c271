"""Pillow reads a TIFF or PNG as its file says: each is held against NumPy's reading of the specification."""

import io
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import files
from job.data.image_file.decode import Rejected, decode

HEIGHT, WIDTH = 24, 32
rng = np.random.default_rng(0)


def samples(channels: int, bits: int) -> NDArray[Any]:
    dtype = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    return rng.integers(0, 2 ** bits, (HEIGHT, WIDTH, channels), dtype=np.uint64).astype(dtype)


def is_read_as(data: bytes, expected_HWC: NDArray[Any], levels: float = 1) -> None:
    found = decode(data, HEIGHT)
    assert not isinstance(found, Rejected), found
    assert np.abs(found - np.broadcast_to(expected_HWC, (HEIGHT, WIDTH, 3))).max() <= levels


def is_refused(data: bytes, *parts: str) -> None:
    found = decode(data, HEIGHT)
    assert isinstance(found, Rejected) and all(part in found.reason for part in parts), found
    assert "damaged" not in found.reason


LAYOUTS: list[dict[str, Any]] = [
    {}, {"tile": 16}, {"deflate": True}, {"deflate": True, "tile": 16}, {"big": True}]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16, 32])
@pytest.mark.parametrize("order", ["<", ">"])
def test_grey_tiff_of_any_depth_has_its_range_and_its_white(bits: int, order: str, layout: dict[str, Any]) -> None:
    for photometric in (0, 1):
        values = samples(1, bits)
        data = files.tiff(values, photometric, order=order, bits=bits, **layout)
        light = values * 255.0 / (2 ** bits - 1)
        if isinstance(decode(data, HEIGHT), Rejected):
            # Pillow does not read these; 8 bits and the 16 of scanners are among what it does.
            assert bits in (12, 32) or (order == ">" and ("big" in layout or (bits == 16 and photometric == 0)))
            is_refused(data, f"{bits} bits", f"photometric {photometric}", "not supported")
        else:
            is_read_as(data, light if photometric else 255 - light)


@pytest.mark.parametrize(("bits", "order", "planar"), list(product((8, 16), "<>", (1, 2))))
@pytest.mark.parametrize("layout", LAYOUTS[:4])
def test_colours_of_a_tiff_in_any_layout(bits: int, order: str, planar: int, layout: dict[str, Any]) -> None:
    most = 2.0 ** bits - 1
    rgb, cmyk = samples(3, bits), samples(4, bits)
    ink = cmyk / most
    for values, photometric, expected in ((rgb, 2, rgb * 255.0 / most),
                                          (cmyk, 5, 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:]))):
        data = files.tiff(values, photometric, order=order, planar=planar, **layout)
        if planar == 2 and bits == 16 and not layout.get("deflate"):
            is_refused(data, "16-bit", "in separate planes, uncompressed")
        else:
            is_read_as(data, expected, 3)


@pytest.mark.parametrize(("extra", "channels", "bits", "deflate"), list(product((0, 1, 2), (2, 4), (8, 16), (0, 1))))
def test_extra_samples_of_a_tiff_are_alpha_only_if_it_says_so(extra: int, channels: int, bits: int,
                                                              deflate: int) -> None:
    most, values = 2.0 ** bits - 1, samples(channels, bits)
    alpha = values[..., -1:] / most
    if extra == 1:
        values[..., :-1] = values[..., :-1] * alpha
    colour = values[..., :-1] * 255.0 / most
    expected = [colour, colour + 255 * (1 - alpha), colour * alpha + 255 * (1 - alpha)][extra]
    data = files.tiff(values, 1 if channels == 2 else 2, deflate=bool(deflate), tags={338: ("H", [extra])})
    if channels == 2 and bits == 16:
        is_refused(data, "a TIFF of grey with 16, 16 bits")
    else:
        is_read_as(data, expected, 3)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_any_depth(bits: int) -> None:
    values, palette = samples(1, bits), rng.integers(0, 256, (2 ** bits, 3)).astype(np.uint8)
    colours = palette[values[..., 0]]
    tags = {320: ("H", (palette.T.reshape(-1) * np.uint16(257)).tolist())}
    is_read_as(files.tiff(values, 3, bits=bits, tags=tags), colours, 0)
    alpha = rng.integers(0, 256, 2 ** bits).astype(np.uint8)
    opacity = alpha[values[..., 0]][..., None] / 255
    data = files.png(values, 3, bits, (b"PLTE", palette.tobytes()), (b"tRNS", alpha.tobytes()))
    is_read_as(data, colours * opacity + 255 * (1 - opacity), 2)


@pytest.mark.parametrize(("bits", "colour"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)])
def test_transparent_colour_of_a_png_counts_in_the_samples_of_the_file(bits: int, colour: int) -> None:
    values = samples(3 if colour else 1, bits)
    key = values[3, 3]
    light = values * 255.0 / (2 ** bits - 1)
    is_read_as(files.png(values, colour, bits), light)
    data = files.png(values, colour, bits, (b"tRNS", key.astype(">u2").tobytes()))
    is_read_as(data, np.where((values == key).all(-1, keepdims=True), 255, light))


@pytest.mark.parametrize(("bits", "colour"), [(8, 4), (16, 4), (8, 6), (16, 6)])
def test_alpha_of_a_png(bits: int, colour: int) -> None:
    values = samples(2 if colour == 4 else 4, bits)
    light = values * 255.0 / (2 ** bits - 1)
    is_read_as(files.png(values, colour, bits), light[..., :-1] * light[..., -1:] / 255 + 255 - light[..., -1:], 3)


def test_ycbcr_of_a_tiff_follows_its_conversion_or_is_refused() -> None:
    values = samples(3, 8)
    y, cb, cr = (values[..., n].astype(float) for n in range(3))
    rgb = np.stack([y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
                    y + 1.772 * (cb - 128)], -1).clip(0, 255)
    is_read_as(files.tiff(values, 6, tags={530: ("H", [1, 1])}), rgb, 2)
    is_refused(files.tiff(values, 6), "YCbCr with subsampling")


@pytest.mark.parametrize(("form", "dtype", "word"), [
    (2, "i1", "8-bit signed"), (2, "i2", "16-bit signed"), (2, "i4", "32-bit signed"), (3, "f2", "16-bit float"),
    (3, "f4", "32-bit float"), (3, "f8", "64-bit float")])
def test_samples_without_a_range_are_refused_by_name(form: int, dtype: str, word: str) -> None:
    values = samples(1, 4).astype(dtype)
    is_refused(files.tiff(values, 1, tags={339: ("H", [form])}), word, "range is undefined")


@pytest.mark.parametrize(("photometric", "name"), [(8, "Lab"), (9, "ICC Lab"), (32803, "colour filter array")])
def test_colour_spaces_that_are_not_read_are_refused_by_name(photometric: int, name: str) -> None:
    is_refused(files.tiff(samples(3, 8), photometric), f"a TIFF of {name} is not supported")


def test_first_page_of_a_tiff_counts(tmp_path: Any) -> None:
    pages = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    is_read_as((tmp_path / "two.tif").read_bytes(), np.array([255, 0, 0]), 0)


@pytest.mark.parametrize(("mode", "masks"), [(16, (0xF800, 0x7E0, 0x1F)), (32, (0xFF0000, 0xFF00, 0xFF))])
@pytest.mark.parametrize("is_top_down", [False, True])
def test_bitmaps_with_masks(mode: int, masks: tuple[int, int, int], is_top_down: bool) -> None:
    values = samples(1, mode)[..., 0]
    rows = values if is_top_down else values[::-1]
    body = rows.astype(f"<u{mode // 8}").tobytes()
    sizes = np.array([40, WIDTH, -HEIGHT if is_top_down else HEIGHT], "<i4").tobytes()
    head = sizes + np.array([1, mode], "<u2").tobytes() + np.array([3, len(body), 0, 0, 0, 0], "<u4").tobytes()
    head += np.array(masks, "<u4").tobytes()
    data = b"BM" + np.array([14 + len(head) + len(body), 0, 14 + len(head)], "<u4").tobytes() + head + body
    expected = np.stack([(values & mask) * 255.0 / mask for mask in masks], -1)
    is_read_as(data, expected, 4.5 if mode == 16 else 1)


def test_inverted_cmyk_of_a_jpeg_is_read_as_adobe_writes_it(tmp_path: Any) -> None:
    ink = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    ink[:, :16] = (0, 255, 255, 0)
    Image.fromarray(ink, "CMYK").save(tmp_path / "inks.jpg", quality=95)
    found = decode((tmp_path / "inks.jpg").read_bytes(), HEIGHT)
    assert not isinstance(found, Rejected)
    assert np.abs(found[12, 4].astype(int) - (255, 0, 0)).max() < 12 and found[12, 28].min() > 243


def test_jpegs_that_are_not_read_are_refused_by_name() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(buffer, "JPEG")
    plain = buffer.getvalue()
    frame = plain.index(b"\xff\xc0")
    is_refused(plain[:frame + 4] + b"\x0c" + plain[frame + 5:], "a JPEG with 12 bits")
    is_refused(plain[:frame + 1] + b"\xf7" + plain[frame + 2:], "a JPEG-LS JPEG")
    is_refused(plain[:frame + 9] + b"\x02" + plain[frame + 10:], "2 components")


def test_libtiff_says_nothing_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    whole = files.tiff(samples(3, 8), 2, deflate=True)
    for place in range(8, len(whole), 40):
        decode(whole[:place] + bytes(8) + whole[place + 8:], HEIGHT)
    assert capfd.readouterr().err == ""
