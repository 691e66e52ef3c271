"""What file and folder names say: images, leftovers of other programs, one form for names that look the same."""

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".heic",
                 ".heif", ".avif", ".jp2", ".jxl")
# What file managers, archivers and network storage write beside images, in lower case. Names with a leading dot are
# passed over too.
LEFTOVERS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r", "__macosx", "@eadir", "#recycle",
             "#snapshot", "@recycle", "@recently-snapshot", "@__thumb", "@tmp", "$recycle.bin", "~snapshot",
             "system volume information", "lost+found", "network trash folder", "temporary items"}


@dataclass(frozen=True, slots=True)
class Labelled:
    """One image of the source: its name in the folder, its class, and its split if folders give one."""

    image: str
    label: str
    split: str = ""


@dataclass(frozen=True)
class Listing:
    """What a source names.

    images: those that exist. missing: those that a CSV names but that do not exist. notes: what was passed over or
    understood in a way that a user should know. hint: what to do if these are too few classes.
    """

    images: list[Labelled]
    missing: list[Labelled] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hint: str = ""


def parts_of(name: str) -> list[str]:
    """Return the folders and the file of a name; a key of S3 may hold empty ones, which say nothing."""
    return [part for part in name.split("/") if part not in ("", ".")]


def is_leftover(name: str) -> bool:
    """Return whether a file was left by a file manager, an archiver or a NAS, and is not meant as an image."""
    return any(part.startswith(".") or part.lower() in LEFTOVERS for part in parts_of(name))


def is_image_name(name: str) -> bool:
    """Return whether a name ends as the names of images do."""
    return name.lower().endswith(IMAGE_ENDINGS)


def composed(text: str) -> str:
    """Return a text in Unicode's composed form (NFC): macOS writes another, which looks the same."""
    return unicodedata.normalize("NFC", text)


def same_path(name: str) -> str:
    """Return one form for all spellings of a relative path: composed, without `.`, `//` and backslashes."""
    return composed(posixpath.normpath(name.replace("\\", "/")))


def printable(name: str) -> str:
    """Return a name with the bytes that are not UTF-8 spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()


def passed_over(names: Sequence[str], why: str) -> list[str]:
    """Return a note on how many images are not taken, and the first one, as a list of one; [] if there are none."""
    if not names:
        return []
    first = "" if len(names) == 1 else "the first: "
    return [f"{len(names)} image{'s' * (len(names) != 1)} {why} ({first}{printable(min(names))}), passed over"]


def some(names: Iterable[str]) -> str:
    """Return the first five names, sorted, for a message."""
    found = sorted(names)
    return ", ".join(map(printable, found[:5])) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def alike(classes: Iterable[str]) -> list[str]:
    """Return a note for each group of classes whose names differ only in case, quotes, spaces or '_' and '-'."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(classes)):
        groups[re.sub(r"[\s_\"'\u2018-\u201f-]+", "", name).casefold() or name].append(name)
    return [f"the classes {' and '.join(map(repr, names))} differ only in upper and lower case, quotes, spaces or "
            "dashes; if they are one class, give them one name" for names in groups.values() if len(names) > 1]
