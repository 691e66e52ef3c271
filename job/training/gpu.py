"""Training steps on a GPU: the host describes each batch and never waits, and one CUDA graph does the whole step.

A step of ResNet18 is some hundred kernels; at the study's batch of 4 launching them one by one takes longer than they do. The
graph launches them at once: rendering the images, forward, backward, optimizer and sums.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from job.data.augment import Draws
from job.data.batches import Batches

# Steps that are launched one by one first: libraries choose and allocate in them, which a graph may not.
WARM_UP_STEPS = 3
# The host is never more than twice so many steps ahead, so that a stop comes soon and progress is true; and fewer where each
# step's pixels lie on the device until it is done with them.
STEPS_AHEAD, FED_STEPS_AHEAD = 64, 2


class GpuSteps:
    """Steps of the optimizer, one a call; a graph of the whole step from the fourth on, but for a batch of another size.

    train: the step on images_NCHW and labels_N; learning_rate: the tensor that the optimizer reads; say: is told why where no graph
    can be made, and steps are then launched one by one.
    """

    def __init__(self, batches: Batches, batch_size: int, train: Callable[[Tensor, Tensor], None], learning_rate: Tensor,
                 say: Callable[[str], None]) -> None:
        self.batches, self.batch_size, self.train, self.say = batches, batch_size, train, say
        self.learning_rate = learning_rate
        self.graph: torch.cuda.CUDAGraph | None = None
        self.graph_fails = False
        self.num_done = 0
        self.earlier = torch.cuda.Event()

    def __call__(self, indices: Tensor, draws: Draws, lr: float) -> None:
        """One step on the images of these indices, augmented as drawn; returns before the device has done it."""
        self.learning_rate.fill_(lr)
        pixels_P3, images_N12 = self.batches.fed(indices, draws)
        whole = len(indices) == self.batch_size
        if whole and self.num_done >= WARM_UP_STEPS and not self.graph and not self.graph_fails:
            self.capture(pixels_P3, draws)
        if whole and self.graph:
            self.images_N12.copy_(images_N12, non_blocking=True)
            if self.pixels_P3 is not pixels_P3:
                self.pixels_P3[:len(pixels_P3)].copy_(pixels_P3)
            self.graph.replay()
        else:
            self.step(pixels_P3, images_N12.to(self.batches.device, non_blocking=True), draws)
        self.keep_pace()

    def step(self, pixels_P3: Tensor, images_N12: Tensor, draws: Draws) -> None:
        self.train(*self.batches.rendered(pixels_P3, images_N12, draws))

    def capture(self, pixels_P3: Tensor, draws: Draws) -> None:
        """Make the graph, which reads its images from tensors of its own; nothing is computed yet."""
        device = self.batches.device
        self.images_N12 = torch.zeros(self.batch_size, 12, dtype=torch.float64, device=device)
        self.pixels_P3 = pixels_P3
        if self.batches.resident_P3 is None:
            self.pixels_P3 = torch.zeros(self.batches.most_pixels(self.batch_size), 3, dtype=torch.uint8, device=device)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(device)):
                self.step(self.pixels_P3, self.images_N12, draws)
        except RuntimeError as error:
            # Also where the memory is enough for the step alone: a graph keeps its own. What ends a capture hides the reason.
            reason = str(error.__context__ or error).splitlines()[0]
            self.graph_fails = True
            self.say(f"no CUDA graph can be made of the training step, which is slower without ({reason})")
        else:
            self.graph = graph
            return
        torch.cuda.empty_cache()

    def keep_pace(self) -> None:
        """Wait, now and then, for what was launched long ago; the device never runs out of work by it."""
        self.num_done += 1
        if self.num_done % (FED_STEPS_AHEAD if self.batches.resident_P3 is None else STEPS_AHEAD) == 0:
            self.earlier.synchronize()
            self.earlier.record()
