"""The images that a command line names: files, folders, patterns, s3:// prefixes -> files in folders."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from job.data.names import is_image_name, is_leftover
from job.errors import MissingInput
from job.folder.storage import Folder, join, open_folder, split_uri

WILD = re.compile(r"[*?]|\[[^]/]+\]")


@dataclass(frozen=True, slots=True)
class Named:
    """One image: the URI of a folder, its name there, and as the user knows it."""

    folder: str
    name: str
    shown: str


def images_named(arguments: Sequence[str]) -> list[Named]:
    """Return the images that these paths and URIs name, in this order; those of one argument are sorted by name.

    Reads no image: a file that is named and missing is found later. Raises MissingInput for a folder or a prefix
    without images, and for a pattern that nothing matches.
    """
    return [image for argument in arguments for image in images_of(argument)]


def images_of(argument: str) -> list[Named]:
    """Return the images of one argument."""
    scheme, separator, rest = argument.partition("://")
    if separator and scheme != "file":
        return in_store(argument)
    text = rest if separator else argument
    path = Path(text).expanduser()
    if path.is_dir():
        return in_folder(text)
    if path.exists() or not WILD.search(text):
        return [single(text)]
    if "**" in text:
        return matching(text)
    matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    found = [image for match in matches if not is_leftover(match.name)
             for image in (taken(open_folder(str(match)), str(match)) if match.is_dir() else [single(str(match))])]
    return found or nothing(text, "no file matches this pattern")


def single(uri: str) -> Named:
    """Return the image with this URI."""
    return Named(*split_uri(uri), uri)


def in_folder(uri: str) -> list[Named]:
    """Return the images of a folder and of the folders in it."""
    return taken(open_folder(uri), uri) or nothing(uri, "no image in this folder or the folders in it")


def taken(folder: Folder, shown: str, names: Iterable[str] | None = None) -> list[Named]:
    """Return the files of a folder that may be images: by their ending, or without one."""
    return [Named(folder.uri, name, join(shown, name)) for name in (folder.names() if names is None else names)
            if name and not name.endswith("/") and not is_leftover(name)
            and (is_image_name(name) or not PurePosixPath(name).suffix)]


def in_store(uri: str) -> list[Named]:
    """Return the images of an s3:// URI: an object, the objects below it as a folder, or those that begin with it."""
    folder_uri, name = split_uri(uri)
    if is_image_name(name) and not WILD.search(uri):
        return [single(uri)]
    if "//" not in folder_uri:
        return in_folder(uri)
    parent = open_folder(folder_uri)
    if not uri.endswith("/") and parent.exists(name):
        return [single(uri)]
    if WILD.search(uri):
        return matching(uri)
    begins = taken(parent, folder_uri, list(parent.names(name)))
    return taken(open_folder(uri), uri) or begins or nothing(uri, "no image begins so")


def matching(pattern: str) -> list[Named]:
    """Return the files that a pattern matches, as a shell does: * and ? stay within a folder, ** does not."""
    start = pattern[:WILD.search(pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]
    top = start or ("/" if pattern.startswith("/") else ".")
    rest = pattern[len(start):].lstrip("/")
    form, fixed = re.compile("".join(translated(rest)), re.DOTALL), WILD.split(rest)[0]
    folder = open_folder(top)
    found = [Named(folder.uri, name, join(start, name) if start else name)
             for name in folder.names(fixed) if form.fullmatch(name) and not is_leftover(name)]
    return found or nothing(pattern, "no file matches this pattern")


def translated(pattern: str) -> Iterator[str]:
    """Yield the parts of the regular expression of a pattern."""
    for part in re.findall(r"\*\*/|\*+|\?|\[[!^]?\]?[^]]*\]|.", pattern, re.DOTALL):
        if part == "**/":
            yield "(?:.*/)?"
        elif part.startswith("*"):
            yield ".*" if len(part) > 1 else "[^/]*"
        elif part == "?":
            yield "[^/]"
        elif part.startswith("[") and len(part) > 1:
            inner = part[1:-1]
            negated = inner[:1] in ("!", "^")
            yield f"[{'^/' if negated else ''}{re.escape(inner[negated:]).replace(chr(92) + '-', '-')}]"
        else:
            yield re.escape(part)


def nothing(uri: str, why: str) -> list[Named]:
    """Raise MissingInput: there is nothing to answer for."""
    raise MissingInput(f"{uri}: {why}; name images, folders, patterns or s3:// prefixes that have some")
