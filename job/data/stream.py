"""Images of any number -> pixels, in order, by the decoding processes, while the caller works; needs no torch."""

import collections
import itertools
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from job.data.cores import num_cores
from job.data.decoders import Task, in_processes
from job.data.image_file.decode import Rejected
from job.data.named import Named
from job.data.shards import FEW_IMAGES
from job.errors import JobError

# Images of a task: few, because the pixels of all tasks that are under way are in memory.
TASK_IMAGES = 16
# Answers that wait for the caller.
NUM_AHEAD = 8

Pixels = NDArray[np.uint8] | Rejected | JobError


def decoded(images: Sequence[Named], short_side: int) -> Generator[tuple[Named, Pixels], None, None]:
    """Yield each image with its pixels_HWC, as `image_file.decode` makes them, or with the reason why it has none.

    Memory holds the pixels of about 16 tasks of 16 images with two processes, whatever the number of images. Raises
    TryAgain if the storage is away or memory runs out.
    """
    tasks = list(tasks_of(images, short_side))
    num_processes = min(num_cores(), len(tasks)) if len(images) > FEW_IMAGES else 1
    answers = in_processes(tasks, num_processes)
    # A thread takes the answers, so that the processes have work while the caller computes. It starts the processes
    # too: the kernel ends them with it.
    thread = ThreadPoolExecutor(1)
    try:
        ahead = collections.deque(thread.submit(next, answers) for _ in tasks[:NUM_AHEAD])
        waiting, places = iter(tasks[NUM_AHEAD:]), iter(images)
        while ahead:
            found: list[Pixels] = ahead.popleft().result()
            ahead.extend(thread.submit(next, answers) for _ in itertools.islice(waiting, 1))
            yield from zip(itertools.islice(places, len(found)), found, strict=True)
    finally:
        thread.shutdown(cancel_futures=True)
        answers.close()


def tasks_of(images: Sequence[Named], short_side: int) -> Iterator[Task]:
    """Yield tasks of at most 16 images of one folder each, in order."""
    number = itertools.count()
    for folder, group in itertools.groupby(images, lambda image: image.folder):
        names = (image.name for image in group)
        while part := list(itertools.islice(names, TASK_IMAGES)):
            yield Task(folder, "", part, short_side, next(number))
