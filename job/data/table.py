"""The table of a pack's images, images-*.csv: written, and read against its passport."""

import collections
import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from job.data.source import SPLITS
from job.folder.escape import for_csv, from_csv
from job.folder.untrusted import MOST_NUMBER


@dataclass(frozen=True, slots=True)
class Packed:
    """A line of images-*.csv: one usable image."""

    image: str
    label: str
    split: str
    height: int
    width: int
    shard: int
    sha256: str

    @property
    def num_bytes(self) -> int:
        """Its pixels, three bytes each."""
        return 3 * self.height * self.width


def write_table(lines: Iterable[Sequence[object]], for_spreadsheets: bool) -> bytes:
    """Return the table as bytes, one line per image; for_spreadsheets: names that look like formulas are escaped."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([spec.name for spec in fields(Packed)])
    for image, label, *rest in lines:
        names = map(for_csv, (str(image), str(label))) if for_spreadsheets else (image, label)
        writer.writerow([*names, *rest])
    return text.getvalue().encode()


def read_table(data: bytes, passport: Mapping[str, Any]) -> list[Packed]:
    """Return the images of a pack, in the order of the pixels; raises ValueError, naming the line, for a wrong one.

    passport: its fields; the table must agree with its classes, counts, shards and short side.
    """
    lines = list(parse_table(data))
    names: set[str] = set()
    counts: dict[str, collections.Counter[str]] = {split: collections.Counter() for split in ("", *SPLITS)}
    in_shard = [0] * len(passport["shards"])
    classes, short_side, last_shard = set(passport["classes"]), passport["options"]["short_side"], 0
    for number, line in enumerate(lines, 2):
        if line.image in names or not line.image:
            raise ValueError(f"line {number}: {line.image!r} is {'there twice' if line.image else 'no name'}")
        if line.label not in classes:
            raise ValueError(f"line {number}: the label {line.label!r} is no class")
        if line.split not in counts:
            raise ValueError(f"line {number}: {line.split!r} is no split")
        if min(line.height, line.width) != short_side:
            raise ValueError(f"line {number}: {line.height} x {line.width} pixels, but short_side is {short_side}")
        if not last_shard <= line.shard < len(in_shard):
            raise ValueError(f"line {number}: shard {line.shard} is out of order")
        names.add(line.image)
        counts[line.split][line.label] += 1
        in_shard[line.shard] += 1
        last_shard = line.shard
    if in_shard != [shard["num_images"] for shard in passport["shards"]]:
        raise ValueError("the images per shard are not those of the passport")
    if any(counts[split][name] != passport["counts"][split][name] for split in SPLITS for name in classes):
        raise ValueError("the images per split and class are not those of the passport")
    return lines


def parse_table(data: bytes) -> Iterator[Packed]:
    """Yield the lines of the table; raises ValueError, naming the line."""
    lines = csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True)
    try:
        for cells in lines:
            yield parse_line(cells)
    except (csv.Error, ValueError, KeyError) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"line {lines.line_num}: {reason}") from None


def parse_line(cells: Mapping[str | None, Any]) -> Packed:
    """Return one line; raises ValueError or KeyError."""
    if None in cells or None in cells.values():
        raise ValueError("more or fewer values than columns")
    # Version 0.1 named the column "picture".
    image = cells["image" if "image" in cells else "picture"]
    return Packed(from_csv(image), from_csv(cells["label"]), cells["split"], whole("height", cells["height"], 1),
                  whole("width", cells["width"], 1), whole("shard", cells["shard"], 0), cells["sha256"])


def whole(column: str, cell: str, least: int) -> int:
    """Return the whole number of a cell; raises ValueError."""
    if not cell.isascii() or not cell.isdecimal() or not least <= int(cell[:20]) <= MOST_NUMBER:
        raise ValueError(f"{column} is {cell[:20]!r}, which is not a whole number from {least}")
    return int(cell)
