"""Class folders -> labelled images: which folder is a class, which a split, and which is neither."""

import itertools
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

from job.data.names import (
    Labelled,
    Listing,
    composed,
    is_image_name,
    is_leftover,
    parts_of,
    passed_over,
    printable,
    some,
)
from job.data.tree import (
    Place,
    Tree,
    find_splits,
    is_part,
    is_unlabelled,
    make_tree,
    split_and_rest,
    split_folders,
    starts_of_splits,
)
from job.errors import BadData
from job.folder.storage import Folder, join, local_path

# The folders of a dataset for detection or segmentation, which are no classes.
DETECTION_FOLDERS = {"images", "jpegimages", "labels", "annotations", "masks", "bboxes"}


def list_class_folders(folder: Folder, names: Sequence[str]) -> Listing:
    """Return the images in class folders, or in class folders in train/, val/ and test/, in the order of the names.

    Raises BadData for a layout that would train something else than the classes.
    """
    tree = make_tree(names)
    place = find_splits(tree)
    splits = split_folders(tree, place)
    tops = {name for name in tree.folders[place] if name in splits or not is_unlabelled(name)}
    if splits:
        starts = starts_of_splits(tree, place, splits)
        check_splits(folder, tree, place, splits, tops)
        refuse_unclassified(folder, tree, starts)
        classes = {(*start, name): (name, split) for start, split in starts.items() for name in tree.folders[start]}
    else:
        classes = split_within_class(tree, tops)
        if not classes:
            refuse_unknown_splits(folder, tree, tops)
            classes = {(name,): (name, "") for name in tops}
    classes = {place: found for place, found in classes.items() if not is_unlabelled(found[0])}
    refuse_detection(folder, {label for label, _ in classes.values()})
    images = [Labelled(name, composed(label), split) for name, parts in tree.files
              for label, split in class_of(parts, classes)]
    notes = notes_on_rest(names, {item.image for item in images}) + notes_on_classes(tree, classes)
    return Listing(images, notes=notes, hint="" if splits else hint_for_one(folder, tree, tops))


def split_within_class(tree: Tree, tops: set[str]) -> dict[Place, tuple[str, str]]:
    """Return the class folders of the layout CLASS/train/, CLASS/test/; empty if the source has another one."""
    found: dict[Place, tuple[str, str]] = {
        (top, name): (top, split_and_rest(name)[0]) for top in tops for name in tree.folders[top,]}
    for top in tops:
        splits = split_folders(tree, (top,))
        if "train" not in splits.values() or set(splits) != tree.folders[top,] or tree.num_images[top,]:
            return {}
    return found if len(tops) > 1 else {}


def class_of(parts: Place, classes: Mapping[Place, tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the class and the split of a file, as a list of one; an empty list for a file in no class folder."""
    return [classes[parts[:end]] for end in range(1, len(parts)) if parts[:end] in classes][:1]


def check_splits(folder: Folder, tree: Tree, place: Place, splits: Mapping[str, str], tops: set[str]) -> None:
    """Raise BadData for splits without train, classes beside them, and one folder as two splits."""
    where = "/".join([folder.uri.rstrip("/"), *map(printable, place)])
    train = next((name for name, split in sorted(splits.items()) if split == "train"), "")
    if not train:
        raise BadData(f"{where}: {some(tops)} without train/; put the training images into train/CLASS/, or, if these "
                      "are the classes, rename the folders")
    if others := tops - set(splits):
        raise BadData(f"{where}: {some(others)} beside {train}/; put every class under train/, val/ or test/, or, if "
                      f"{train!r} is a class too, rename it or put its images directly into {train}/")
    refuse_linked(folder, place, splits)


def refuse_unclassified(folder: Folder, tree: Tree, starts: Mapping[Place, str]) -> None:
    """Raise BadData for an image of a split that lies in no class folder."""
    for name, parts in tree.files:
        if parts[:-1] in starts and is_image_name(name):
            raise BadData(f"{folder.uri}: {printable(name)} is not in a class folder; move it to "
                          f"{printable('/'.join(parts[:-1]))}/CLASS/ or remove it")


def refuse_linked(folder: Folder, place: Place, splits: Mapping[str, str]) -> None:
    """Raise BadData, naming the link, if two splits are one folder: no image may be in both."""
    root = local_path(folder)
    if not root:
        return
    paths = {name: root.joinpath(*place, name) for name in sorted(splits)}
    for one, other in itertools.combinations(paths, 2):
        if splits[one] != splits[other] and os.path.realpath(paths[one]) == os.path.realpath(paths[other]):
            link = next((name for name in (one, other) if paths[name].is_symlink()), one)
            raise BadData(f"{paths[link]}: a link to the images of {other if link == one else one}/, so the same "
                          f"images would be in two splits; remove the link, or put other images into {link}/")


def refuse_unknown_splits(folder: Folder, tree: Tree, tops: set[str]) -> None:
    """Raise BadData for folders that look like splits or parts of a dataset, though not certainly."""
    for place in sorted(tree.folders):
        if "train" in (inner := set(split_folders(tree, place).values())) and len(inner) > 1:
            raise BadData(f"{folder.uri}: {printable('/'.join(place))} holds splits ({some(tree.folders[place])}), so "
                          "it is no class; name that folder as the source, or move it away")
    found = {name: split for name in sorted(tops) if (split := split_and_rest(name)[0])}
    inner_folders = [tree.folders[name,] for name in found]
    if len(set(found.values())) > 1 and set.intersection(*inner_folders):
        raise BadData(f"{folder.uri}: {some(found)} look like splits, not classes; name them train/, val/ and test/, "
                      "with one folder per class in each; if they are classes, rename the folders in them")
    if len(tops) > 1 and all(is_part(name) for name in tops) and set.intersection(*(tree.folders[t,] for t in tops)):
        raise BadData(f"{folder.uri}: {some(tops)} look like parts of a dataset, not classes; put the images of each "
                      "class into one folder, or, if they are classes, rename them")


def refuse_detection(folder: Folder, classes: set[str]) -> None:
    """Raise BadData for the folders of a dataset whose labels are boxes or masks."""
    lower = {name.lower() for name in classes}
    if len(lower) > 1 and lower <= DETECTION_FOLDERS and lower & {"images", "jpegimages"}:
        raise BadData(f"{folder.uri}: {some(classes)} look like a dataset for object detection or segmentation, not "
                      "like classes; put the images into one folder per class, or name a CSV file of labels")


def notes_on_rest(names: Sequence[str], used: set[str]) -> list[str]:
    """Return a note for each kind of images that are in no class: what they are and what to do."""
    rest = [name for name in names if name not in used and is_image_name(name)]
    hidden = [name for name in rest if is_leftover(name)]
    groups: dict[str, list[str]] = defaultdict(list)
    for name in rest:
        if not is_leftover(name):
            groups[next((part for part in parts_of(name)[:-1] if is_unlabelled(part)), "")].append(name)
    notes = passed_over(groups.pop("", []), "in no class folder")
    for name, found in sorted(groups.items()):
        notes += passed_over(found, f"in {printable(name)}/, which by its name holds images without labels")
    return notes + passed_over(hidden, "hidden or left by another program")


def notes_on_classes(tree: Tree, classes: Mapping[Place, tuple[str, str]]) -> list[str]:
    """Return notes on class folders that may be meant in another way."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for label, _ in classes.values():
        spellings[composed(label)].add(label)
    notes = [f"class {label!r} has folders in two Unicode forms of its name (NFC and NFD), taken as one class"
             for label, found in sorted(spellings.items()) if len(found) > 1]
    inner = [tree.folders[place] for place in classes]
    if len(inner) > 1 and len(inner[0]) > 1 and all(found == inner[0] for found in inner):
        notes.append(f"each class folder has the same folders ({some(inner[0])}); if those are the classes, put them "
                     "directly into the source")
    return notes


def hint_for_one(folder: Folder, tree: Tree, tops: set[str]) -> str:
    """Return what to do if the only folder of the source holds the class folders."""
    only = next(iter(tops), "")
    if len(tops) != 1 or len(tree.folders[only,]) < 2:
        return ""
    return (f"; if {some(tree.folders[only,])} are the classes, name the folder that holds them, "
            f"{join(folder.uri, printable(only))}")
