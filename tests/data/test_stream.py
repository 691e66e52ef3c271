"""Pixels that stream from decoding processes: in order, the same as decoded here, each refusal in its place."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from job.data.image_file.decode import Rejected, decode
from job.data.named import Named, images_named
from job.data.stream import TASK_IMAGES, decoded, tasks_of
from job.errors import MissingInput
from support import job


def test_images_of_many_folders_come_in_order_as_decoded_here(shapes: Path) -> None:
    files = sorted(shapes.rglob("*.jpg"))
    images = images_named([str(shapes), *map(str, files[::-1]), f"{shapes}/disc"])
    found = list(decoded(images, 48))
    assert [image for image, _ in found] == images and len(images) == 40 + 40 + 24
    for image, pixels in found:
        here = decode(Path(image.shown).read_bytes(), 48)
        assert isinstance(pixels, np.ndarray) and isinstance(here, np.ndarray) and np.array_equal(pixels, here)


def test_task_has_few_images_of_one_folder() -> None:
    images = [Named("a", str(n), str(n)) for n in range(TASK_IMAGES + 3)] + [Named("b", "1", "b/1")]
    assert [(task.source, len(task.names)) for task in tasks_of(images, 48)] == [("a", TASK_IMAGES), ("a", 3), ("b", 1)]


def test_each_refusal_stands_in_its_place_and_a_bomb_stops_nothing(shapes: Path, tmp_path: Path) -> None:
    good = next(shapes.rglob("*.jpg"))
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    (tmp_path / "empty.jpg").write_bytes(b"")
    found = [pixels for _, pixels in decoded(images_named([str(tmp_path / "bomb.png"), str(good), "absent.jpg",
                                                           str(tmp_path / "empty.jpg"), str(good)]), 48)]
    bomb, first, absent, empty, last = found
    assert isinstance(bomb, Rejected) and "decompression bomb" in bomb.reason
    assert isinstance(absent, MissingInput) and empty == Rejected("empty file (0 bytes)")
    assert isinstance(first, np.ndarray) and isinstance(last, np.ndarray) and np.array_equal(first, last)


def test_processes_end_with_a_caller_that_takes_no_more(shapes: Path) -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())

    stream = decoded(images_named([str(shapes)] * 5), 48)
    next(stream)
    stream.close()
    assert not any("job.data.decoding" in Path(f"/proc/{child}/cmdline").read_text() for child in children())


@pytest.mark.parametrize("number", [0, 70])
def test_file_without_permission_is_named_and_the_others_are_answered(
        calibrated: Path, tmp_path: Path, number: int) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    images = sorted((calibrated.parent / "images").rglob("*.jpg"))[:80]
    copies = [tmp_path / f"{place:02d}.jpg" for place in range(80)]
    for image, path in zip(images, copies, strict=True):
        path.write_bytes(image.read_bytes())
    copies[number].chmod(0)
    done = job("predict", calibrated, tmp_path, "--trial", "2")
    assert done.code == 77 and len(done.out.splitlines()) == 2 + 80 and done.out.count("not read") == 1
