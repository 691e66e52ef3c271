"""A CSV file of labels -> labelled images: its text, its columns, and the files that its names mean."""

import codecs
import contextlib
import csv
import functools
import io
import itertools
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from job.data.names import Labelled, Listing, composed, is_image_name, is_leftover, passed_over, printable, same_path
from job.errors import BadData
from job.folder.storage import Folder, join, local_path

DELIMITERS = ",;\t|"
NUM_SAMPLED = 20
# Windows: C:\ or C:/; and URLs.
ELSEWHERE = re.compile(r"[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]*://")
# Accepts spaces before a quote.
make_reader = functools.partial(csv.reader, strict=True, skipinitialspace=True)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the CSV, and its number for messages."""

    here: str
    image: str
    label: str


class Files:
    """The files beside a CSV, by exact name or by another spelling of it."""

    def __init__(self, folder: Folder) -> None:
        self.names = sorted(folder.names())
        self.exact = set(self.names)
        self.spellings = {same_path(name): name for name in reversed(self.names)}
        local = local_path(folder)
        # A path in the CSV may be absolute, through a link or not.
        self.roots = [folder.uri, *([os.path.realpath(local)] if local else [])]

    def find(self, image: str) -> str | None:
        """Return the file that a name means, beside the CSV or in images/; None if there is none."""
        for path in (image, f"images/{image}"):
            if path in self.exact:
                return path
            if found := self.spellings.get(same_path(path)):
                return found
        return None

    def inside(self, image: str, here: str) -> str:
        """Return an image's path in the folder of the CSV, normalised; raises BadData if it leaves that folder."""
        path = re.sub("^/+", "/", image.replace("\\", "/"))
        for root in self.roots:
            base = root if root.startswith("/") else f"/{root.replace('://', '/')}"
            inner = path.removeprefix(f"{root.rstrip('/')}/")
            full = posixpath.normpath(posixpath.join(base, inner))
            for found in (full, os.path.realpath(full)) if inner.startswith("/") else (full,):
                if found.startswith(f"{base.rstrip('/')}/") and not ELSEWHERE.match(inner):
                    return found.removeprefix(f"{base.rstrip('/')}/")
        raise BadData(f"{here}: the path {image!r} leaves the CSV's folder, {self.roots[0]}; put images beside the CSV "
                      "or in images/, and write their paths from there")


def list_csv(folder: Folder, name: str) -> Listing:
    """Return the images of a CSV (file name, label) that are beside it or in images/, and those that are not.

    The first line is a header, unless it names an image. Raises BadData naming the line of a fault.
    """
    where = join(folder.uri, name)
    lines, files = read_lines(to_text(folder.read(name), where), where), Files(folder)
    notes, num_repeated = [], 0
    if lines and is_image(lines[0].image, files):
        notes.append(f"{where}: its first line names an image, so it is read as one, not as a header")
    else:
        header, lines = lines[:1], lines[1:]
        # Joined files repeat the header.
        lines = [line for line in lines if [(line.image, line.label)] != [(top.image, top.label) for top in header]]
    labels: dict[str, Labelled] = {}
    for line in lines:
        check_line(line, files)
        found = files.find(line.image)
        path = found if found == line.image else files.inside(line.image, line.here)
        found = found or files.find(path)
        before = labels.get(found or path)
        if before and before.label != line.label:
            raise BadData(f"{line.here}: {printable(path)} has the label {line.label!r} here and {before.label!r} "
                          "before; keep one")
        num_repeated += before is not None
        labels.setdefault(found or path, Labelled(path, line.label))
    # The order of the CSV's own paths, as in every version: the hash of a pack depends on it.
    ordered = sorted(labels.items(), key=lambda pair: pair[1].image)
    existing = [Labelled(file, item.label) for file, item in ordered if file in files.exact]
    missing = [item for file, item in ordered if file not in files.exact]
    if num_repeated:
        notes.append(f"{where}: lines that repeat an image with the same label, passed over: {num_repeated}")
    rest = [file for file in files.names if file not in labels and is_image_name(file) and not is_leftover(file)]
    notes += passed_over(rest, f"that {where} does not name")
    return Listing(existing, missing, notes, hint_for_missing(missing, files) if not existing else "")


def to_text(data: bytes, where: str) -> str:
    """Return the text of a CSV in UTF-8, or in UTF-16 with a byte order mark; raises BadData."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadData(f"{where}: not UTF-8 text ({error}); save it as CSV UTF-8") from None
    if "\0" in text:
        raise BadData(f"{where}: not UTF-8 text (it holds bytes of zero); save it as CSV UTF-8")
    return text


def read_lines(text: str, where: str) -> list[Line]:
    """Return the lines of a CSV of two columns that are not blank; raises BadData naming file and line."""
    found: list[Line] = []
    delimiter = find_delimiter(text)
    lines = make_reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in without_blank(lines):
            here = f"{where}, line {lines.line_num}"
            if len(cells) != 2:
                raise BadData(f"{here}: {len(cells)} column{'s' * (len(cells) != 1)}; give two, the image's file name "
                              f"and its label{advice(cells, delimiter)}")
            if cells != ["sep=", ""]:
                found.append(Line(here, clean(cells[0]), composed(clean(cells[1]))))
    except csv.Error as error:
        raise BadData(f"{where}, line {lines.line_num}: {error}; correct the quotes of that line") from None
    return found


def without_blank(lines: Iterable[list[str]]) -> Iterator[list[str]]:
    """Yield the lines of a CSV that are not blank, without empty cells after the second."""
    for cells in lines:
        while len(cells) > 2 and not cells[-1].strip():
            cells.pop()
        if any(cell.strip() for cell in cells):
            yield cells


def find_delimiter(text: str) -> str:
    """Return what separates the columns: the character that makes two of them in most of the first lines."""
    def score(delimiter: str) -> tuple[int, int]:
        counts: list[int] = []
        with contextlib.suppress(csv.Error):
            lines = make_reader(io.StringIO(text, newline=""), delimiter=delimiter)
            counts += map(len, itertools.islice(without_blank(lines), NUM_SAMPLED))
        return counts.count(2), sum(count > 1 for count in counts)

    # Of equal ones the first, the comma.
    return max(DELIMITERS, key=score)


def advice(cells: Sequence[str], delimiter: str) -> str:
    """Return what to do about a line with another number of columns than two."""
    if len(cells) == 1:
        return ", with ',' between them"
    return f", and remove the others; a name or label with {delimiter!r} in it needs quotes: \"a{delimiter}b\""


def clean(cell: str) -> str:
    """Return a cell without spaces and invisible marks around it."""
    return cell.strip().strip("\ufeff\u200b").strip()


def is_image(cell: str, files: Files) -> bool:
    """Return whether a cell names an image, by its ending or because there is such a file."""
    return bool(cell) and (is_image_name(cell) or files.find(cell) is not None)


def check_line(line: Line, files: Files) -> None:
    """Raise BadData for an empty cell and for swapped columns."""
    if not line.image or not line.label:
        raise BadData(f"{line.here}: the {'label' if line.image else 'image'} is empty; fill it in, or remove the line")
    if is_image_name(line.label) and not is_image(line.image, files):
        raise BadData(f"{line.here}: the columns are swapped, {line.image!r} comes before the image {line.label!r}; "
                      "put the image's file name into the first column and its label into the second")


def hint_for_missing(missing: Sequence[Labelled], files: Files) -> str:
    """Return what is probably wrong with the name of the first missing image: its ending, or its folder."""
    wanted = posixpath.basename(missing[0].image).lower() if missing else ""
    for name in files.names:
        file = posixpath.basename(name).lower()
        if is_image_name(name) and wanted and wanted in (file, posixpath.splitext(file)[0]):
            return f"; is it {printable(name)}?"
    return ""
