"""The split is stratified, drawn from content and seed, and keeps identical images on one side."""

from collections import Counter
from collections.abc import Sequence

import pytest

from job.data.split import assign_splits
from job.errors import BadData
from job.trial import ImageOptions


def split(labels: Sequence[str], digests: Sequence[str], given: Sequence[str], options: ImageOptions) -> list[str]:
    """Split images of which none is near-identical to another."""
    return assign_splits(labels, digests, digests, given, options)


def test_split_is_10_percent_test_and_20_percent_of_the_rest_in_each_class() -> None:
    labels = ["a"] * 200 + ["b"] * 50
    splits = split(labels, [str(i) for i in range(250)], [""] * 250, ImageOptions())
    assert Counter(zip(labels, splits, strict=True)) == {
        ("a", "test"): 20, ("a", "val"): 36, ("a", "train"): 144, ("b", "test"): 5, ("b", "val"): 9, ("b", "train"): 36}


def test_split_depends_on_content_and_seed_not_on_names_or_order() -> None:
    labels, digests = ["a"] * 40 + ["b"] * 40, [f"{i:040d}" for i in range(80)]
    first = dict(zip(digests, split(labels, digests, [""] * 80, ImageOptions()), strict=True))
    backward = split(labels[::-1], digests[::-1], [""] * 80, ImageOptions())
    assert dict(zip(digests[::-1], backward, strict=True)) == first
    other = split(labels, digests, [""] * 80, ImageOptions(split_seed=1))
    assert other != list(first.values()) and Counter(other) == Counter(first.values())


def test_identical_images_stay_on_one_side_whatever_the_seed() -> None:
    labels, digests = ["a"] * 40 + ["b"] * 40, [str(i // 4) for i in range(80)]
    for seed in range(20):
        splits = split(labels, digests, [""] * 80, ImageOptions(split_seed=seed))
        assert all(len({splits[4 * group + k] for k in range(4)}) == 1 for group in range(20))
        assert {"train", "val", "test"} == set(splits)


def test_large_groups_are_trained_on_whatever_the_seed() -> None:
    # Of 100 images 60 are near-identical, in one group that no split of 10 or 18 can hold.
    labels, digests = ["a"] * 100 + ["b"] * 100, [f"{i:03d}" for i in range(200)]
    keys = ["000"] * 60 + digests[60:]
    for seed in range(20):
        splits = assign_splits(labels, digests, keys, [""] * 200, ImageOptions(split_seed=seed))
        assert Counter(splits[:100]) == {"train": 72, "val": 18, "test": 10} and set(splits[:60]) == {"train"}
    # Three such groups, one of them for each split.
    keys = ["000"] * 40 + ["040"] * 35 + ["075"] * 25 + digests[100:]
    assert Counter(assign_splits(labels, digests, keys, [""] * 200, ImageOptions())[:100]) == {
        "train": 40, "val": 35, "test": 25}


@pytest.mark.parametrize("number", [3, 4, 5, 7])
def test_small_class_is_in_every_split(number: int) -> None:
    labels = ["a"] * number + ["b"] * 50
    splits = split(labels, [str(i) for i in range(len(labels))], [""] * len(labels), ImageOptions())
    assert set(splits[:number]) == {"train", "val", "test"}


def test_too_small_class_is_named() -> None:
    with pytest.raises(BadData, match="class 'a' has 2 different images; 3 are needed"):
        split(["a"] * 4 + ["b"] * 9, ["x", "x", "y", "y", *map(str, range(9))], [""] * 13, ImageOptions())
    with pytest.raises(BadData, match="class 'b' has no val image"):
        split(["a", "a", "b"], ["1", "2", "3"], ["train", "val", "train"], ImageOptions())


def test_given_split_is_kept_but_for_training_images_that_are_held_out_too() -> None:
    given = ["train", "train", "val", "test", "train", "val", "test"]
    digests = ["1", "2", "2", "3", "4", "5", "6"]
    labels = ["a", "a", "a", "a", "b", "b", "b"]
    assert split(labels, digests, given, ImageOptions()) == ["train", "", "val", "test", "train", "val", "test"]


def test_validation_is_drawn_from_train_where_folders_give_none() -> None:
    labels = (["a"] * 20 + ["b"] * 20) * 2
    given = ["train"] * 40 + ["test"] * 40
    splits = split(labels, [str(i) for i in range(80)], given, ImageOptions())
    assert Counter(splits) == {"train": 32, "val": 8, "test": 40} and splits[40:] == ["test"] * 40


@pytest.mark.parametrize(("digests", "given", "message"), [
    ("1 2 3 4 3 4", "train train val val test test", "each of the 2 images in val/ lies in test/ too, byte for byte"),
    ("1 2 1 2 5 6", "train train val val test test", "each of the 2 images in train/ lies in val/ or test/ too"),
    ("1 2 3 4 3 6", "train train val val test test", "'a' has no val image: each of its 1 lies in test/ too, byte")])
def test_split_whose_images_all_lie_in_another_is_named(digests: str, given: str, message: str) -> None:
    with pytest.raises(BadData, match=message):
        split(["a", "b"] * 3, digests.split(), given.split(), ImageOptions())
