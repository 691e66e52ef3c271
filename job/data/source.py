"""Finds labelled images: class folders, class folders under train/val/test, or a CSV file of labels."""

import csv
import io
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass

from job.errors import BadData, MissingInput
from job.folder.storage import Folder, join, open_folder, split_uri
from job.trial import ImageOptions

SPLITS = ("train", "val", "test")
SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Labelled:
    """One image of the source: its name in the folder, its class, and its split where folders give one."""

    image: str
    label: str
    split: str = ""


@dataclass(frozen=True)
class Source:
    """The labelled images of a folder or CSV; `missing` are those that a CSV names and that do not exist."""

    uri: str
    folder: Folder
    images: list[Labelled]
    missing: list[Labelled]
    classes: list[str]


def read_source(uri: str, options: ImageOptions) -> Source:
    """List the images of a folder or CSV file of labels, by path or s3:// URI, sorted by name; reads no image.

    With `options.positive` the classes are that one and 'other'. Raises MissingInput, or BadData naming the line.
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
        hint = f" (or name the labels: {join(uri, tables[0])})" if tables else ""
    if not images and not missing:
        raise MissingInput(f"{uri}: no images; name a folder with a folder for each class, or a CSV file of labels{hint}")
    if not images:
        raise MissingInput(f"{uri}: none of its {len(missing)} images is beside it or in images/; the first is "
                           f"{missing[0].image}")
    known = sorted({item.label for item in images + missing})
    if options.positive and options.positive not in known:
        raise BadData(f"{uri}: no class {options.positive!r} for --positive; the classes are {', '.join(known)}")
    classes = sorted({item.label for item in images})
    if options.positive:
        classes = [OTHER, options.positive]
        images, missing = relabel(images, options.positive), relabel(missing, options.positive)
    if len({item.label for item in images}) < 2:
        raise BadData(f"{uri}: only one class, {classes[0] if classes else 'none'!r}; a classifier needs two or more{hint}")
    return Source(uri, folder, images, missing, classes)


def relabel(items: list[Labelled], positive: str) -> list[Labelled]:
    """One class against the rest."""
    return [Labelled(item.image, positive if item.label == positive else OTHER, item.split) for item in items]


def is_hidden(name: str) -> bool:
    """What file managers and archivers leave behind, which no person means as an image."""
    parts = name.split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1] in ("Thumbs.db", "desktop.ini")


def list_class_folders(folder: Folder, names: Iterable[str]) -> list[Labelled]:
    """Images whose first folder (or, under train/val/test, the second) is their class; raises BadData if mixed."""
    names = [name for name in names if not is_hidden(name)]
    tops = {name.split("/")[0] for name in names if "/" in name}
    splits = {SPLIT_FOLDERS.get(top.lower()) for top in tops}
    by_split = "train" in splits
    if tops and None not in splits and not by_split:
        raise BadData(f"{folder.uri}: {', '.join(sorted(tops))} without train/; put the training images into train/CLASS/")
    if by_split and (others := sorted(top for top in tops if top.lower() not in SPLIT_FOLDERS)):
        raise BadData(f"{folder.uri}: {', '.join(others[:5])} beside train/; put every class under train/, val/ or test/")
    depth = 2 if by_split else 1
    found = []
    for name in names:
        parts = name.split("/")
        if by_split and len(parts) == depth:
            raise BadData(f"{folder.uri}: {name} lies in no class folder; move it to {parts[0]}/CLASS/ or take it away")
        if len(parts) > depth:
            split = SPLIT_FOLDERS[parts[0].lower()] if by_split else ""
            found.append(Labelled(name, parts[depth - 1], split))
    return found


def list_csv(folder: Folder, name: str) -> tuple[list[Labelled], list[Labelled]]:
    """The images of a CSV of two columns (file name, label), found beside it or in images/, and those not found.

    Raises BadData naming the line of a bad one.
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
    """Image name -> label of a CSV with a header and two columns; raises BadData naming file and line."""
    labels: dict[str, str] = {}
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, cells in enumerate(skip_blank(lines)):
            here = f"{where}, line {lines.line_num}"
            if len(cells) == 1 and ";" in cells[0]:
                raise BadData(f"{here}: the columns are separated by ';'; save it with ',' between them")
            if len(cells) != 2:
                raise BadData(f"{here}: {len(cells)} columns; two are needed, the image's file name and its label")
            image, label = cells[0].strip(), cells[1].strip()
            if number == 0:
                continue
            if not image or not label:
                raise BadData(f"{here}: the {'image' if not image else 'label'} is empty")
            image = inside(image, here)
            if labels.get(image, label) != label:
                raise BadData(f"{here}: {image} is labelled {label!r} here and {labels[image]!r} before; keep one")
            labels[image] = label
    except csv.Error as error:
        raise BadData(f"{where}, line {lines.line_num}: {error}") from None
    return labels


def skip_blank(lines: Iterable[list[str]]) -> Iterable[list[str]]:
    """The lines of a CSV that hold anything."""
    return (cells for cells in lines if any(cell.strip() for cell in cells))


def inside(image: str, here: str) -> str:
    """The image's path, normalised; raises BadData where it leaves the source's folder."""
    path = posixpath.normpath(image.replace("\\", "/"))
    if path.startswith(("/", "../")) or path in (".", "..") or ":" in path.split("/")[0]:
        raise BadData(f"{here}: the path {image!r} leaves the CSV's folder; images lie beside the CSV or in images/")
    return path
