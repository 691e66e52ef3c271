"""Shards of a pack, made by processes side by side: each reads, decodes, hashes and writes its share of the images.

Only what a table's line needs comes back from a process, so that the pixels are not copied from one to the other.
"""

import collections
import hashlib
import itertools
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from job.data.cores import num_cores
from job.data.decode import Rejected, decode
from job.data.memory import keep_freed_memory
from job.errors import MissingInput, TryAgain
from job.folder.layout import digest
from job.folder.storage import Folder, open_folder

SHARD_BYTES = 64 << 20
# A process's share of the images at a time: small enough for a few images to be shared by many processes, large enough
# for a shard. It hangs on the number of images alone, so that a pack is the same from every machine.
SHARES, LEAST_SHARE, LARGEST_SHARE = 64, 32, 256
# So many are decoded sooner than processes are started.
FEW_IMAGES = 64
# Object storage mostly makes a reader wait.
READERS, READ_AHEAD = 4, 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """One image: the SHA-256 of its file, and its (height, width, shard), or why there is none."""

    sha256: str
    place: tuple[int, int, int] | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """What one process has made of some of the images: their outcomes, in order, and the shards it wrote."""

    outcomes: list[Outcome]
    shards: list[dict[str, object]]


def make_shards(source: Folder, sweep: Folder, names: Sequence[str], short_side: int) -> Iterator[Share]:
    """The images' shares, in order, their shards being written by then; an outcome's shard counts within its share.

    Each core is at work on a share, and memory holds a shard a process, not the images.
    """
    size = min(LARGEST_SHARE, max(LEAST_SHARE, -(-len(names) // SHARES)))
    shares = [names[start:start + size] for start in range(0, len(names), size)]
    # One more than cores, because a process that writes a shard waits for the disk or the store.
    num_processes = min(num_cores() + 1, len(shares)) if len(names) > FEW_IMAGES else 1
    if num_processes == 1:
        for number, share in enumerate(shares):
            yield make_share(source, sweep, share, short_side, number)
        return
    in_flight: collections.deque[Future[Share]] = collections.deque()
    with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), begin_process) as pool:
        try:
            for number, share in enumerate(shares):
                in_flight.append(pool.submit(make_share_there, source.uri, sweep.uri, share, short_side, number))
                if len(in_flight) > 2 * num_processes:
                    yield in_flight.popleft().result()
            while in_flight:
                yield in_flight.popleft().result()
        except BrokenProcessPool:
            raise TryAgain("a decoding process was killed, perhaps for want of memory; start again") from None
        finally:
            # Whoever stops early, by a signal too, does not wait for images that a slow store still owes.
            if in_flight:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():
                    process.kill()


def make_share_there(source: str, sweep: str, names: Sequence[str], short_side: int, number: int) -> Share:
    """`make_share` in another process, to which folders go as URIs."""
    return make_share(open_folder(source), open_folder(sweep), names, short_side, number)


def make_share(source: Folder, sweep: Folder, names: Sequence[str], short_side: int, number: int) -> Share:
    """Read, decode and hash some images, and write their shards, under names that hold their hashes."""
    share, waiting, num_bytes = Share([], []), list[NDArray[np.uint8]](), 0

    def close() -> None:
        data = save({"pixels": np.concatenate(waiting)})
        sha256 = digest(data)
        name = f"pixels-{number:05d}-{sha256[:16]}.safetensors"
        sweep.write(f"pack/{name}", data)
        share.shards.append({"name": name, "sha256": sha256, "bytes": len(data), "num_images": len(waiting)})
        waiting.clear()

    for sha256, found in read_and_decode(source, names, short_side):
        if isinstance(found, Rejected):
            share.outcomes.append(Outcome(sha256, None, found.reason))
            continue
        share.outcomes.append(Outcome(sha256, (found.shape[0], found.shape[1], len(share.shards))))
        waiting.append(found.reshape(-1))
        num_bytes += found.size
        if num_bytes >= SHARD_BYTES:
            close()
            num_bytes = 0
    if waiting:
        close()
    return share


def read_and_decode(source: Folder, names: Sequence[str], short_side: int) -> Iterator[tuple[str, NDArray[np.uint8] | Rejected]]:
    """The SHA-256 of each image's file, and its pixels or why it was rejected; a few threads read ahead."""
    def read(name: str) -> bytes | Rejected:
        try:
            name.encode()
            return source.read(name)
        except UnicodeEncodeError:
            return Rejected("its name is not UTF-8")
        except MissingInput:
            return Rejected("missing")

    with ThreadPoolExecutor(READERS) as threads:
        rest = iter(names)
        reading = collections.deque(threads.submit(read, name) for name in itertools.islice(rest, READ_AHEAD))
        while reading:
            data = reading.popleft().result()
            reading.extend(threads.submit(read, name) for name in itertools.islice(rest, 1))
            yield ("", data) if isinstance(data, Rejected) else (hashlib.sha256(data).hexdigest(), decode(data, short_side))


def begin_process() -> None:
    """In a decoding process: keep memory, and end when the process that started it is gone, however that came."""
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
