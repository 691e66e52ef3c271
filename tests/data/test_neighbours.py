"""Near-identical images are found, stay on one side of a drawn split, and are warned of in a given one."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from job.data import neighbours
from job.data.descriptor import Descriptors, alike, describe
from job.data.image_file.decode import decode
from job.data.neighbours import near_groups
from job.trial import ImageOptions
from support import draw, job, shared

NEAR = ImageOptions().near


def as_jpeg(image: Image.Image, quality: int = 85) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop((round(left * width), round(top * height), round(width - right * width),
                       round(height - bottom * height)))


def altered(image: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Yield copies that show the same, by the kind of alteration."""
    image.save(file := io.BytesIO(), "WEBP", quality=80)
    yield "webp", file.getvalue()
    yield "quality 30", as_jpeg(image, 30)
    yield "half", as_jpeg(image.resize((image.width // 2, image.height // 2)))
    yield "double", as_jpeg(image.resize((image.width * 2, image.height * 2)))
    yield "brighter", as_jpeg(ImageEnhance.Brightness(image).enhance(1.2))
    yield "darker", as_jpeg(ImageEnhance.Brightness(image).enhance(0.7))
    yield "contrast", as_jpeg(ImageEnhance.Contrast(image).enhance(0.7))
    yield "crop", as_jpeg(cropped(image, 0.05, 0.05, 0.05, 0.05))
    yield "crop at one side", as_jpeg(cropped(image, 0.04, 0, 0, 0.01))


def described(files: list[bytes]) -> bytes:
    """Return the descriptors of image files, as a pack's decoding processes make them."""
    return b"".join(describe(pixels) for file in files if isinstance(pixels := decode(file, 256), np.ndarray))


def groups_of(files: list[bytes], near: float = NEAR) -> list[str]:
    return near_groups(described(files), [f"{i:06d}" for i in range(len(files))], near)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Image.Image]:
    folder = tmp_path_factory.mktemp("drawn")
    for number in range(12):
        draw(folder / f"{number}.jpg", ("disc", "bar", "ring")[number % 3], number, (200, 160))
    # Noise alone has nothing that survives a crop.
    return [Image.open(folder / f"{number}.jpg").filter(ImageFilter.GaussianBlur(5)) for number in range(12)]


def real(folder: str) -> dict[str, Path]:
    root = shared("data", folder)
    return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.jpg"))}


def test_altered_copies_of_drawn_images_are_found(drawn: list[Image.Image]) -> None:
    files = [file for image in drawn for file in (as_jpeg(image, 95), *(data for _, data in altered(image)))]
    assert groups_of(files) == [f"{i // 10 * 10:06d}" for i in range(len(files))]


def test_copies_are_found_where_most_images_are_copies_of_one(drawn: list[Image.Image]) -> None:
    copies = [as_jpeg(cropped(drawn[0], step % 7 / 150, step % 5 / 100, 0, 0), 50 + step) for step in range(40)]
    keys = groups_of([*copies, *(as_jpeg(image) for image in drawn[1:])])
    assert set(keys[:40]) == {"000000"} and len(set(keys)) == 12


@pytest.mark.parametrize("folder", ["phones", "emergency", "ants_bees"])
def test_altered_copies_of_real_images_are_found(folder: str) -> None:
    images = [Image.open(path).convert("RGB") for path in list(real(folder).values())[::15]]
    for image in images:
        whole = as_jpeg(image, 95)
        for kind, copy in altered(image):
            assert groups_of([whole, copy]) == ["000000", "000000"], kind


def test_product_images_on_white_that_look_alike_are_not_united() -> None:
    images = real("phones")
    assert len(set(groups_of([path.read_bytes() for path in images.values()]))) == len(images)


def test_flat_images_and_faint_gradients_are_no_group() -> None:
    ramp = np.linspace(200, 210, 300).astype(np.uint8)
    plain = [Image.new("RGB", (300, 200), colour) for colour in ("white", "#fefefe", "black", "red")]
    assert len(set(groups_of([*map(as_jpeg, (*plain, Image.fromarray(np.tile(ramp, (200, 1))).convert("RGB")))]))) == 5


def test_images_of_another_shape_are_no_copies(drawn: list[Image.Image]) -> None:
    changed = drawn[0].resize((160, 200)), cropped(drawn[0], 0.05, 0, 0.05, 0)
    assert [len(set(groups_of([as_jpeg(drawn[0]), as_jpeg(image)]))) for image in changed] == [2, 1]


def test_groups_depend_on_content_not_on_order(drawn: list[Image.Image]) -> None:
    files = [file for image in drawn for file in (as_jpeg(image, 95), as_jpeg(cropped(image, 0.03, 0, 0.03, 0)))]
    digests = [f"{(7 * i) % 24:06d}" for i in range(24)]
    forward = dict(zip(digests, near_groups(described(files), digests, NEAR), strict=True))
    backward = dict(zip(digests[::-1], near_groups(described(files[::-1]), digests[::-1], NEAR), strict=True))
    assert forward == backward and len(set(forward.values())) == 12


def test_number_of_comparisons_is_bounded_however_many_images_look_alike(
        drawn: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    """200 mixtures of five images: 19,900 pairs, most of them somewhat alike; a bounded number is compared."""
    weights = np.random.default_rng(0).dirichlet(np.ones(5), 200)
    five = np.stack([np.asarray(image.resize((64, 64))).astype(float) for image in drawn[:5]])
    data = b"".join(describe(np.tensordot(some, five, 1).astype(np.uint8)) for some in weights)
    compared = {1: 0, 9: 0}

    def counted(whole: Descriptors, others: Descriptors, rows: Any, columns: Any, least: float) -> Any:
        compared[len(rows)] += len(whole)
        return alike(whole, others, rows, columns, least)

    monkeypatch.setattr(neighbours, "alike", counted)
    near_groups(data, [f"{i:06d}" for i in range(200)], NEAR)
    assert 200 < compared[1] <= 200 * neighbours.MOST_CANDIDATES and compared[9] <= compared[1]


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Two classes of 20 images; each has a brighter, smaller copy of its first five, in class folders."""
    for label in ("bar", "disc"):
        for number in range(20):
            path = tmp_path / "in" / label / f"{number:02d}.jpg"
            draw(path, label, number, (120, 96))
            if number < 5:
                image = ImageEnhance.Brightness(Image.open(path)).enhance(1.1)
                image.resize((90, 72)).save(path.with_name(f"{number:02d}-copy.jpg"), quality=60)
    return tmp_path / "in"


def passport_of(sweep: Path) -> dict[str, Any]:
    return dict(json.loads((sweep / "pack" / "passport.json").read_text()))


def splits_of(sweep: Path) -> dict[str, str]:
    lines = (sweep / "pack" / passport_of(sweep)["table"]["name"]).read_text().splitlines()[1:]
    return {line.split(",")[0]: line.split(",")[2] for line in lines}


def test_drawn_split_keeps_near_identical_images_together(copies: Path, tmp_path: Path) -> None:
    groups = [[f"{label}/{n:02d}-copy.jpg", f"{label}/{n:02d}.jpg"] for label in ("bar", "disc") for n in range(5)]
    shutil.copy(copies / "bar" / "03.jpg", copies / "bar" / "zero.jpg")
    groups[3].append("bar/zero.jpg")
    done = job("prepare", copies, tmp_path / "s", "--short-side", 64)
    assert done.code == 0 and "near-identical: bar/00-copy.jpg, bar/00.jpg" in done.out, done.out + done.err
    assert passport_of(tmp_path / "s")["near_duplicates"] == groups
    for seed in (0, 1, 2):
        job("prepare", copies, tmp_path / str(seed), "--short-side", 64, "--split-seed", seed)
        splits = splits_of(tmp_path / str(seed))
        assert all(len({splits[name] for name in group}) == 1 for group in groups)


def test_near_0_looks_for_none_and_without_any_the_pack_is_the_same(copies: Path, tmp_path: Path) -> None:
    job("prepare", copies, tmp_path / "off", "--near", 0, "--short-side", 64)
    assert passport_of(tmp_path / "off")["near_duplicates"] == []
    splits = splits_of(tmp_path / "off")
    assert any(splits[name] != splits[name.replace("-copy", "")] for name in splits if "copy" in name)
    for path in copies.rglob("*-copy.jpg"):
        path.unlink()
    for near in (0, 0.1):
        assert job("prepare", copies, tmp_path / str(near), "--near", near, "--short-side", 64).code == 0
    first, second = (passport_of(tmp_path / near) for near in ("0", "0.1"))
    assert first["pack_hash"] == second["pack_hash"] and second["near_duplicates"] == []


def test_given_split_that_leaks_is_warned_of_with_the_images(copies: Path, tmp_path: Path) -> None:
    for path in copies.rglob("*.jpg"):
        number = int(path.name[:2])
        split = "test" if "copy" in path.name else "val" if number > 14 else "train"
        target = tmp_path / "split" / split / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    done = job("prepare", tmp_path / "split", tmp_path / "s", "--short-side", 64)
    assert done.code == 0, done.err
    passport = passport_of(tmp_path / "s")
    assert passport["left_out"] == [] and len(passport["near_duplicates"]) == 10
    assert sum("in different splits" in text for text in passport["warnings"]) == 10
    assert "test/bar/00-copy.jpg (test), train/bar/00.jpg (train)" in done.out


def test_near_identical_images_with_different_labels_are_a_warning(copies: Path, tmp_path: Path) -> None:
    (copies / "bar" / "02-copy.jpg").rename(copies / "disc" / "wrong.jpg")
    job("prepare", copies, tmp_path / "s", "--short-side", 64)
    assert ("near-identical images have different labels: bar/02.jpg, disc/wrong.jpg"
            in passport_of(tmp_path / "s")["warnings"])


def test_class_of_copies_is_too_small_and_the_message_says_why(copies: Path, tmp_path: Path) -> None:
    for path in (copies / "bar").glob("*.jpg"):
        if int(path.name[:2]) > 1:
            path.unlink()
    done = job("prepare", copies, tmp_path / "s", "--short-side", 64)
    assert done.code == 65 and ("'bar' has 2 different images (near-identical ones count as one; --near 0 counts them "
                                "all); 3 are needed") in " ".join(done.err.split())
    assert job("prepare", copies, tmp_path / "all", "--short-side", 64, "--near", 0).code == 0


def test_pack_of_an_earlier_version_is_used_with_the_default(copies: Path, tmp_path: Path) -> None:
    job("prepare", copies, tmp_path / "s", "--short-side", 64)
    found = passport_of(tmp_path / "s")
    del found["near_duplicates"], found["options"]["near"]
    (tmp_path / "s" / "pack" / "passport.json").write_text(json.dumps(found))
    for given, code in (((), 0), (("--near", 0.1), 0), (("--near", 0), 0), (("--near", 0.3), 78)):
        assert job("prepare", copies, tmp_path / "s", "--short-side", 64, *given).code == code
