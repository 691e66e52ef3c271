"""The commands grid, augment and sample: what they print and draw."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support import ROOT, S3, job


def test_grid_prints_every_combination_and_sweep_reads_it() -> None:
    done = job("grid", "--lr", "0.1", "--lr", "0.01", "--epochs", "10", "--epochs", "20")
    assert done.out == "trial,lr,epochs\n1,0.1,10\n2,0.1,20\n3,0.01,10\n4,0.01,20\n"


def tiles_of(sheet: Path) -> list[np.ndarray]:
    """The eight images of a sheet's first row; each is 40 pixels wide, and 4 apart from the next, up to the edge."""
    with Image.open(sheet) as image:
        top, left = image.height - 6 * 44, image.width - 8 * 44
        return [np.asarray(image.crop((left + 44 * k, top, left + 44 * k + 40, top + 40))).astype(int)
                for k in range(8)]


def test_augment_names_the_classes_and_the_settings_whatever_they_are_called(spare_images: Path) -> None:
    """A name has at most 120 pixels; one of control characters is shown by their escapes."""
    (spare_images / "bar").rename(spare_images / ("=\x1b[2J" + "long" * 20))
    settings = ["--rotation", "30", "--noise", "0.1", "--blur", "1", "--shift", "1"]
    for name, *more in (("few.png",), ("many.png", *settings)):
        done = job("augment", spare_images, "--out", spare_images / name, "--image-size", "40", *more)
        assert done.code == 0, done.err
    with Image.open(spare_images / "few.png") as few, Image.open(spare_images / "many.png") as many:
        assert few.width == many.width <= 8 * 44 + 4 + 140 and 6 * 44 + 4 < few.height < many.height
        left = np.asarray(few.convert("L"))[-6 * 44:, :few.width - 8 * 44 - 4]
        assert all((left[44 * row:44 * row + 40] < 128).any() for row in range(6)), "each row has a name"


def test_augment_draws_a_sheet_of_plain_and_augmented_images(shapes: Path, tmp_path: Path) -> None:
    done = job("augment", shapes, "--out", tmp_path / "sheet.png", "--image-size", "40", "--rotation", "30",
               "--noise", "0.1")
    assert done.code == 0, done.err
    tiles = tiles_of(tmp_path / "sheet.png")
    assert len({tile.tobytes() for tile in tiles}) == 8
    still = job("augment", shapes, "--out", tmp_path / "still.png", "--image-size", "40", "--crop", "0", "--flip", "0")
    assert still.code == 0
    plain, *others = tiles_of(tmp_path / "still.png")
    assert all(np.abs(other - plain).max() <= 1 for other in others)


@pytest.mark.parametrize(("out", "code", "part"), [
    ("none/x.png", 66, "there is no folder"), ("", 78, "a folder; name a file in it"),
    ("file/x.png", 78, "is no folder"), ("full", 75, "No space left on device")])
def test_augment_that_cannot_write_its_sheet_names_the_file(
        out: str, code: int, part: str, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").symlink_to("/dev/full")
    done = job("augment", shapes, "--out", tmp_path / out, "--image-size", "40")
    assert done.code == code and str(tmp_path / out) in done.err and part in done.err
    assert "standard output" not in done.err and "Traceback" not in done.err


def test_sample_draws_into_a_bucket_and_says_where_it_cannot(tmp_path: Path, s3: S3) -> None:
    assert job("sample", "s3://bucket/drawn", "--num", "20", **s3.env).code == 0
    listed = s3.client().list_objects_v2(Bucket="bucket", Prefix="drawn/")["Contents"]
    assert len(listed) == 20 and not (ROOT / "s3:").exists()
    (tmp_path / "file").touch()
    done = job("sample", tmp_path / "file" / "x")
    assert done.code == 78 and str(tmp_path / "file") in done.err and "Traceback" not in done.err


def test_sample_images_are_all_different_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert job("sample", tmp_path / name, "--num", "40").code == 0
    one, other = ({path.relative_to(root): path.read_bytes() for path in root.rglob("*.jpg")}
                  for root in (tmp_path / "a", tmp_path / "b"))
    assert one == other and len(set(one.values())) == len(one) == 40
    assert {path.parent.name for path in one} == {"phone", "tablet", "laptop", "washing_machine", "dishwasher"}
