"""Folders as datasets have them: splits under many names, links, leftovers, images without labels."""

import os
from collections import Counter
from pathlib import Path

import pytest

from job.data.layouts import list_class_folders
from job.data.source import read_source
from job.errors import BadData
from job.folder.local import LocalFolder
from job.trial import ImageOptions
from packs import pack
from support import draw, job

PLAIN = ImageOptions()
CLASSES = ("cat", "dog")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def fill(folder: Path, *places: str, num: int = 2) -> Path:
    """Write empty files into cat/ and dog/ in each of these folders."""
    return touch(folder, *(f"{place}/{label}/{n}.jpg" for place in places for label in CLASSES for n in range(num)))


def found(folder: Path) -> dict[str, dict[str, int]]:
    """Return split -> class -> number of images."""
    counts = Counter((item.split, item.label) for item in read_source(str(folder), PLAIN).images)
    return {split: {label: num for (one, label), num in counts.items() if one == split} for split, _ in counts}


@pytest.mark.parametrize("places", [
    ("train", "valid", "test"), ("Train", "Val", "Test"), ("training", "validation", "testing"),
    ("trainset", "valset", "testset"), ("training_set", "validation_set", "test_set"),
    ("train2017", "val2017", "test1"), ("TrainData", "ValData", "TestData"),
    ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),
    ("train/train", "val/val", "test/test"), ("dataset/train", "dataset/val", "dataset/test"),
    ("a/b/training-images", "a/b/dev-images", "a/b/test-images"), ("train/images", "val/images", "test/images"),
    ("birds_train", "birds_dev", "birds_test"), ("training", "validation", "evaluation"), ("train", "eval", "test")])
def test_common_names_of_splits_are_splits(tmp_path: Path, places: tuple[str, str, str]) -> None:
    fill(tmp_path, *places)
    each = {"cat": 2, "dog": 2}
    assert found(tmp_path) == {"train": each, "val": each, "test": each}


def test_splits_within_each_class_are_splits(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{label}/{split}/1.jpg" for label in CLASSES for split in ("train", "test")))
    assert found(tmp_path) == {"train": {"cat": 1, "dog": 1}, "test": {"cat": 1, "dog": 1}}


@pytest.mark.parametrize("names", [("test_tube", "train_station"), ("train", "bus", "car"), ("freight_train", "tram"),
                                   ("test", "exam"), ("photo", "picture"), ("data", "image_noise"), ("1", "2", "10"),
                                   ("group1", "group2")])
def test_classes_that_are_named_like_splits_stay_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *(f"{name}/{n}.jpg" for name in names for n in range(2)), f"{names[1]}/deeper/still/3.jpg")
    assert {item.split for item in read_source(str(tmp_path), PLAIN).images} == {""}
    assert read_source(str(tmp_path), PLAIN).classes == sorted(names)


@pytest.mark.parametrize(("names", "message"), [
    (("train/cat/1.jpg", "train/dog/1.jpg", "val/9.jpg"), r"val/9\.jpg is not in a class folder; .* to val/CLASS/"),
    (("trainA/1.jpg", "testA/1.jpg", "trainB/1.jpg", "testB/1.jpg"), r"\.jpg is not in a class folder"),
    (("train/train/cat.1.jpg", "test1/test1/1.jpg"), r"\.jpg is not in a class folder"),
    (("rose_train/a/1.jpg", "rose_train/b/1.jpg", "rosa_test/a/1.jpg", "rosa_test/b/1.jpg"), "look like splits"),
    (("cat/1.jpg", "dog/1.jpg", "test/cat/2.jpg", "test/dog/2.jpg"), "without train/"),
    (("train/a/1.jpg", "bus/a/1.jpg"), "bus beside train/; .*'train' is a class too, rename it or put its images"),
    (("train/a/1.jpg", "train/b/1.jpg", "val/images/1.jpg"), r"val/images/1\.jpg is not in a class folder"),
    (("x/cat/1.jpg", "data/x/train/cat/1.jpg", "data/x/test/cat/2.jpg"), r"data/x holds splits \(test, train\)"),
    (("cat/train/1.jpg", "cat/test/1.jpg", "dog/1.jpg"), r"cat holds splits"),
    (("fold1/cat/1.jpg", "fold1/dog/1.jpg", "fold2/cat/2.jpg", "fold2/dog/2.jpg"), "fold1, fold2 look like parts"),
    (("images/1.jpg", "labels/1.txt"), "object detection or segmentation"),
    (("images/train/1.jpg", "annotations/train/1.png"), "object detection or segmentation"),
    (("animals/cat/1.jpg", "animals/dog/1.jpg"), "if cat, dog are the classes, name the folder that holds them"),
])
def test_layout_that_would_train_something_else_is_refused(tmp_path: Path, names: tuple[str, ...],
                                                           message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(BadData, match=message):
        read_source(str(tmp_path), PLAIN)


def test_validation_of_one_class_that_is_called_photo_is_kept(tmp_path: Path) -> None:
    touch(tmp_path, "train/photo/1.jpg", "train/sketch/1.jpg", "test/photo/2.jpg")
    assert found(tmp_path) == {"train": {"photo": 1, "sketch": 1}, "test": {"photo": 1}}


@pytest.mark.parametrize("name", ["seg_pred", "single_prediction", "unlabelled", "unlabeled_images"])
@pytest.mark.parametrize("place", ["", "train"])
def test_images_without_labels_are_left_out_by_name(tmp_path: Path, name: str, place: str) -> None:
    touch(fill(tmp_path, place or "."), f"{place}/{name}/1.jpg".strip("/"), f"{name}/{name}/2.jpg")
    source = read_source(str(tmp_path), PLAIN)
    assert source.classes == ["cat", "dog"] and len(source.images) == 4
    assert f"2 images in {name}/, which by its name holds images without labels" in source.notes[0]


def test_what_is_passed_over_is_counted_on_screen_and_in_the_passport(spare_images: Path, tmp_path: Path) -> None:
    touch(spare_images, "1.jpg", "2.PNG", "labels.txt", "bar/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "bar/Icon\r",
          "#recycle/bar/1.jpg", ".thumbnails/1.png", "disc/._1.jpg", "disc/.DS_Store", "ehthumbs.db")
    done = job("prepare", spare_images, tmp_path / "s", "--short-side", "48")
    loose = "2 images in no class folder (the first: 1.jpg), passed over"
    left = "4 images hidden or left by another program (the first: #recycle/bar/1.jpg), passed over"
    assert done.code == 0 and f"warning: {loose}" in done.out and f"warning: {left}" in done.out, done.err
    passport = pack("", tmp_path / "s")
    assert passport.warnings[:2] == [loose, left] and passport.num_images == 40 and not passport.rejected


def test_two_unicode_forms_of_a_class_are_one(tmp_path: Path) -> None:
    touch(tmp_path, "caf\u00e9/1.jpg", "cafe\u0301/1.jpg", "tea/1.jpg")
    for positive in ("caf\u00e9", "cafe\u0301", ""):
        source = read_source(str(tmp_path), ImageOptions(positive=positive))
        assert source.classes == (["other", "caf\u00e9"] if positive else ["caf\u00e9", "tea"])
        assert len(source.images) == 3 and "two Unicode forms" in source.notes[0]


def test_positive_class_in_another_unicode_form_is_no_other_option(spare_images: Path, tmp_path: Path) -> None:
    (spare_images / "bar").rename(spare_images / "cafe\u0301")
    for positive in ("caf\u00e9", "cafe\u0301"):
        done = job("prepare", spare_images, tmp_path / "s", "--short-side", "48", "--positive", positive)
        assert done.code == 0, done.err


def test_classes_that_differ_only_in_case_are_noted(tmp_path: Path) -> None:
    touch(tmp_path, "Hot dog/1.jpg", "hot_dog/1.jpg", "tea/1.jpg")
    assert "classes 'Hot dog' and 'hot_dog' differ only in" in read_source(str(tmp_path), PLAIN).notes[0]


@pytest.mark.parametrize(("link", "target"), [("test", "val"), ("val", "test"), ("val", "train")])
def test_split_that_is_a_link_to_another_is_refused_by_name(tmp_path: Path, link: str, target: str) -> None:
    fill(tmp_path, "train", *({target} - {"train"}))
    (tmp_path / link).symlink_to(target)
    with pytest.raises(BadData, match=f"/{link}: a link to the images of {target}/"):
        read_source(str(tmp_path), PLAIN)


def test_folder_that_links_reach_twice_is_read_twice_and_reported(tmp_path: Path) -> None:
    for number in range(11):
        draw(tmp_path / ("more" if number < 3 else "in/bar" if number < 7 else "in/disc") / f"{number}.jpg", "bar",
             number)
    for label in ("bar", "disc"):
        (tmp_path / "in" / label / "more").symlink_to(tmp_path / "more")
    passport = pack(tmp_path / "in", tmp_path / "s")
    assert passport.num_images == 14 and len(passport.conflicts) == 3


def test_links_without_end_are_followed_once_and_in_the_same_order_on_every_disk(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1", "b/2", "c/3")
    (tmp_path / "c/above").symlink_to(tmp_path.parent)
    for link, target in (("a/up", ".."), ("a/b", "../b"), ("b/a", "../a"), ("c/a", "../a")):
        (tmp_path / link).symlink_to(target)
    names = list(LocalFolder(str(tmp_path)).names())
    assert names == ["a/1", "a/b/2", "b/2", "b/a/1", "c/3", "c/a/1", "c/a/b/2"]
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: Backward(scandir(path)))
    assert list(LocalFolder(str(tmp_path)).names()) == names


class Backward:
    """A disk that lists a folder in the other order."""

    def __init__(self, entries: "os._ScandirIterator[str]") -> None:
        self.entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

    def __enter__(self) -> "Backward":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> "Backward":
        return self

    def __next__(self) -> "os.DirEntry[str]":
        return next(self.entries)


def test_folders_that_all_link_to_each_other_are_refused(tmp_path: Path) -> None:
    for one in range(9):
        touch(tmp_path, f"{one}/image.jpg")
        for other in range(9):
            if other != one:
                (tmp_path / str(one) / f"to{other}").symlink_to(f"../{other}")
    with pytest.raises(BadData, match="more than 1000 links lead to"):
        list(LocalFolder(str(tmp_path)).names())


def test_keys_with_empty_parts_are_the_same_classes(tmp_path: Path) -> None:
    """A real store refuses such keys or not, so the names are given here."""
    names = ["cat//1.jpg", "cat/2.jpg", "./dog/1.jpg", "//dog/3.jpg", "dog/./deeper//4.jpg"]
    images = list_class_folders(LocalFolder(str(tmp_path)), names).images
    assert [(item.image, item.label) for item in images] == [(name, name[:6].strip("./")[:3]) for name in names]
