"""Shards of a pack, made by parallel processes: each reads, decodes, hashes and writes its share of the images.

A process returns only what the table needs; the pixels are never copied between processes.
"""

import collections
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from job.data.cores import num_cores
from job.data.decoders import Task, in_processes
from job.data.descriptor import describe
from job.data.image_file.decode import Rejected, decode
from job.errors import AccessDenied, JobError, MissingInput, TryAgain
from job.folder.layout import digest
from job.folder.storage import Folder

SHARD_BYTES = 64 << 20
# A share is the work of one process at a time: small enough that many processes have work, large enough for a shard. It
# depends only on the number of images, so every machine makes the same pack.
NUM_SHARES, LEAST_SHARE, LARGEST_SHARE = 64, 32, 256
# Decoding this many takes less time than starting more than one process.
FEW_IMAGES = 64
# Readers of object storage mostly wait, so each process has several.
NUM_READERS, NUM_READ_AHEAD = 4, 8
# Decodes the image at a place of a list, to a short side.
Decode = Callable[[int, bytes, int], NDArray[np.uint8] | Rejected]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One image: the SHA-256 of its file, and its (height, width, shard), or None and the reason for the rejection.

    descriptor: what job/data/descriptor.py says of its pixels, if that was wanted.
    """

    sha256: str
    place: tuple[int, int, int] | None
    reason: str = ""
    descriptor: bytes = b""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the images after processing: their outcomes, in order, and the shards."""

    outcomes: list[Outcome]
    shards: list[dict[str, object]]


def make_shards(source: Folder, sweep: Folder, names: Sequence[str], short_side: int,
                described: bool) -> Iterator[Share]:
    """Yield the shares of the images, in order, each after its shards are written; memory holds one shard per process.

    An outcome's shard number counts from 0 within its share. described: an outcome has the image's descriptor. Raises
    TryAgain if memory runs out.
    """
    size = min(LARGEST_SHARE, max(LEAST_SHARE, -(-len(names) // NUM_SHARES)))
    tasks = [Task(source.uri, sweep.uri, names[start:start + size], short_side, number, described=described)
             for number, start in enumerate(range(0, len(names), size))]
    # One more than there are cores, because a process that writes a shard waits for the disk or the store.
    yield from in_processes(tasks, min(num_cores() + 1, len(tasks)) if len(names) > FEW_IMAGES else 1)


def make_share(source: Folder, sweep: Folder, names: Sequence[str], short_side: int, number: int,
               decode_one: Decode, described: bool) -> Share:
    """Read, decode, describe and hash some images, and write their shards, whose names contain their hashes."""
    share, unwritten, num_bytes = Share([], []), list[NDArray[np.uint8]](), 0

    def write_shard() -> None:
        data = save({"pixels": np.concatenate(unwritten)})
        sha256 = digest(data)
        name = f"pixels-{number:05d}-{sha256[:16]}.safetensors"
        sweep.write(f"pack/{name}", data)
        share.shards.append({"name": name, "sha256": sha256, "bytes": len(data), "num_images": len(unwritten)})
        unwritten.clear()

    for sha256, found in read_and_decode(source, names, short_side, decode_one):
        if isinstance(found, Rejected):
            share.outcomes.append(Outcome(sha256, None, found.reason))
            continue
        share.outcomes.append(Outcome(sha256, (found.shape[0], found.shape[1], len(share.shards)),
                                      descriptor=describe(found) if described else b""))
        unwritten.append(found.reshape(-1))
        num_bytes += found.size
        if num_bytes >= SHARD_BYTES:
            write_shard()
            num_bytes = 0
    if unwritten:
        write_shard()
    return share


def hand_over(source: Folder, names: Sequence[str], short_side: int,
              decode_one: Decode) -> list[NDArray[np.uint8] | Rejected | JobError]:
    """Read and decode some images; return the pixels of each, or why it has none."""
    answers: list[NDArray[np.uint8] | Rejected | JobError] = []
    for place, (name, data) in enumerate(zip(names, read_ahead(source, names, any_name=True), strict=True)):
        answers.append(decode_read(name, place, data, short_side, decode_one) if isinstance(data, bytes) else data)
    return answers


def decode_here(place: int, data: bytes, short_side: int) -> NDArray[np.uint8] | Rejected:
    """Decode the image at a place of a list, in this process and without its limits."""
    return decode(data, short_side)


def read_and_decode(source: Folder, names: Sequence[str], short_side: int,
                    decode_one: Decode = decode_here) -> Iterator[tuple[str, NDArray[np.uint8] | Rejected]]:
    """Yield the SHA-256 of each image's file, and its pixels or the rejection; a few threads read ahead.

    Raises AccessDenied for a file that may not be read: a pack is not made of what happens to be readable.
    """
    for place, (name, data) in enumerate(zip(names, read_ahead(source, names), strict=True)):
        if isinstance(data, AccessDenied):
            raise data
        if isinstance(data, bytes):
            yield hashlib.sha256(data).hexdigest(), decode_read(name, place, data, short_side, decode_one)
        else:
            yield "", data if isinstance(data, Rejected) else Rejected("missing")


def decode_read(name: str, place: int, data: bytes, short_side: int,
                decode_one: Decode) -> NDArray[np.uint8] | Rejected:
    """Decode what was read of an image; raises TryAgain, with its name, if memory runs out."""
    try:
        return decode_one(place, data, short_side)
    except TryAgain as error:
        raise TryAgain(f"{name}: {error}") from None


def read_ahead(source: Folder, names: Sequence[str],
               any_name: bool = False) -> Iterator[bytes | Rejected | MissingInput | AccessDenied]:
    """Yield the bytes of each file, or why there are none; a few threads read ahead.

    any_name: names need not be UTF-8, because no pack will hold them.
    """
    def read(name: str) -> bytes | Rejected | MissingInput | AccessDenied:
        try:
            if not any_name:
                name.encode()
            return source.read(name)
        except UnicodeEncodeError:
            return Rejected("its name is not UTF-8")
        except (MissingInput, AccessDenied) as error:
            return error

    with ThreadPoolExecutor(NUM_READERS) as threads:
        rest = iter(names)
        reading = collections.deque(threads.submit(read, name) for name in itertools.islice(rest, NUM_READ_AHEAD))
        while reading:
            data = reading.popleft().result()
            reading.extend(threads.submit(read, name) for name in itertools.islice(rest, 1))
            yield data
