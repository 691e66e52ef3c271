"""Finds labelled images in class folders, in class folders under train/val/test, or by a CSV file of labels."""

import csv
import io
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass

from job.errors import BadData, MissingInput
from job.folder.storage import Folder, join, open_folder, split_uri
from job.trial import ImageOptions

SPLITS = ("train", "val", "test")
SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
                 "test": "test"}
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Labelled:
    """One image of the source: its name in the folder, its class, and its split if folders give one."""

    image: str
    label: str
    split: str = ""


@dataclass(frozen=True)
class Source:
    """The labelled images of a folder or CSV; `missing` are images that the CSV names but that do not exist."""

    uri: str
    folder: Folder
    images: list[Labelled]
    missing: list[Labelled]
    classes: list[str]


def read_source(uri: str, options: ImageOptions) -> Source:
    """List the images of a folder or of a CSV file of labels, sorted by name; reads no image.

    uri: a path or an s3:// URI. With `options.positive` the classes are that one and 'other'. Raises MissingInput, or
    BadData naming the line.
    """
    if uri.lower().endswith(".csv"):
        folder_uri, name = split_uri(uri)
        folder, hint = open_folder(folder_uri), ""
        images, missing = list_csv(folder, name)
    else:
        folder = open_folder(uri)
        names = list(folder.names())
        images, missing = list_class_folders(folder, names), []
        tables = [name for name in names if name.lower().endswith(".csv") and "/" not in name]
        hint = f"; or name its CSV file of labels, {join(uri, tables[0])}" if tables else ""
    if not images and not missing:
        raise MissingInput(f"{uri}: no images; name a folder with one folder per class, or a CSV file of labels{hint}")
    if not images:
        raise MissingInput(f"{uri}: none of its {len(missing)} images is beside it or in images/ (the first is "
                           f"{missing[0].image}); move the images there, or correct the names")
    known = sorted({item.label for item in images + missing})
    if options.positive and options.positive not in known:
        raise BadData(f"{uri}: no class {options.positive!r} for --positive; choose one of {', '.join(known)}")
    classes = sorted({item.label for item in images})
    if options.positive:
        classes = [OTHER, options.positive]
        images, missing = relabel(images, options.positive), relabel(missing, options.positive)
    if len({item.label for item in images}) < 2:
        raise BadData(f"{uri}: only one class, {images[0].label!r}; a classifier needs two or more{hint}")
    return Source(uri, folder, images, missing, classes)


def relabel(items: list[Labelled], positive: str) -> list[Labelled]:
    """Return the images with two classes: the positive one, and 'other' for the rest."""
    return [Labelled(item.image, positive if item.label == positive else OTHER, item.split) for item in items]


def is_hidden(name: str) -> bool:
    """Return whether a file was left by a file manager or an archiver and is not meant as an image."""
    parts = name.split("/")
    if parts[-1] in ("Thumbs.db", "desktop.ini"):
        return True
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def list_class_folders(folder: Folder, names: Iterable[str]) -> list[Labelled]:
    """Return the images; their first folder, or the second under train/val/test, is their class.

    Raises BadData for a mixture of the two layouts.
    """
    names = [name for name in names if not is_hidden(name)]
    tops = {name.split("/")[0] for name in names if "/" in name}
    splits = {SPLIT_FOLDERS.get(top.lower()) for top in tops}
    by_split = "train" in splits
    if tops and None not in splits and not by_split:
        raise BadData(f"{folder.uri}: {', '.join(sorted(tops))} without train/; put the training images into "
                      "train/CLASS/")
    if by_split and (others := sorted(top for top in tops if top.lower() not in SPLIT_FOLDERS)):
        raise BadData(f"{folder.uri}: {', '.join(others[:5])} beside train/; put every class under train/, val/ or "
                      "test/")
    depth = 2 if by_split else 1
    found = []
    for name in names:
        parts = name.split("/")
        if by_split and len(parts) == depth:
            raise BadData(f"{folder.uri}: {name} is not in a class folder; move it to {parts[0]}/CLASS/ or remove it")
        if len(parts) > depth:
            split = SPLIT_FOLDERS[parts[0].lower()] if by_split else ""
            found.append(Labelled(name, parts[depth - 1], split))
    return found


def list_csv(folder: Folder, name: str) -> tuple[list[Labelled], list[Labelled]]:
    """Return the images of a CSV (file name, label) that are beside it or in images/, and those that are not.

    Raises BadData naming the line of a fault.
    """
    where = join(folder.uri, name)
    try:
        text = folder.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"{where}: not UTF-8 text ({error}); save it as CSV UTF-8") from None
    labels = read_labels(text, where)
    existing = set(folder.names())
    found: list[Labelled] = []
    missing: list[Labelled] = []
    for image, label in sorted(labels.items()):
        here = next((path for path in (image, f"images/{image}") if path in existing), None)
        (found if here else missing).append(Labelled(here or image, label))
    return found, missing


def read_labels(text: str, where: str) -> dict[str, str]:
    """Return image name -> label of a CSV with a header and two columns; raises BadData naming file and line."""
    labels: dict[str, str] = {}
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, cells in enumerate(skip_blank(lines)):
            here = f"{where}, line {lines.line_num}"
            if len(cells) == 1 and ";" in cells[0]:
                raise BadData(f"{here}: the columns are separated by ';'; save the CSV with ',' between them")
            if len(cells) != 2:
                raise BadData(f"{here}: {len(cells)} columns; give two, the image's file name and its label")
            image, label = cells[0].strip(), cells[1].strip()
            if number == 0:
                continue
            if not image or not label:
                raise BadData(f"{here}: the {'label' if image else 'image'} is empty; fill it in, or remove the line")
            image = inside(image, here)
            if labels.get(image, label) != label:
                raise BadData(f"{here}: {image} has the label {label!r} here and {labels[image]!r} before; keep one")
            labels[image] = label
    except csv.Error as error:
        raise BadData(f"{where}, line {lines.line_num}: {error}") from None
    return labels


def skip_blank(lines: Iterable[list[str]]) -> Iterable[list[str]]:
    """Return the lines of a CSV that are not blank."""
    return (cells for cells in lines if any(cell.strip() for cell in cells))


def inside(image: str, here: str) -> str:
    """Return the image's path, normalised; raises BadData if it leaves the folder of the CSV."""
    path = posixpath.normpath(image.replace("\\", "/"))
    if path.startswith(("/", "../")) or path in (".", "..") or ":" in path.split("/")[0]:
        raise BadData(f"{here}: the path {image!r} leaves the CSV's folder; put images beside the CSV or in images/")
    return path
