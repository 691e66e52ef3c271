"""Pictures -> pack: decoded once, split once, in safetensors shards with a passport. Knows no torch.

A shard holds `pixels`, the uint8 RGB pixels of its pictures end to end; pictures-*.csv says, in the same order, each
picture's name, label, split, height, width, shard and SHA-256. Every file but the passport is named by its content, so
builders that run at once never disturb each other; the first passport written makes its builder's files the pack.
"""

import collections
import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import PIL
from numpy.typing import NDArray
from safetensors.numpy import save

from job.data.decode import Rejected, decode_all
from job.data.source import SPLITS, Labelled, Source
from job.data.split import assign_splits
from job.errors import BadConfig, BadData
from job.layout import PACK, PASSPORT, digest, read_json
from job.storage import Folder, join
from job.trial import PictureOptions

SHARD_BYTES = 64 << 20
RARE_SHARE = 0.1


@dataclass(frozen=True)
class Passport:
    """What a pack is made of. `positive` is the class whose recall and false negatives are reported, for two classes.

    counts: split -> class -> pictures. duplicates: groups of byte-identical pictures. left_out: training pictures that
    also lie in a given val/ or test/. conflicts: byte-identical pictures with different labels.
    """

    pack_hash: str
    source: str
    options: dict[str, object]
    classes: list[str]
    positive: str
    num_pictures: int
    counts: dict[str, dict[str, int]]
    rejected: list[dict[str, str]]
    duplicates: list[list[str]]
    left_out: list[str]
    conflicts: list[list[str]]
    warnings: list[str]
    table: dict[str, str]
    shards: list[dict[str, object]]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Packed:
    """One good picture's line in pictures-*.csv."""

    picture: str
    label: str
    split: str
    height: int
    width: int
    shard: int
    sha256: str


def read_passport(folder: Folder) -> Passport | None:
    """The pack's passport, or None while there is no whole pack."""
    found = read_json(folder, PASSPORT)
    if found is None:
        return None
    if lacking := [spec.name for spec in fields(Passport) if spec.name not in found]:
        raise BadConfig(f"{join(folder.uri, PASSPORT)}: damaged, {', '.join(lacking)} missing; delete it to make the pack again")
    return Passport(**{spec.name: found[spec.name] for spec in fields(Passport)})


def build_pack(source: Source, folder: Folder, options: PictureOptions, progress: Callable[[int, int], None]) -> Passport:
    """Decode, split and write the pack, and answer the passport that stands in the folder at the end.

    `progress` is called with pictures done and in all. Memory holds a shard, not the pictures. Raises BadData where
    more than `options.max_bad` of the pictures are unusable, or a class is too small.
    """
    writer = ShardWriter(folder)
    rejected = [{"picture": item.picture, "reason": "missing"} for item in source.missing]
    total = len(source.pictures) + len(source.missing)
    kept: list[Labelled] = []
    for done, (item, sha256, outcome) in enumerate(decode_all(source.folder, source.pictures, options.short_side), 1):
        if isinstance(outcome, Rejected):
            name = item.picture.encode("utf-8", "backslashreplace").decode()
            rejected.append({"picture": name, "reason": outcome.reason})
            check_rejects(rejected, total, options)
        else:
            kept.append(item)
            writer.add(sha256, outcome)
        progress(done, len(source.pictures))
    check_rejects(rejected, total, options)
    writer.close()
    passport, table = describe(source, options, kept, writer, rejected)
    return publish(folder, passport, table)


def check_rejects(rejected: Sequence[dict[str, str]], total: int, options: PictureOptions) -> None:
    """Raise BadData as soon as too many pictures are unusable."""
    if len(rejected) > options.max_bad * total:
        some = "\n".join(f"  {item['picture']}: {item['reason']}" for item in rejected[:10])
        raise BadData(f"{len(rejected)} of {total} pictures cannot be used, more than --max-bad {options.max_bad:g} "
                      f"allows; mend or remove them, or allow more:\n{some}")


class ShardWriter:
    """Gathers pictures until a shard is full, then writes it under a name that holds its hash."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.shards: list[dict[str, object]] = []
        self.places: list[tuple[int, int, int]] = []
        self.digests: list[str] = []
        self._waiting: list[NDArray[np.uint8]] = []
        self._bytes = 0

    def add(self, sha256: str, pixels_HWC: NDArray[np.uint8]) -> None:
        self.places.append((pixels_HWC.shape[0], pixels_HWC.shape[1], len(self.shards)))
        self.digests.append(sha256)
        self._waiting.append(pixels_HWC.reshape(-1))
        self._bytes += pixels_HWC.size
        if self._bytes >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        if not self._waiting:
            return
        data = save({"pixels": np.concatenate(self._waiting)})
        sha256 = digest(data)
        name = f"pixels-{len(self.shards):05d}-{sha256[:16]}.safetensors"
        self.folder.write(f"pack/{name}", data)
        self.shards.append({"name": name, "sha256": sha256, "bytes": len(data), "num_pictures": len(self._waiting)})
        self._waiting, self._bytes = [], 0


def describe(source: Source, options: PictureOptions, kept: Sequence[Labelled], writer: ShardWriter,
             rejected: list[dict[str, str]]) -> tuple[Passport, bytes]:
    """The passport and the table of what the writer has written; the hash covers pictures, labels, split, options."""
    labels = [item.label for item in kept]
    if lost := [name for name in source.classes if name not in set(labels)]:
        raise BadData(f"{source.uri}: no usable picture of class {', '.join(map(repr, lost))}")
    splits = assign_splits(labels, writer.digests, [item.split for item in kept], options)
    counts = collections.Counter(zip(splits, labels, strict=True))
    table = pictures_table(kept, splits, writer)
    duplicates, conflicts = find_duplicates(kept, writer.digests)
    recorded = {key: value for key, value in asdict(options).items() if key != "max_bad"}
    core = json.dumps([recorded, source.classes, [shard["sha256"] for shard in writer.shards], digest(table)])
    passport = Passport(
        pack_hash=digest(core.encode()), source=source.uri, options=asdict(options), classes=source.classes,
        positive=source.classes[-1] if len(source.classes) == 2 else "",
        num_pictures=len(kept), counts={split: {c: counts[split, c] for c in source.classes} for split in SPLITS},
        rejected=rejected, duplicates=duplicates, conflicts=conflicts,
        left_out=[item.picture for item, split in zip(kept, splits, strict=True) if not split],
        warnings=warn(source.classes, collections.Counter(labels), conflicts),
        table={"name": f"pictures-{digest(table)[:16]}.csv", "sha256": digest(table)}, shards=writer.shards,
        versions={"pillow": PIL.__version__, "numpy": np.__version__})
    return passport, table


def warn(classes: Sequence[str], counts: collections.Counter[str], conflicts: Sequence[Sequence[str]]) -> list[str]:
    """What a person should know before trusting a figure from this pack."""
    total = sum(counts.values())
    found = [f"class {name!r} is rare: {counts[name]} of {total} pictures; accuracy alone says little of it"
             for name in classes if counts[name] < min(RARE_SHARE, 0.5 / len(classes)) * total]
    found += [f"byte-identical pictures have different labels: {', '.join(names)}" for names in conflicts]
    return found


def find_duplicates(kept: Sequence[Labelled], digests: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Groups of byte-identical pictures, and those groups whose labels differ."""
    groups: dict[str, list[Labelled]] = collections.defaultdict(list)
    for item, sha256 in zip(kept, digests, strict=True):
        groups[sha256].append(item)
    same = [group for group in groups.values() if len(group) > 1]
    conflicts = [group for group in same if len({item.label for item in group}) > 1]
    return [[i.picture for i in group] for group in same], [[i.picture for i in group] for group in conflicts]


def pictures_table(kept: Sequence[Labelled], splits: Sequence[str], writer: ShardWriter) -> bytes:
    """pictures-*.csv as bytes: a line a picture, in the order of the shards."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([spec.name for spec in fields(Packed)])
    for item, split, place, sha256 in zip(kept, splits, writer.places, writer.digests, strict=True):
        lines.writerow([item.picture, item.label, split, *place, sha256])
    return text.getvalue().encode()


def publish(folder: Folder, passport: Passport, table: bytes) -> Passport:
    """Write the table, then the passport, once; delete the files in pack/ that the standing passport does not name."""
    folder.write(f"pack/{passport.table['name']}", table)
    if not folder.write_once(PASSPORT, (json.dumps(asdict(passport), indent=1) + "\n").encode()):
        winner = read_passport(folder)
        assert winner, "the passport that stopped ours from being written is gone"
        passport = winner
    named = {f"pack/{passport.table['name']}", PASSPORT, *(f"pack/{shard['name']}" for shard in passport.shards)}
    for name in list(folder.names("pack/")):
        if name not in named and not name.startswith(f"{PACK}/attempts/"):
            folder.delete(name)
    return passport
