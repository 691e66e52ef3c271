"""Finds labelled images in class folders, in class folders under train/val/test, or by a CSV file of labels."""

from dataclasses import dataclass, field

from job.data.labels import list_csv
from job.data.layouts import list_class_folders
from job.data.names import Labelled, alike, composed
from job.errors import BadData, MissingInput
from job.folder.storage import Folder, join, open_folder, split_uri
from job.trial import ImageOptions

SPLITS = ("train", "val", "test")
OTHER = "other"


@dataclass(frozen=True)
class Source:
    """The labelled images of a folder or CSV.

    missing: images that the CSV names but that do not exist. notes: what was passed over, and what may be meant in
    another way; they become warnings of the pack.
    """

    uri: str
    folder: Folder
    images: list[Labelled]
    missing: list[Labelled]
    classes: list[str]
    notes: list[str] = field(default_factory=list)


def read_source(uri: str, options: ImageOptions) -> Source:
    """List the images of a folder or of a CSV file of labels, sorted by name; reads no image.

    uri: a path or an s3:// URI. With `options.positive` the classes are that one and 'other'. Raises MissingInput, or
    BadData naming the line.
    """
    if is_csv(uri):
        folder_uri, name = split_uri(uri)
        folder = open_folder(folder_uri)
        found, hint = list_csv(folder, name), ""
    else:
        folder = open_folder(uri)
        names = sorted(folder.names())
        found = list_class_folders(folder, names)
        tables = [name for name in names if is_csv(name) and "/" not in name]
        hint = f"; or name its CSV file of labels, {join(uri, tables[0])}" if tables else ""
    images, missing, positive = found.images, found.missing, composed(options.positive)
    if not images and not missing:
        raise MissingInput(f"{uri}: no images; name a folder with one folder per class, or a CSV file of labels{hint}"
                           f"{because(found.notes)}")
    if not images:
        raise MissingInput(f"{uri}: none of its {len(missing)} images is beside it or in images/ (the first is "
                           f"{missing[0].image}{found.hint}); move the images there, or correct the names")
    known = sorted({item.label for item in images + missing})
    if positive and positive not in known:
        raise BadData(f"{uri}: no class {positive!r} for --positive; choose one of {', '.join(known)}")
    classes = sorted({item.label for item in images})
    if positive:
        classes = [OTHER, positive]
        images, missing = relabel(images, positive), relabel(missing, positive)
    if len({item.label for item in images}) < 2:
        raise BadData(f"{uri}: only one class, {images[0].label!r}; a classifier needs two or more{found.hint}{hint}"
                      f"{because(found.notes)}")
    return Source(uri, folder, images, missing, classes, found.notes + alike(known))


def is_csv(name: str) -> bool:
    """Return whether a source or a file is a table of labels, by its ending."""
    return name.lower().endswith((".csv", ".tsv"))


def because(notes: list[str]) -> str:
    """Return the notes as lines below an error, which they may explain."""
    return "".join(f"\n  {note}" for note in notes)


def relabel(items: list[Labelled], positive: str) -> list[Labelled]:
    """Return the images with two classes: the positive one, and 'other' for the rest."""
    return [Labelled(item.image, positive if item.label == positive else OTHER, item.split) for item in items]
