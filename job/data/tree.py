"""The folders of a source as a tree, and what their names say about splits and labels."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from job.data.names import is_image_name, is_leftover, parts_of

SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
               "test": "test", "testing": "test"}
# Some datasets call their validation split so, others their test split.
EVALUATION_WORDS = {"eval", "evaluation"}
# Words that say nothing about the split or the class: training_set, test-images, val2017.
NEUTRAL_WORDS = {"set", "sets", "data", "dataset", "image", "images", "img", "imgs", "photo", "photos", "picture",
                 "pictures", "folder", "split"}
JOINED = re.compile(f"^({'|'.join(sorted(SPLIT_WORDS, reverse=True))})({'|'.join(sorted(NEUTRAL_WORDS))})$")
# Parts of a dataset, if a number is all that tells them apart.
PART_WORDS = {"fold", "part", "batch", "set", "split", "group", "chunk", "shard", "dataset", "data"}
# Folders of images to predict, which have no label.
UNLABELLED_WORDS = {"pred", "predict", "prediction", "predictions", "unlabelled", "unlabeled", "unsup", "unsupervised",
                    "inference", "submission"}
Place = tuple[str, ...]


@dataclass(frozen=True)
class Tree:
    """The folders in each folder, and the images directly in it; a folder is the tuple of its path's parts."""

    files: list[tuple[str, Place]]
    folders: dict[Place, set[str]] = field(default_factory=lambda: defaultdict(set))
    num_images: Counter[Place] = field(default_factory=Counter)


def make_tree(names: Sequence[str]) -> Tree:
    """Return the tree of these files, without what other programs have left."""
    tree = Tree([(name, tuple(parts_of(name))) for name in names if not is_leftover(name)])
    for name, parts in tree.files:
        place = parts[:-1]
        tree.num_images[place] += is_image_name(name)
        while place and place[-1] not in tree.folders[place[:-1]]:
            tree.folders[place[:-1]].add(place[-1])
            place = place[:-1]
    return tree


def words(name: str) -> list[str]:
    """Return the words of a folder's name in lower case: seg_train, TrainSet, trainset and val2017 are two each."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|[\W_]+", " ", name).lower().split()
    return [word for text in spaced for word in JOINED.sub(r"\1 \2", text).split()]


def split_and_rest(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the split that a folder's name says ('' for none), and the words that say something else."""
    found = words(name)
    splits = {SPLIT_WORDS[word] for word in found if word in SPLIT_WORDS}
    rest = tuple(word for word in found if not (word in SPLIT_WORDS or word in NEUTRAL_WORDS or word.isdecimal()))
    return (splits.pop() if len(splits) == 1 else ""), rest


def split_folders(tree: Tree, place: Place) -> dict[str, str]:
    """Return folder -> split of the folders in a folder that are splits; empty if they are classes.

    A split's name is the split and words that mean nothing (`training_set`), or has a companion of another split with
    the same other words (`seg_train`, `seg_test`).
    """
    named = {name: split_and_rest(name) for name in tree.folders[place]}
    splits_of_rest = defaultdict(set)
    for split, rest in named.values():
        splits_of_rest[rest].add(split)
    found = {name: split for name, (split, rest) in named.items()
             if split and (not rest or len(splits_of_rest[rest] - {""}) > 1)}
    if len(set(found.values())) > 1:
        left = [split for split in ("val", "test") if split not in found.values()]
        evaluations = [name for name, (_, rest) in named.items() if rest and {*rest} <= EVALUATION_WORDS]
        return found | (dict.fromkeys(evaluations, left[0]) if len(left) == 1 else {})
    others = tree.folders[place] - set(found)
    for name, split in found.items():
        inner = tree.folders[*place, name]
        if inner if split == "train" else inner & others:
            return found
    # A class may be called train, if it holds images directly and has other classes beside it.
    return found if not others and len(found) == 1 else {}


def is_unlabelled(name: str) -> bool:
    """Return whether a folder's name says that its images have no label."""
    return bool(UNLABELLED_WORDS & {*words(name)})


def is_part(name: str) -> bool:
    """Return whether a folder's name is that of a numbered part: fold1, part_2."""
    found = words(name)
    return bool(PART_WORDS & {*found}) and all(word in PART_WORDS or word.isdecimal() for word in found)


def find_splits(tree: Tree) -> Place:
    """Return the folder whose folders are splits: the source itself, or the only folder in it, some levels down."""
    place: Place = ()
    while not split_folders(tree, place):
        inner = [name for name in tree.folders[place] if not is_unlabelled(name)]
        if len(inner) != 1:
            return ()
        place = (*place, inner[0])
    return place


def starts_of_splits(tree: Tree, place: Place, splits: Mapping[str, str]) -> dict[Place, str]:
    """Return the folders that hold the class folders of each split -> the split."""
    trains = {descend(tree, (*place, name), "train", set()): "train" for name, split in splits.items()
              if split == "train"}
    classes = {name for start in trains for name in tree.folders[start]}
    return trains | {descend(tree, (*place, name), split, classes): split for name, split in splits.items()
                     if split != "train"}


def descend(tree: Tree, place: Place, split: str, classes: set[str]) -> Place:
    """Return the folder that holds a split's class folders: train/, train/train/ or train/images/.

    classes: those of train, which a single folder `images` is not taken for.
    """
    while len(tree.folders[place]) == 1 and not tree.num_images[place]:
        name = next(iter(tree.folders[place]))
        is_same = name == place[-1] or split_and_rest(name) == (split, ())
        is_neutral = words(name) and {*words(name)} <= NEUTRAL_WORDS
        if name in classes or not (is_same or is_neutral):
            break
        place = (*place, name)
    return place
