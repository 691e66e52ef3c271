"""What each step of a trial trains on: its images and their augmentation, drawn a block of steps at a time.

Both follow from the trial's seed, the epoch and the block, so a resumed trial draws what it would have drawn. On a GPU
a thread draws the next block, of the next epoch too, so that the device does not wait for it: 16,384 images take 50 ms.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from job.data.augment import Draws, draw
from job.data.batches import Batches
from job.training.state import generator_for
from job.trial import Trial

# Steps whose augmentation is drawn at once.
BLOCK = 64


def count_steps(num_images: int, batch_size: int) -> int:
    """Return the number of steps per epoch.

    If one image is left over, it joins the last batch, because batch normalisation cannot train on a single image.
    """
    num_whole, num_left_over = divmod(num_images, batch_size)
    return num_whole + (num_left_over > 1 or num_whole == 0)


class Drawing:
    """The steps of a trial's epochs."""

    def __init__(self, trial: Trial, batches: Batches) -> None:
        self.trial, self.batches = trial, batches
        self.num_images = len(batches.indices["train"])
        self.num_steps = count_steps(self.num_images, trial.batch_size)
        self.order = functools.lru_cache(maxsize=1)(self.draw_order)
        self.thread = ThreadPoolExecutor(1) if batches.device.type == "cuda" else None
        self.ahead: tuple[tuple[int, int], Future[tuple[Tensor, Draws]]] | None = None

    def draw_order(self, epoch: int) -> Tensor:
        """Return order_N: the indices of the training images, shuffled."""
        indices = self.batches.indices["train"]
        return indices[torch.randperm(len(indices), generator=generator_for(self.trial, epoch, "order"))]

    def draw_block(self, epoch: int, block: int) -> tuple[Tensor, Draws]:
        """Return the images of the steps from `block` on, as indices_N, and their draws."""
        size, end = self.trial.batch_size, min(block + BLOCK, self.num_steps)
        indices_N = self.order(epoch)[block * size:self.num_images if end == self.num_steps else end * size]
        generator = generator_for(self.trial, epoch, "draws", block)
        return indices_N, draw(self.batches.sizes_N2[indices_N], self.trial, generator)

    def take_block(self, epoch: int, block: int) -> tuple[Tensor, Draws]:
        """Return `draw_block`; with a thread, most often what it drew ahead, and it begins with the next block."""
        if not self.thread:
            return self.draw_block(epoch, block)
        known = self.ahead[1] if self.ahead and self.ahead[0] == (epoch, block) else None
        found = known.result() if known else self.draw_block(epoch, block)
        following = (epoch, block + BLOCK) if block + BLOCK < self.num_steps else (epoch + 1, 0)
        self.ahead = following, self.thread.submit(self.draw_block, *following)
        return found

    def steps(self, epoch: int, first: int) -> Iterator[tuple[int, Tensor, Draws]]:
        """Yield the steps of an epoch from `first` on: number, image indices and draws."""
        size = self.trial.batch_size
        for block in range(first // BLOCK * BLOCK, self.num_steps, BLOCK):
            indices_N, draws = self.take_block(epoch, block)
            for step in range(max(block, first), min(block + BLOCK, self.num_steps)):
                is_last = step == self.num_steps - 1
                of_step = slice((step - block) * size, None if is_last else (step - block + 1) * size)
                yield step, indices_N[of_step], draws.part(of_step)
