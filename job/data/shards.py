"""Shards of a pack, made by parallel processes: each reads, decodes, hashes and writes its share of the images.

A process returns only what the table needs; the pixels are never copied between processes.
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
# A share is the work of one process at a time: small enough that many processes have work, large enough for a shard. It
# depends only on the number of images, so every machine makes the same pack.
NUM_SHARES, LEAST_SHARE, LARGEST_SHARE = 64, 32, 256
# Decoding this many takes less time than starting processes.
FEW_IMAGES = 64
# Readers of object storage mostly wait, so each process has several.
NUM_READERS, NUM_READ_AHEAD = 4, 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """One image: the SHA-256 of its file, and its (height, width, shard), or None and the reason for the rejection."""

    sha256: str
    place: tuple[int, int, int] | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the images after processing: their outcomes, in order, and the shards."""

    outcomes: list[Outcome]
    shards: list[dict[str, object]]


def make_shards(source: Folder, sweep: Folder, names: Sequence[str], short_side: int) -> Iterator[Share]:
    """Yield the shares of the images, in order, each after its shards are written; memory holds one shard per process.

    An outcome's shard number counts from 0 within its share. Raises TryAgain if a decoding process is killed.
    """
    size = min(LARGEST_SHARE, max(LEAST_SHARE, -(-len(names) // NUM_SHARES)))
    shares = [names[start:start + size] for start in range(0, len(names), size)]
    # One more than there are cores, because a process that writes a shard waits for the disk or the store.
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
        # The second: the pool broke while it started another process.
        except (BrokenProcessPool, OSError):
            raise TryAgain("a decoding process was killed, probably because memory ran out; free some memory, then "
                           "start again") from None
        finally:
            # After an early end, by a signal for example, do not wait for images from a slow store.
            if in_flight:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():
                    process.kill()


def make_share_there(source: str, sweep: str, names: Sequence[str], short_side: int, number: int) -> Share:
    """Call `make_share` in another process; folders are passed as URIs."""
    return make_share(open_folder(source), open_folder(sweep), names, short_side, number)


def make_share(source: Folder, sweep: Folder, names: Sequence[str], short_side: int, number: int) -> Share:
    """Read, decode and hash some images, and write their shards, whose names contain their hashes."""
    share, unwritten, num_bytes = Share([], []), list[NDArray[np.uint8]](), 0

    def write_shard() -> None:
        data = save({"pixels": np.concatenate(unwritten)})
        sha256 = digest(data)
        name = f"pixels-{number:05d}-{sha256[:16]}.safetensors"
        sweep.write(f"pack/{name}", data)
        share.shards.append({"name": name, "sha256": sha256, "bytes": len(data), "num_images": len(unwritten)})
        unwritten.clear()

    for sha256, found in read_and_decode(source, names, short_side):
        if isinstance(found, Rejected):
            share.outcomes.append(Outcome(sha256, None, found.reason))
            continue
        share.outcomes.append(Outcome(sha256, (found.shape[0], found.shape[1], len(share.shards))))
        unwritten.append(found.reshape(-1))
        num_bytes += found.size
        if num_bytes >= SHARD_BYTES:
            write_shard()
            num_bytes = 0
    if unwritten:
        write_shard()
    return share


def read_and_decode(source: Folder, names: Sequence[str],
                    short_side: int) -> Iterator[tuple[str, NDArray[np.uint8] | Rejected]]:
    """Yield the SHA-256 of each image's file, and its pixels or the rejection; a few threads read ahead."""
    def read(name: str) -> bytes | Rejected:
        try:
            name.encode()
            return source.read(name)
        except UnicodeEncodeError:
            return Rejected("its name is not UTF-8")
        except MissingInput:
            return Rejected("missing")

    with ThreadPoolExecutor(NUM_READERS) as threads:
        rest = iter(names)
        reading = collections.deque(threads.submit(read, name) for name in itertools.islice(rest, NUM_READ_AHEAD))
        while reading:
            data = reading.popleft().result()
            reading.extend(threads.submit(read, name) for name in itertools.islice(rest, 1))
            if isinstance(data, Rejected):
                yield "", data
            else:
                yield hashlib.sha256(data).hexdigest(), decode(data, short_side)


def begin_process() -> None:
    """Set up a decoding process: keep freed memory, and end when the parent process has ended for any reason."""
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    assert parent

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
