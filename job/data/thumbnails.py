"""Small copies of a few of a pack's images, for a page; each is read on its own, and no torch is needed."""

import base64
import io
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from job.data.cache import local_copy, rebuild
from job.data.passport import Passport, read_passport
from job.data.table import Packed, parse_table
from job.errors import BadData, JobError, MissingInput
from job.folder.storage import Folder, join

LONG_SIDE, QUALITY = 192, 62
# Of a pack in object storage, a page reads no more than this: at 256 pixels an image has about 260 kB.
MOST_READ_BYTES = 64 << 20
MOST_IMAGE_BYTES = 16 << 20
NUM_READERS = 8
MOST_REASONS = 3
# `job gather --watch` makes the page again after each trial, mostly with the same images. Shards are named by content.
MOST_KEPT = 1024
_made: "dict[Place, str]" = {}


@dataclass(frozen=True)
class Place:
    """Where the pixels of an image lie: a file of the pack, and the first byte in it."""

    shard: str
    start: int
    height: int
    width: int


def thumbnails(sweep: Folder, names: Sequence[str], most_bytes: int) -> tuple[dict[str, str], list[str]]:
    """Return the data URIs of the first of these images, by name, and why others have none, one sentence per reason.

    most_bytes: what all data URIs may take. A pack that is missing, damaged or out of reach is a reason, not an error.
    """
    try:
        # `scripts/gather.py` may run where there is no Pillow.
        import PIL.Image  # noqa: F401

        passport = read_passport(sweep)
        places = find_places(sweep, passport, set(names)) if passport else {}
    except (JobError, ImportError) as error:
        return {}, [str(error)]
    if not passport:
        return {}, ["the sweep folder has no pack"]
    wanted = list(within(places, [name for name in dict.fromkeys(names) if name in places]))
    errors: list[JobError] = []

    def make(name: str) -> str:
        # Where the storage fails one read, the next would wait as long for it. A file that is gone is another matter.
        if any(not isinstance(error, MissingInput | BadData) for error in errors):
            return ""
        try:
            return thumbnail(sweep, places[name])
        except JobError as error:
            errors.append(error)
            return ""

    with ThreadPoolExecutor(NUM_READERS) as threads:
        made = dict(zip(wanted, threads.map(make, wanted), strict=True))
    found, num_bytes = {}, 0
    for name, uri in made.items():
        num_bytes += len(uri)
        if uri and num_bytes <= most_bytes:
            found[name] = uri
    return found, [*dict.fromkeys(map(str, errors))][:MOST_REASONS]


def within(places: dict[str, Place], names: Sequence[str]) -> Iterator[str]:
    """Yield the names whose pixels together take no more than MOST_READ_BYTES."""
    num_bytes = 0
    for name in names:
        size = 3 * places[name].height * places[name].width
        if size <= MOST_IMAGE_BYTES and num_bytes + size <= MOST_READ_BYTES:
            num_bytes += size
            yield name


def find_places(sweep: Folder, passport: Passport, names: Collection[str]) -> dict[str, Place]:
    """Return where the pixels of these images lie; raises BadData where the table contradicts the passport."""
    path = local_copy(sweep, passport.table["name"], 0, passport.table["sha256"])
    used = [0] * len(passport.shards)
    lines: list[tuple[Packed, int]] = []
    try:
        for line in parse_table(path.read_bytes()):
            if line.shard >= len(used):
                raise ValueError(f"{line.image!r} is in shard {line.shard}, which the passport does not have")
            if line.image in names:
                lines.append((line, used[line.shard]))
            used[line.shard] += line.num_bytes
    except ValueError as error:
        raise BadData(f"{path}: {error}; {rebuild(sweep)}") from None
    # A shard is a header, then the pixels of all its images, and nothing after them.
    headers = [int(str(shard["bytes"])) - size for shard, size in zip(passport.shards, used, strict=True)]
    if min(headers) < 0:
        raise BadData(f"{path}: the images of a shard have more pixels than it has bytes; {rebuild(sweep)}")
    return {line.image: Place(str(passport.shards[line.shard]["name"]), headers[line.shard] + start, line.height,
                              line.width) for line, start in lines}


def thumbnail(sweep: Folder, place: Place) -> str:
    """Return a data URI of the image, at most LONG_SIDE pixels long; raises BadData if the shard is shorter."""
    if (made := _made.get(place)) is None:
        made = as_uri(sweep, place)
        if len(_made) < MOST_KEPT:
            _made[place] = made
    return made


def as_uri(sweep: Folder, place: Place) -> str:
    """Return the image in base64, as WebP: a third smaller than JPEG, and every browser shows it."""
    from PIL import Image

    size = 3 * place.height * place.width
    pixels = sweep.read_part(f"pack/{place.shard}", place.start, size)
    if len(pixels) != size:
        raise BadData(f"{join(sweep.uri, f'pack/{place.shard}')}: shorter than its images; {rebuild(sweep)}")
    small = Image.frombytes("RGB", (place.width, place.height), pixels)
    small.thumbnail((LONG_SIDE, LONG_SIDE))
    coded = io.BytesIO()
    small.save(coded, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(coded.getvalue()).decode()}"
