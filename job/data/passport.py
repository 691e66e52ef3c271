"""The passport of a pack, read and checked: its files have plain names, and its numbers agree with each other."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from job.data.source import SPLITS
from job.errors import BadConfig
from job.folder.layout import PASSPORT, read_json
from job.folder.storage import Folder, join
from job.folder.untrusted import MOST_PASSPORT_BYTES, SHA256, brief, check_types, fits, in_range, plain_name
from job.trial import ImageOptions

# Version 0.1 called the table pictures-*.csv.
TABLE_NAME = re.compile(r"(?:images|pictures)-([0-9a-f]{16})\.csv")
SHARD_NAME = re.compile(r"pixels-[0-9]{5,9}-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class Passport:
    """What a pack is made of. `positive`: of two classes, the one whose recall and false negatives are reported.

    counts: split -> class -> number of images. duplicates: groups of byte-identical images. left_out: training images
    that are also in a given val/ or test/. conflicts: groups of byte-identical images with different labels.
    near_duplicates: sorted groups of images that are near-identical, or byte-identical with such a one; [] in a pack of
    an earlier version.
    """

    pack_hash: str
    source: str
    options: dict[str, object]
    classes: list[str]
    positive: str
    num_images: int
    counts: dict[str, dict[str, int]]
    rejected: list[dict[str, str]]
    duplicates: list[list[str]]
    left_out: list[str]
    conflicts: list[list[str]]
    warnings: list[str]
    table: dict[str, str]
    shards: list[dict[str, object]]
    versions: dict[str, str]
    near_duplicates: list[list[str]] = field(default_factory=list)


def read_passport(folder: Folder) -> Passport | None:
    """Return the pack's passport, or None while there is no complete pack; raises BadConfig if it is damaged."""
    found = read_json(folder, PASSPORT, MOST_PASSPORT_BYTES)
    if found is None:
        return None
    found = with_current_keys(found)
    try:
        if missing := [spec.name for spec in fields(Passport)
                       if spec.name not in found and spec.default_factory is MISSING]:
            raise ValueError(f"{', '.join(missing)} missing")
        check_types(Passport, found)
        check_passport(found)
    except ValueError as error:
        raise BadConfig(f"{join(folder.uri, PASSPORT)}: damaged, {error}; delete it to make the pack again") from None
    return Passport(**{spec.name: found[spec.name] for spec in fields(Passport) if spec.name in found})


def with_current_keys(passport: dict[str, Any]) -> dict[str, Any]:
    """Return a passport whose keys say "image" where version 0.1 wrote "picture"."""

    def renamed(value: Any) -> Any:
        if isinstance(value, list):
            return [renamed(item) for item in value]
        if isinstance(value, dict):
            return {key.replace("picture", "image"): item for key, item in value.items()}
        return value

    return {key.replace("picture", "image"): renamed(item) if key in ("rejected", "shards") else item
            for key, item in passport.items()}


def check_passport(found: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the key, if a passport whose values have the right types is not one that we write."""
    plain_name("pack_hash", found["pack_hash"], SHA256)
    check_options(found["options"])
    classes = found["classes"]
    if len(classes) < 2 or len(set(classes)) < len(classes) or "" in classes:
        raise ValueError("classes are not two or more different names")
    if found["positive"] and found["positive"] not in classes:
        raise ValueError(f"positive is {brief(found['positive'])}, which is no class")
    in_range("num_images", found["num_images"], 1)
    check_counts(found)
    check_shards(found)
    name = plain_name("table.name", found["table"].get("name"), TABLE_NAME)
    check_hash("table", name, found["table"].get("sha256"), TABLE_NAME)
    if not all({"image", "reason"} <= item.keys() for item in found["rejected"]):
        raise ValueError("rejected: an image or a reason is missing")


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError if the options of the pack are not such as a user can give."""
    check_types(ImageOptions, options)
    if "short_side" not in options:
        raise ValueError("options.short_side is missing")
    try:
        ImageOptions(**{name: options[name] for name in ImageOptions.__dataclass_fields__ if name in options})
    except ValueError as error:
        raise ValueError(f"options.{error}") from None


def check_counts(found: Mapping[str, Any]) -> None:
    """Raise ValueError unless each split counts each class, and the sum and the images left out are all images."""
    counts = found["counts"]
    if set(counts) != set(SPLITS):
        raise ValueError(f"counts are not those of {', '.join(SPLITS)}")
    for split, of_class in counts.items():
        if set(of_class) != set(found["classes"]):
            raise ValueError(f"counts.{split} are not those of the classes")
        for name, count in of_class.items():
            in_range(f"counts.{split}.{name}", count, 0)
    for split in ("train", "val"):
        if not any(counts[split].values()):
            raise ValueError(f"counts.{split}: no image")
    total = sum(sum(of_class.values()) for of_class in counts.values()) + len(found["left_out"])
    if total != found["num_images"]:
        raise ValueError(f"num_images is {found['num_images']}, but counts and left_out make {total}")


def check_shards(found: Mapping[str, Any]) -> None:
    """Raise ValueError unless the shards have plain names of their own, sizes, and together all images."""
    names, total = set(), 0
    for number, shard in enumerate(found["shards"]):
        here = f"shards[{number}]"
        name = plain_name(f"{here}.name", shard.get("name"), SHARD_NAME)
        check_hash(here, name, shard.get("sha256"), SHARD_NAME)
        if name in names:
            raise ValueError(f"{here}.name is {name}, which is that of another shard")
        names.add(name)
        in_range(f"{here}.bytes", shard.get("bytes"), 1)
        total += in_range(f"{here}.num_images", shard.get("num_images"), 1)
    if total != found["num_images"]:
        raise ValueError(f"num_images is {found['num_images']}, but the shards have {total}")


def check_hash(here: str, name: str, sha256: Any, pattern: re.Pattern[str]) -> None:
    """Raise ValueError unless this is a SHA-256 of which the file's name holds the beginning."""
    matched = pattern.fullmatch(name)
    if not fits(sha256, str) or not SHA256.fullmatch(sha256):
        raise ValueError(f"{here}.sha256 is {brief(sha256)}, which is no SHA-256")
    if not matched or matched[1] != sha256[:16]:
        raise ValueError(f"{here}.name is {name}, whose hash is not that of {here}.sha256")
