"""Images -> pack: decoded once, split once, in safetensors shards with a passport; needs no torch.

A shard holds `pixels`, the uint8 RGB pixels of its images end to end. images-*.csv lists, in the same order, each
image's name, label, split, height, width, shard and SHA-256. Every file but the passport is named by its content, so
concurrent builders never disturb each other; the first passport written makes its builder's files the pack.
"""

import collections
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import PIL

from job.data.duplicates import find_duplicates, find_near_duplicates, warn_of
from job.data.names import Labelled
from job.data.neighbours import near_groups
from job.data.passport import Passport, read_passport
from job.data.shards import make_shards
from job.data.source import SPLITS, Source
from job.data.split import assign_splits
from job.data.table import write_table
from job.errors import BadData
from job.folder.layout import PACK, PASSPORT, digest
from job.folder.storage import Folder
from job.trial import ImageOptions

# The passport is named from here, too: a pack is what it describes.
__all__ = ["Passport", "build_pack", "read_passport"]

RARE_SHARE = 0.1
# What these options do to a pack is in its table, which the hash covers.
UNHASHED = ("near", "max_bad")
# The hash covers the table with the header of version 0.1, so the same images have the same hash in every version.
HASHED_HEADER = b"picture,label,split,height,width,shard,sha256\n"


def build_pack(source: Source, folder: Folder, options: ImageOptions, progress: Callable[[int, int], None]) -> Passport:
    """Decode, split and write the pack; return the passport that is in the folder at the end.

    `progress` is called with the number of images done, from 0, and in all. Memory holds one shard per process, not all
    the images. Raises BadData if more than `options.max_bad` of the images are unusable, or a class is too small.
    """
    made = Made()
    rejected = [{"image": item.image, "reason": "missing"} for item in source.missing]
    total, names = len(source.images) + len(source.missing), [item.image for item in source.images]
    progress(0, len(names))
    images, done = iter(source.images), 0
    for share in make_shards(source.folder, folder, names, options.short_side, options.near > 0):
        for outcome in share.outcomes:
            item = next(images)
            if outcome.place:
                made.kept.append(item)
                made.lines.append((*outcome.place[:2], len(made.shards) + outcome.place[2], outcome.sha256))
                made.descriptors += outcome.descriptor
            else:
                name = item.image.encode("utf-8", "backslashreplace").decode()
                rejected.append({"image": name, "reason": outcome.reason})
        made.shards += share.shards
        done += len(share.outcomes)
        check_rejects(rejected, total, options)
        if done < len(names):
            progress(done, len(names))
    check_rejects(rejected, total, options)
    passport, table = describe(source, options, made, rejected)
    progress(done, len(names))
    return publish(folder, passport, table)


@dataclass
class Made:
    """An unfinished pack: the images kept, with (height, width, shard, SHA-256) of each, and the shards.

    descriptors: those of the images kept, end to end, where near-identical images are looked for.
    """

    kept: list[Labelled] = field(default_factory=list)
    lines: list[tuple[int, int, int, str]] = field(default_factory=list)
    shards: list[dict[str, object]] = field(default_factory=list)
    descriptors: bytearray = field(default_factory=bytearray)

    @property
    def digests(self) -> list[str]:
        return [line[3] for line in self.lines]


def check_rejects(rejected: Sequence[dict[str, str]], total: int, options: ImageOptions) -> None:
    """Raise BadData as soon as too many images are unusable."""
    if len(rejected) > options.max_bad * total:
        some = "\n".join(f"  {item['image']}: {item['reason']}" for item in rejected[:10])
        raise BadData(f"{len(rejected)} of {total} images cannot be used, more than --max-bad {options.max_bad:g} "
                      f"allows; repair or remove them, or raise --max-bad:\n{some}")


def describe(source: Source, options: ImageOptions, made: Made,
             rejected: list[dict[str, str]]) -> tuple[Passport, bytes]:
    """Return the passport and the table of a pack; the hash covers images, labels, split and options."""
    kept = made.kept
    labels = [item.label for item in kept]
    if lost := [name for name in source.classes if name not in set(labels)]:
        raise BadData(f"{source.uri}: no usable image of class {', '.join(map(repr, lost))}; add images of it, or "
                      "leave the class out")
    keys = near_groups(made.descriptors, made.digests, options.near) if options.near else made.digests
    splits = assign_splits(labels, made.digests, keys, [item.split for item in kept], options)
    counts = collections.Counter(zip(splits, labels, strict=True))
    lines = [(item.image, item.label, split, *line)
             for item, split, line in zip(kept, splits, made.lines, strict=True)]
    table, hashed = write_table(lines, for_spreadsheets=True), write_table(lines, for_spreadsheets=False)
    duplicates, conflicts = find_duplicates(kept, made.digests)
    near_duplicates = find_near_duplicates(kept, made.digests, keys)
    recorded = {key: value for key, value in asdict(options).items() if key not in UNHASHED}
    core = json.dumps([recorded, source.classes, [shard["sha256"] for shard in made.shards],
                       digest(HASHED_HEADER + hashed.partition(b"\n")[2])])
    passport = Passport(
        pack_hash=digest(core.encode()), source=source.uri, options=asdict(options), classes=source.classes,
        positive=source.classes[-1] if len(source.classes) == 2 else "",
        num_images=len(kept), counts={split: {c: counts[split, c] for c in source.classes} for split in SPLITS},
        rejected=rejected, duplicates=duplicates, conflicts=conflicts,
        left_out=[item.image for item, split in zip(kept, splits, strict=True) if not split],
        warnings=source.notes + warn(source.classes, collections.Counter(labels), conflicts)
        + warn_of(near_duplicates, kept, splits),
        table={"name": f"images-{digest(table)[:16]}.csv", "sha256": digest(table)}, shards=made.shards,
        versions={"pillow": PIL.__version__, "numpy": np.__version__}, near_duplicates=near_duplicates)
    return passport, table


def warn(classes: Sequence[str], counts: collections.Counter[str], conflicts: Sequence[Sequence[str]]) -> list[str]:
    """Return warnings that a user should read before trusting a figure from this pack."""
    total = sum(counts.values())
    found = [f"class {name!r} is rare: {counts[name]} of {total} images; accuracy alone says little about it"
             for name in classes if counts[name] < min(RARE_SHARE, 0.5 / len(classes)) * total]
    found += [f"byte-identical images have different labels: {', '.join(names)}" for names in conflicts]
    return found


def publish(folder: Folder, passport: Passport, table: bytes) -> Passport:
    """Write the table, then the passport unless there is one; return the passport that is there.

    Files in pack/ that this passport does not name are deleted.
    """
    folder.write(f"pack/{passport.table['name']}", table)
    if not folder.write_once(PASSPORT, (json.dumps(asdict(passport), indent=1) + "\n").encode()):
        winner = read_passport(folder)
        assert winner, "the passport of another builder is gone"
        passport = winner
    named = {f"pack/{passport.table['name']}", PASSPORT, *(f"pack/{shard['name']}" for shard in passport.shards)}
    for name in list(folder.names("pack/")):
        if name not in named and not name.startswith(f"{PACK}/attempts/"):
            folder.delete(name)
    return passport
