"""What is among the images more than once, byte for byte or nearly, and what a user should know of it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from job.data.names import Labelled

T = TypeVar("T")
# A warning names so many groups, and so many images of each; the passport has them all.
MOST_GROUPS, MOST_NAMES = 10, 6
# Of a class, in one group; a smaller group is no surprise.
LARGE_SHARE, LARGE_GROUP = 0.1, 10


def find_duplicates(kept: Sequence[Labelled], digests: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the groups of byte-identical images, and those of the groups whose labels differ."""
    same = [group for group in grouped(kept, digests) if len(group) > 1]
    conflicts = [group for group in same if len({item.label for item in group}) > 1]
    return [[i.image for i in group] for group in same], [[i.image for i in group] for group in conflicts]


def find_near_duplicates(kept: Sequence[Labelled], digests: Sequence[str], keys: Sequence[str]) -> list[list[str]]:
    """Return the groups of near-identical images, sorted; keys: what job/data/neighbours.py calls each group.

    A group that is byte-identical throughout is none of these.
    """
    members = grouped(list(zip(kept, digests, strict=True)), keys)
    return sorted(sorted(item.image for item, _ in group) for group in members if len({sha for _, sha in group}) > 1)


def grouped(items: Iterable[T], keys: Iterable[str]) -> list[list[T]]:
    """Return the items of each key, keys and items in their order."""
    groups: dict[str, list[T]] = defaultdict(list)
    for item, key in zip(items, keys, strict=True):
        groups[key].append(item)
    return list(groups.values())


def warn_of(near_duplicates: Sequence[Sequence[str]], kept: Sequence[Labelled], splits: Sequence[str]) -> list[str]:
    """Return warnings of near-identical images with different labels or in different splits, and of large groups.

    Only a given split has them in different splits.
    """
    label_of = {item.image: item.label for item in kept}
    split_of = {item.image: split for item, split in zip(kept, splits, strict=True)}
    sizes = Counter(label_of.values())
    differ = [group for group in near_duplicates if len({label_of[name] for name in group}) > 1]
    leaks = [[f"{name} ({split_of[name]})" for name in one_of_each(group, split_of)] for group in near_duplicates
             if len({split_of[name] for name in group} - {""}) > 1]
    large = [group for group in near_duplicates
             if len(group) > max(LARGE_GROUP, LARGE_SHARE * min(sizes[label_of[name]] for name in group))]
    return [*listed("near-identical images have different labels", differ),
            *listed("near-identical images are in different splits, so figures of validation or test are too good; "
                    "leave one out, or draw the split", leaks),
            *(f"{len(group)} images are near-identical, each to another of them: {names_of(group)}; if they are not, "
              "give a smaller --near" for group in large)]


def one_of_each(group: Sequence[str], split_of: dict[str, str]) -> list[str]:
    """Return the first image of a group in each split, and then the others."""
    first = {split_of[name]: name for name in reversed(group) if split_of[name]}
    return sorted(first.values()) + [name for name in group if split_of[name] and name not in first.values()]


def listed(text: str, groups: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a warning for each of the first groups, and one that counts the others."""
    for group in groups[:MOST_GROUPS]:
        yield f"{text}: {names_of(group)}"
    if len(groups) > MOST_GROUPS:
        yield f"{text}: {len(groups) - MOST_GROUPS} more groups; near_duplicates in pack/passport.json has them all"


def names_of(group: Sequence[str]) -> str:
    """Return the first names of a group, and how many more there are."""
    more = len(group) - MOST_NAMES
    return ", ".join(group[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
