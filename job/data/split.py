"""Divides images into train, validation and test: stratified, drawn by content, the same on every machine."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from job.errors import BadData
from job.trial import ImageOptions

# Of its wanted size, what a split may reach by its last group.
MOST_OVER = 1.5


def assign_splits(labels: Sequence[str], digests: Sequence[str], keys: Sequence[str], given: Sequence[str],
                  options: ImageOptions) -> list[str]:
    """Return the split of each image: 'train', 'val', 'test', or '' for one that is left out.

    Images of one group (equal keys) get the same split: byte-identical ones (equal digests) and near-identical ones. A
    key is the least digest of its group. Each class is ordered by a hash of seed and key, so names and machines make no
    difference. A split given by folders is kept, except that a training image that is also
    in val/ or test/ is left out. Without val/, validation is drawn from train/; a missing test/ stays empty. Raises
    BadData for a class that is too small for every split.
    """
    if any(given):
        splits = keep_given(digests, given)
        if "val" not in given:
            in_train = [i for i, split in enumerate(splits) if split == "train"]
            drawn = draw([labels[i] for i in in_train], [digests[i] for i in in_train], [keys[i] for i in in_train],
                         options.val, 0.0, options)
            for i, split in zip(in_train, drawn, strict=True):
                splits[i] = split
    else:
        splits = draw(labels, digests, keys, options.val, options.test, options)
    check_classes(labels, splits, given)
    return splits


def keep_given(digests: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return the given splits without training images that are also in val or test, and val images also in test."""
    held_out: dict[str, set[str]] = {split: set() for split in ("val", "test")}
    for digest, split in zip(digests, given, strict=True):
        if split in held_out:
            held_out[split].add(digest)
    blocked = {"train": held_out["val"] | held_out["test"], "val": held_out["test"], "test": set()}
    return ["" if digest in blocked[split] else split for digest, split in zip(digests, given, strict=True)]


def draw(labels: Sequence[str], digests: Sequence[str], keys: Sequence[str], val: float, test: float,
         options: ImageOptions) -> list[str]:
    """Draw test, then validation from the rest, class by class; the images of a group stay together."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        groups[key].append(i)
    groups_of_class: dict[str, list[list[int]]] = defaultdict(list)
    for members in groups.values():
        groups_of_class[labels[members[0]]].append(members)
    splits = ["train"] * len(labels)
    for label, found in sorted(groups_of_class.items()):
        least = 3 if test else 2
        if len(found) < least:
            is_near = len({digests[i] for members in found for i in members}) > len(found)
            counting = " (near-identical ones count as one; --near 0 counts them all)" if is_near else ""
            raise BadData(f"class {label!r} has {len(found)} different image{'s' * (len(found) != 1)}{counting}; "
                          f"{least} are needed, one for each of train, validation{' and test' if test else ''}; add "
                          "images to it")
        found.sort(key=lambda members: hashlib.sha256(f"{options.split_seed}/{keys[members[0]]}".encode()).digest())
        total = sum(map(len, found))
        num_test = max(1, round(total * test)) if test else 0
        rest = take(found, num_test, len(found) - 2, splits, "test")
        num_val = max(1, round(sum(map(len, rest)) * val))
        take(rest, num_val, len(rest) - 1, splits, "val")
    return splits


def take(groups: Sequence[Sequence[int]], wanted: int, most: int, splits: list[str],
         split: str) -> list[Sequence[int]]:
    """Put whole groups, at most so many, into a split until it has the wanted number of images; return the others.

    A group that makes the split too large by more than half is passed over, so large groups are trained on; where all
    are so large, the smallest is taken.
    """
    taken: list[int] = []
    num_images = 0
    for place, group in enumerate(groups):
        if num_images < wanted and len(taken) < most and num_images + len(group) <= MOST_OVER * wanted + 1:
            taken.append(place)
            num_images += len(group)
    if wanted and not taken:
        taken = [min(range(len(groups)), key=lambda place: len(groups[place]))]
    for place in taken:
        for i in groups[place]:
            splits[i] = split
    return [group for place, group in enumerate(groups) if place not in taken]


def check_classes(labels: Sequence[str], splits: Sequence[str], given: Sequence[str]) -> None:
    """Raise BadData if a class has no training or no validation image, and say whether another split holds them."""
    counts = Counter(zip(splits, labels, strict=True))
    before = Counter(zip(given, labels, strict=True))
    for split, others in (("train", "val/ or test/"), ("val", "test/")):
        held_out = f"in {others} too, byte for byte, so they are left out of {split}/"
        if split in given and split not in splits:
            raise BadData(f"each of the {given.count(split)} images in {split}/ lies {held_out}; put other images into "
                          f"{split}/, or remove the folder or link that holds them a second time")
        for label in sorted(set(labels)):
            if counts[split, label]:
                continue
            if before[split, label]:
                raise BadData(f"class {label!r} has no {split} image: each of its {before[split, label]} lies "
                              f"{held_out}; put other images of it into {split}/")
            raise BadData(f"class {label!r} has no {split} image; add some, every class needs train and val images")
