"""A pack in memory as the training loop reads it: batches of normalised images, from a memory map or the GPU."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from job.data.augment import Draws, center_boxes, finish, maps_of_boxes, normalise, sample_each, sample_ragged


@dataclass(frozen=True)
class Batches:
    """The images of a pack at the size of one trial; an index is an image's position in the pack.

    resident_P3: the pixels of all images end to end, on the GPU; None if they do not fit there, and on a CPU.
    dtype: that of rendered images on a GPU: the one in which the model's first layer computes.
    train_size: height and width of the images that training sees; 0: image_size, as validation.
    """

    image_size: int
    device: torch.device
    images: Sequence[Tensor]
    sizes_N2: Tensor
    labels_N: Tensor
    indices: dict[str, Tensor]
    names: list[str]
    resident_P3: Tensor | None
    dtype: torch.dtype = torch.float32
    train_size: int = 0

    @property
    def size_in_training(self) -> int:
        """Height and width of the images that training sees, pixels."""
        return self.train_size or self.image_size

    def inputs(self, indices: Tensor) -> Tensor:
        """Return what the model reads in validation: `centered`."""
        return self.centered(indices)

    def centered(self, indices: Tensor) -> Tensor:
        """Return images_NCHW, normalised, on the device: the centre crops that validation uses."""
        if self.device.type == "cpu":
            return normalise(crop_centers([self.images[i] for i in indices.tolist()], self.image_size))
        draws = Draws(maps_of_boxes(center_boxes(self.sizes_N2[indices], self.image_size)))
        pixels_P3, images_N12 = self.fed(indices, draws)
        return self.rendered(pixels_P3, images_N12.to(self.device, non_blocking=True), draws, self.image_size)[0]

    def augmented(self, indices: Tensor, draws: Draws) -> Tensor:
        """Return images_NCHW, normalised, on the CPU: augmented as drawn."""
        images_NCHW = sample_each([self.images[i] for i in indices.tolist()], draws.maps_N23, self.size_in_training)
        return finish(images_NCHW, draws.noise_N, draws.sigma_N, draws.most_blur)

    def labels(self, indices: Tensor) -> Tensor:
        """Return labels_N, int64, on the device."""
        return self.labels_N[indices].to(self.device, non_blocking=True)

    def fed(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return what a GPU renders a batch from: pixels_P3 on the GPU, and images_N12, float64, in host memory.

        images_N12: map (6), first pixel, height, width, label, noise, sigma. It is one tensor, so one copy moves it.
        Nothing here waits for the GPU, and the GPU copies this batch while it computes the one before.
        """
        sizes_N2 = self.sizes_N2[indices]
        if self.resident_P3 is not None:
            pixels_P3, starts_N = self.resident_P3, self.pixel_starts[indices]
        else:
            parts = [self.images[i].reshape(-1, 3) for i in indices.tolist()]
            pixels_P3, starts_N = to_device(parts, self.device), first_pixels(sizes_N2)
        none_N = torch.zeros(len(indices))
        columns = [draws.maps_N23.reshape(-1, 6), starts_N[:, None], sizes_N2, self.labels_N[indices][:, None],
                   (none_N if draws.noise_N is None else draws.noise_N)[:, None],
                   (none_N if draws.sigma_N is None else draws.sigma_N)[:, None]]
        images_N12 = torch.cat([column.double() for column in columns], 1)
        return pixels_P3, images_N12.pin_memory() if self.device.type == "cuda" else images_N12

    def rendered(self, pixels_P3: Tensor, images_N12: Tensor, draws: Draws, size: int = 0) -> tuple[Tensor, Tensor]:
        """Return images_NCHW, normalised and augmented, and labels_N, on the device of both tensors.

        draws: read only for whether there are noise and blur, and for the largest possible blur. size: the height and
        width of the images; 0: those of training.
        """
        size = size or self.size_in_training
        labels_N, is_plain = images_N12[:, 9].long(), draws.noise_N is None and draws.sigma_N is None
        kernel, _ = rendering_kernel(pixels_P3.device)
        if kernel and is_plain:
            return kernel.rendered(pixels_P3, images_N12, size, self.dtype, True), labels_N
        if kernel:
            images_NCHW = kernel.rendered(pixels_P3, images_N12, size, torch.float32, False)
        else:
            starts_N, *sizes = images_N12[:, 6:9].long().unbind(1)
            maps_N23 = images_N12[:, :6].float().view(-1, 2, 3)
            images_NCHW = sample_ragged(pixels_P3, starts_N, torch.stack(sizes, 1), maps_N23, size)
        noise_N, sigma_N = images_N12[:, 10:].float().unbind(1)
        return finish(images_NCHW, None if draws.noise_N is None else noise_N,
                      None if draws.sigma_N is None else sigma_N, draws.most_blur), labels_N

    @functools.cached_property
    def pixel_starts(self) -> Tensor:
        """The index of each image's first pixel when all images lie end to end."""
        return first_pixels(self.sizes_N2)

    def most_pixels(self, num: int) -> int:
        """Return the largest number of pixels that any `num` images have together."""
        return int(self.sizes_N2.prod(1).topk(min(num, len(self.sizes_N2))).values.sum())


@functools.cache
def rendering_kernel(device: torch.device) -> tuple[ModuleType | None, str]:
    """Return job.data.render if its kernel runs on this device; else None and, for a GPU, the reason."""
    if device.type != "cuda":
        return None, ""
    try:
        from job.data import render

        render.check(device)
    except Exception as error:  # noqa: BLE001 - Triton's compiler has errors of many kinds, and torch's way is as right
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return render, ""


def first_pixels(sizes_N2: Tensor) -> Tensor:
    """Return the index of each image's first pixel when images of these (height, width) lie end to end."""
    ends_N = sizes_N2.prod(1).cumsum(0)
    return torch.cat([ends_N.new_zeros(1), ends_N[:-1]])


def to_device(parts: list[Tensor], device: torch.device) -> Tensor:
    """Return pixels_P3 of these parts, end to end, on the device.

    On CUDA the copy is made in a stream of its own, and only later work waits for it; torch reuses its pinned memory
    once it is done.
    """
    if device.type != "cuda":
        return torch.cat(parts).to(device)
    host_P3 = torch.empty(sum(map(len, parts)), 3, dtype=torch.uint8, pin_memory=True)
    torch.cat(parts, out=host_P3)
    current, copying = torch.cuda.current_stream(device), copying_stream(device)
    with torch.cuda.stream(copying):
        there = host_P3.to(device, non_blocking=True)
    current.wait_stream(copying)
    there.record_stream(current)
    return there


@functools.cache
def copying_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream that copies images to a GPU."""
    return torch.cuda.Stream(device)


def crop_centers(images: Sequence[Tensor], size: int) -> Tensor:
    """Return uint8 images_NCHW: the crops of images_HWC that torchvision's CenterCrop takes."""
    sizes_N2 = torch.tensor([image.shape[:2] for image in images])
    boxes = center_boxes(sizes_N2, size).long().tolist()
    crops = [image[top:top + size, left:left + size] for image, (top, left, _, _) in zip(images, boxes, strict=True)]
    return torch.stack(crops).permute(0, 3, 1, 2)
