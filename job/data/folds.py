"""Divides training and validation images into folds: stratified, drawn by content, the same on every machine."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from job.data.neighbours import Groups
from job.data.table import Packed
from job.errors import BadData
from job.trial import Trial


def splits_of(lines: Sequence[Packed], near: Iterable[Sequence[str]], trial: Trial, seed: int) -> list[str]:
    """Return the split of each image for a trial: that of the pack, or by folds `val` in its fold and `train` outside.

    Test images, and those that the pack leaves out, stay what they are. near, seed, errors: as in `assign_folds`.
    """
    if not trial.fold:
        return [line.split for line in lines]
    folds = assign_folds(lines, near, trial.folds, seed)
    return [line.split if not fold else "val" if fold == trial.fold else "train"
            for line, fold in zip(lines, folds, strict=True)]


def assign_folds(lines: Sequence[Packed], near: Iterable[Sequence[str]], num_folds: int, seed: int) -> list[int]:
    """Return the fold of each image, from 1; 0 for test images and those left out, which are in none.

    near: groups of names of near-identical images; they and byte-identical images get the same fold. Within a class the
    largest groups come first and groups of a size in the order of a hash of seed and content, so order, names and
    machines make no difference; each goes to the fold with the fewest images of the class so far. seed: that of the
    split. Raises BadData for a class of fewer groups than folds, and for one that a fold has no image of.
    """
    folds, num_in_fold = [0] * len(lines), Counter[int]()
    for label, groups in sorted(groups_of_classes(lines, near).items()):
        if len(groups) < num_folds:
            fewer = f"set folds to {len(groups)} or less, or " if len(groups) > 1 else ""
            raise BadData(f"class {label!r} has {len(groups)} different image{'s' * (len(groups) != 1)} in train and "
                          "val together (identical and near-identical ones count once), too few for "
                          f"{num_folds} folds; {fewer}add images to the class")
        groups.sort(key=lambda group: (-len(group), draw_key(group, lines, seed)))
        num_of_class: Counter[int] = Counter()
        for group in groups:
            fold = min(range(1, num_folds + 1), key=lambda fold: (num_of_class[fold], num_in_fold[fold], fold))
            num_of_class[fold] += len(group)
            num_in_fold[fold] += len(group)
            for place in group:
                folds[place] = fold
    refuse_absent(lines, folds, num_folds)
    return folds


def refuse_absent(lines: Sequence[Packed], folds: Sequence[int], num_folds: int) -> None:
    """Raise BadData for a class that some fold has no image of: all of it counts with the images of other classes."""
    found = {(line.label, fold) for line, fold in zip(lines, folds, strict=True) if fold}
    num_of_class = Counter(label for label, _ in found)
    for label, num in sorted(num_of_class.items()):
        if num < num_folds:
            raise BadData(f"class {label!r} has images in {num} of {num_folds} folds, because they are identical or "
                          "near-identical with images of other classes and share their folds; correct the labels, or "
                          "add images to the class")


def draw_key(group: Sequence[int], lines: Sequence[Packed], seed: int) -> str:
    """Return where the seed puts a group among others of its size."""
    content = min(lines[place].sha256 for place in group)
    return hashlib.sha256(f"{seed}/folds/{content}".encode()).hexdigest()


def groups_of_classes(lines: Sequence[Packed], near: Iterable[Sequence[str]]) -> dict[str, list[list[int]]]:
    """Return class -> groups of the positions of images that belong together; a mixed group is of its commonest label.

    Only images of train and val take part.
    """
    taking_part = [place for place, line in enumerate(lines) if line.split in ("train", "val")]
    places = {lines[place].image: place for place in taking_part}
    same: dict[str, list[int]] = defaultdict(list)
    for place in taking_part:
        same[lines[place].sha256].append(place)
    united = Groups(len(lines))
    for together in [*same.values(), *([places[name] for name in names if name in places] for names in near)]:
        for place in together:
            united.unite(together[0], place)
    members: dict[int, list[int]] = defaultdict(list)
    for place in taking_part:
        members[united.least(place)].append(place)
    groups: dict[str, list[list[int]]] = defaultdict(list)
    for group in members.values():
        counts = Counter(lines[place].label for place in group)
        groups[min(counts, key=lambda label: (-counts[label], label))].append(group)
    return groups
