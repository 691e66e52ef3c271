"""Training steps on a GPU: the host describes each batch and never waits, and one CUDA graph does the whole step.

A step of ResNet18 launches some hundred kernels; at the study's batch size of 4, launching them one by one takes longer
than running them. The graph launches all of them at once: rendering the images, forward, backward, optimizer and sums.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from job.data.augment import Draws
from job.data.batches import Batches, rendering_kernel
from job.training.faults import first_line

# These steps run without a graph: in them libraries choose algorithms and allocate, which a graph capture forbids.
WARM_UP_STEPS = 3
# The host is at most twice this many steps ahead, so that a stop takes effect soon and the progress shown is true. The
# smaller number is for steps whose pixels are copied to the device, where they stay until the step is done.
STEPS_AHEAD, FED_STEPS_AHEAD = 64, 2


class GpuSteps:
    """Steps of the optimizer, one per call; from the fourth on as one CUDA graph, except a batch of another size.

    train: does the step on images_NCHW and labels_N; learning_rate: the tensor that the optimizer reads; say: gets the
    reason if the graph cannot be captured. The steps then run without one.
    """

    def __init__(self, batches: Batches, batch_size: int, train: Callable[[Tensor, Tensor], None],
                 learning_rate: Tensor, say: Callable[[str], None]) -> None:
        self.batches, self.batch_size, self.train, self.say = batches, batch_size, train, say
        self.learning_rate = learning_rate
        self.graph: torch.cuda.CUDAGraph | None = None
        self.graph_fails = False
        self.num_done = 0
        self.earlier = torch.cuda.Event()
        if reason := rendering_kernel(batches.device)[1]:
            say(f"the rendering kernel does not run here ({reason}): torch renders the images, more slowly")

    def __call__(self, indices: Tensor, draws: Draws, lr: float) -> None:
        """Launch one step on the images of these indices, augmented as drawn; return before the device has done it."""
        self.learning_rate.fill_(lr)
        pixels_P3, images_N12 = self.batches.fed(indices, draws)
        is_whole = len(indices) == self.batch_size
        if is_whole and self.num_done >= WARM_UP_STEPS and not self.graph and not self.graph_fails:
            self.capture(pixels_P3, draws)
        if is_whole and self.graph:
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
        """Capture the graph, which reads its images from its own tensors; this computes nothing yet."""
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
            # The graph needs memory of its own, so it can fail although the step alone fits. The error that ends the
            # capture hides the first one.
            reason = first_line(error.__context__ or error)
            self.graph_fails = True
            self.say(f"no CUDA graph of the training step ({reason}): training continues without it, more slowly")
        else:
            self.graph = graph
            return
        # Its memory returns to torch with the graph, and only then to the GPU.
        graph.reset()
        del graph
        torch.cuda.empty_cache()

    def keep_pace(self) -> None:
        """Wait, every so many steps, for a step launched long ago; the device still has newer steps to do meanwhile."""
        self.num_done += 1
        if self.num_done % (FED_STEPS_AHEAD if self.batches.resident_P3 is None else STEPS_AHEAD) == 0:
            self.earlier.synchronize()
            self.earlier.record()
