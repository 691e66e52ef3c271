"""Folds are stratified, drawn from content and seed, keep what is alike together, and never touch the test split."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from job.data.folds import assign_folds, splits_of
from job.data.load import load_batches
from job.data.pack import Passport
from job.data.table import Packed
from job.errors import BadData
from job.folder.storage import Folder
from job.trial import Trial


def images(counts: dict[str, int], num_test: int = 0) -> list[Packed]:
    """Lines of a pack's table: of each class so many in train and val, and num_test more in test."""
    return [Packed(f"{label}/{n}.jpg", label, "test" if n >= count else "val" if n % 5 == 0 else "train", 48, 48, 0,
                   f"{label}{n:063d}") for label, count in counts.items() for n in range(count + num_test)]


def test_folds_are_stratified_to_within_an_image_and_balanced_over_the_classes() -> None:
    lines = images({"a": 83, "b": 17, "c": 31}, 10)
    folds = assign_folds(lines, [], 5, 0)
    counts = Counter((line.label, fold) for line, fold in zip(lines, folds, strict=True) if fold)
    for label, total in (("a", 83), ("b", 17), ("c", 31)):
        assert {counts[label, fold] for fold in range(1, 6)} == {total // 5, total // 5 + 1}
    assert max(sizes := Counter(fold for fold in folds if fold).values()) - min(sizes) <= 1
    assert all((fold == 0) == (line.split == "test") for line, fold in zip(lines, folds, strict=True))


def test_folds_depend_on_content_and_seed_not_on_names_or_order() -> None:
    lines = images({"a": 40, "b": 25})
    first = dict(zip([line.sha256 for line in lines], assign_folds(lines, [], 5, 0), strict=True))
    mixed = [replace(line, image=f"{n}.png") for n, line in enumerate(random.Random(1).sample(lines, len(lines)))]
    assert dict(zip([line.sha256 for line in mixed], assign_folds(mixed, [], 5, 0), strict=True)) == first
    other = assign_folds(lines, [], 5, 1)
    assert other != list(first.values()) and Counter(other) == Counter(first.values())


def test_identical_and_near_identical_images_share_a_fold_whatever_the_seed() -> None:
    lines = [replace(line, sha256=f"{int(line.image[2:-4]) // 2:064d}{line.label}")
             for line in images({"a": 40, "b": 40})]
    # A chain: the groups of bytes 0-1, 2-3 and 4-5 are one; a name that is no image of train or val is passed over.
    near = [["a/1.jpg", "a/2.jpg"], ["a/3.jpg", "a/4.jpg", "elsewhere.jpg"]]
    for seed in range(10):
        folds = dict(zip([line.image for line in lines], assign_folds(lines, near, 4, seed), strict=True))
        assert len({folds[f"a/{n}.jpg"] for n in range(6)}) == 1
        assert all(folds[f"{label}/{n}.jpg"] == folds[f"{label}/{n + 1}.jpg"] for label in "ab"
                   for n in range(0, 40, 2))
        assert Counter(folds.values()) == dict.fromkeys(range(1, 5), 20)


def test_class_of_fewer_groups_than_folds_is_refused_with_the_number_that_fits() -> None:
    lines = images({"a": 40, "rare": 5})
    with pytest.raises(BadData, match=r"'rare' has 4 different images .* 5 folds; set folds to 4 or less, or"):
        assign_folds(lines, [["rare/0.jpg", "rare/1.jpg"]], 5, 0)
    assert set(assign_folds(lines, [["rare/0.jpg", "rare/1.jpg"]], 4, 0)) == {1, 2, 3, 4}


def test_each_image_of_train_and_val_validates_once_and_the_test_split_stays(packed: tuple[Folder, Passport]) -> None:
    trial = Trial(trial="1", image_size=40)
    plain = load_batches(*packed, trial, torch.device("cpu")).indices
    folds = [load_batches(*packed, replace(trial, fold=k, folds=4), torch.device("cpu")).indices for k in range(1, 5)]
    both = sorted([*plain["train"].tolist(), *plain["val"].tolist()])
    assert sorted(i for fold in folds for i in fold["val"].tolist()) == both
    for fold in folds:
        assert sorted([*fold["train"].tolist(), *fold["val"].tolist()]) == both
        assert fold["test"].equal(plain["test"])


def test_trial_without_a_fold_keeps_the_split_of_the_pack() -> None:
    lines = images({"a": 10, "b": 10}, 2)
    assert splits_of(lines, [], Trial(trial="1"), 0) == [line.split for line in lines]


def test_class_that_a_fold_has_no_image_of_is_refused() -> None:
    lines = images({"a": 40, "b": 2})
    # Each image of b counts with an image of a, so b has no group of its own.
    with pytest.raises(BadData, match="'b' has images in 2 of 5 folds, because they are identical or near-identical"):
        assign_folds(lines, [["a/0.jpg", "b/0.jpg"], ["a/1.jpg", "b/1.jpg"]], 5, 0)
    assert assign_folds(lines, [["a/0.jpg", "b/0.jpg"], ["a/1.jpg", "b/1.jpg"]], 2, 0)
