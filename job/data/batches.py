"""A pack in memory, as the training loop reads it: batches of normalised pictures, from the memory map or the device."""

import csv
import functools
import hashlib
import io
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from job.data.augment import Draws, center_boxes, finish, maps_of_boxes, normalise, sample_each, sample_ragged
from job.data.pack import Passport
from job.data.source import SPLITS
from job.errors import BadConfig, BadData, MissingInput
from job.storage import Folder, LocalFolder, join
from job.trial import Trial

# The study resizes the short side to 256 and crops 224; other sizes keep the proportion.
RESIZE_OVER_CROP = 256 / 224
RESIDENT_SHARE = 0.5
COPIED_AT_ONCE = 256
FETCHERS = 8
# Hashing costs about a second a GB; of larger packs only the sizes are checked.
VERIFIED_BYTES = 8 << 30


@dataclass(frozen=True)
class Batches:
    """The pictures of a pack at the size of one trial; indices count the pictures in the pack's order.

    resident_P3: on an accelerator, the pixels of all pictures end to end where they fit into its memory, else None.
    """

    image_size: int
    device: torch.device
    pictures: Sequence[Tensor]
    sizes_N2: Tensor
    labels_N: Tensor
    indices: dict[str, Tensor]
    names: list[str]
    resident_P3: Tensor | None

    def images(self, indices: Tensor) -> Tensor:
        """images_NCHW, normalised, on the device: the centre crops of validation."""
        if self.device.type == "cpu":
            return normalise(crop_centers([self.pictures[i] for i in indices.tolist()], self.image_size))
        draws = Draws(maps_of_boxes(center_boxes(self.sizes_N2[indices], self.image_size)))
        pixels_P3, pictures_N12 = self.fed(indices, draws)
        return self.rendered(pixels_P3, pictures_N12.to(self.device, non_blocking=True), draws)[0]

    def augmented(self, indices: Tensor, draws: Draws) -> Tensor:
        """images_NCHW, normalised, on the CPU: augmented as drawn."""
        images_NCHW = sample_each([self.pictures[i] for i in indices.tolist()], draws.maps_N23, self.image_size)
        return finish(images_NCHW, draws.noise_N, draws.sigma_N, draws.most_blur)

    def labels(self, indices: Tensor) -> Tensor:
        """labels_N, int64, on the device."""
        return self.labels_N[indices].to(self.device, non_blocking=True)

    def fed(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """What an accelerator renders a batch from: pixels_P3 on the device, and pictures_N12, float64, in the host's memory.

        pictures_N12: map (6), first pixel, height, width, label, noise, sigma; one tensor, so that one copy moves it. Nothing
        here waits for the device, nor has the device to wait for the copies of a batch while it works on the one before.
        """
        sizes_N2 = self.sizes_N2[indices]
        if self.resident_P3 is not None:
            pixels_P3, starts_N = self.resident_P3, self.pixel_starts[indices]
        else:
            host_P3 = torch.cat([self.pictures[i].reshape(-1, 3) for i in indices.tolist()])
            pixels_P3, starts_N = to_device(host_P3, self.device), first_pixels(sizes_N2)
        none_N = torch.zeros(len(indices))
        columns = [draws.maps_N23.reshape(-1, 6), starts_N[:, None], sizes_N2, self.labels_N[indices][:, None],
                   (none_N if draws.noise_N is None else draws.noise_N)[:, None],
                   (none_N if draws.sigma_N is None else draws.sigma_N)[:, None]]
        pictures_N12 = torch.cat([column.double() for column in columns], 1)
        return pixels_P3, pictures_N12.pin_memory() if self.device.type == "cuda" else pictures_N12

    def rendered(self, pixels_P3: Tensor, pictures_N12: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """images_NCHW, normalised and augmented, and labels_N, on the device where both tensors lie.

        draws: only whether there is noise and blur, and how much at most.
        """
        maps_N23 = pictures_N12[:, :6].float().view(-1, 2, 3)
        starts_N, heights_N, widths_N, labels_N = pictures_N12[:, 6:10].long().unbind(1)
        images_NCHW = sample_ragged(pixels_P3, starts_N, torch.stack([heights_N, widths_N], 1), maps_N23, self.image_size)
        noise_N, sigma_N = pictures_N12[:, 10:].float().unbind(1)
        return finish(images_NCHW, None if draws.noise_N is None else noise_N, None if draws.sigma_N is None else sigma_N,
                      draws.most_blur), labels_N

    @functools.cached_property
    def pixel_starts(self) -> Tensor:
        """Each picture's first pixel among those of all pictures end to end."""
        return first_pixels(self.sizes_N2)

    def most_pixels(self, num: int) -> int:
        """As many as any `num` pictures have together."""
        return int(self.sizes_N2.prod(1).topk(min(num, len(self.sizes_N2))).values.sum())


def first_pixels(sizes_N2: Tensor) -> Tensor:
    """Each picture's first pixel where the pictures of these (height, width) lie end to end."""
    ends_N = sizes_N2.prod(1).cumsum(0)
    return torch.cat([ends_N.new_zeros(1), ends_N[:-1]])


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """A copy on the device; on CUDA by a stream of its own, for which only what is asked of the device later waits."""
    if device.type != "cuda":
        return host.to(device)
    current, copying = torch.cuda.current_stream(device), copying_stream(device)
    with torch.cuda.stream(copying):
        there = host.pin_memory().to(device, non_blocking=True)
    current.wait_stream(copying)
    there.record_stream(current)
    return there


@functools.cache
def copying_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that copies pictures to a GPU."""
    return torch.cuda.Stream(device)


def crop_centers(pictures: Sequence[Tensor], size: int) -> Tensor:
    """uint8 images_NCHW: the centre crops of pictures_HWC, as torchvision's CenterCrop takes them."""
    sizes_N2 = torch.tensor([picture.shape[:2] for picture in pictures])
    boxes = center_boxes(sizes_N2, size).long().tolist()
    crops = [p[top:top + size, left:left + size] for p, (top, left, _, _) in zip(pictures, boxes, strict=True)]
    return torch.stack(crops).permute(0, 3, 1, 2)


def resize_side(image_size: int) -> int:
    """The short side that validation's resize gives a picture before its crop of image_size: 256 for 224."""
    return round(image_size * RESIZE_OVER_CROP)


def load_batches(sweep: Folder, passport: Passport, trial: Trial, device: torch.device) -> Batches:
    """The pack, memory-mapped (from a local copy where it lies in object storage), at the trial's picture size.

    Where the trial's pictures are smaller than the pack's they are all resized once, here. On an accelerator the
    pixels move there if they take less than half of its free memory. Raises BadConfig where the pack is too small.
    """
    short_side, wanted = int(str(passport.options["short_side"])), resize_side(trial.image_size)
    if wanted > short_side:
        raise BadConfig(f"trial {trial.trial}: image_size {trial.image_size} needs pictures with a short side of {wanted}, "
                        f"and the pack has {short_side}; prepare a new sweep folder with --short-side {wanted}")
    table = local_copy(sweep, passport.table["name"], 0, passport.table["sha256"])
    lines = list(csv.DictReader(io.StringIO(table.read_bytes().decode(), newline="")))
    pictures = map_pictures(sweep, passport, [(int(line["height"]), int(line["width"])) for line in lines])
    if wanted < short_side:
        pictures = [shrink(picture, wanted) for picture in pictures]
    indices = {split: torch.tensor([i for i, line in enumerate(lines) if line["split"] == split], dtype=torch.int64)
               for split in SPLITS}
    sizes_N2 = torch.tensor([picture.shape[:2] for picture in pictures])
    labels_N = torch.tensor([passport.classes.index(line["label"]) for line in lines])
    return Batches(trial.image_size, device, pictures, sizes_N2, labels_N, indices, [line["picture"] for line in lines],
                   make_resident(pictures, sizes_N2, device))


def map_pictures(sweep: Folder, passport: Passport, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """pictures_HWC, uint8: views of the memory-mapped shards."""
    pictures: list[Tensor] = []
    verify = sum(int(str(shard["bytes"])) for shard in passport.shards) <= VERIFIED_BYTES
    # Side by side, because a store sends each at its own pace, and hashing does not hold Python's lock.
    with ThreadPoolExecutor(FETCHERS) as threads:
        paths = list(threads.map(
            lambda shard: local_copy(sweep, str(shard["name"]), int(str(shard["bytes"])), str(shard["sha256"]) if verify else ""),
            passport.shards))
    for path, shard in zip(paths, passport.shards, strict=True):
        with safe_open(path, framework="pt") as file:
            pixels = file.get_tensor("pixels")
        counts = sizes[len(pictures):len(pictures) + int(str(shard["num_pictures"]))]
        parts = pixels.split([height * width * 3 for height, width in counts])
        pictures += [part.view(height, width, 3) for part, (height, width) in zip(parts, counts, strict=True)]
    return pictures


def local_copy(sweep: Folder, name: str, num_bytes: int, sha256: str) -> Path:
    """The path of one file of the pack; one in object storage is copied once to the temporary folder of this machine.

    Files of a pack are named by their content, so a copy is right whichever sweep it came from. Raises BadData where the
    size (unless 0) or the hash (unless '') is not the passport's, and MissingInput where the file is gone.
    """
    if isinstance(sweep, LocalFolder):
        path = sweep.path / "pack" / name
    else:
        cache = Path(tempfile.gettempdir()) / f"trialgrid-packs-{os.getuid()}"
        cache.mkdir(mode=0o700, exist_ok=True)
        path = cache / name
        if not path.exists() or not is_intact(path, num_bytes, sha256):
            handle, temporary = tempfile.mkstemp(dir=cache)
            os.close(handle)
            sweep.fetch(f"pack/{name}", Path(temporary))
            Path(temporary).replace(path)
    rebuild = f"delete {join(sweep.uri, 'pack/passport.json')} to make the pack again"
    if not path.exists():
        raise MissingInput(f"{path}: this file of the pack is gone; {rebuild}")
    if not is_intact(path, num_bytes, sha256):
        raise BadData(f"{path}: this file of the pack is damaged; {rebuild}")
    return path


def is_intact(path: Path, num_bytes: int, sha256: str) -> bool:
    """Whether a file has this size (unless 0) and this hash (unless '')."""
    if num_bytes and path.stat().st_size != num_bytes:
        return False
    if not sha256:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def shrink(picture_HWC: Tensor, short_side: int) -> Tensor:
    """The picture with a smaller short side, by the antialiased bilinear resize that torchvision's Resize makes of a tensor."""
    height, width = picture_HWC.shape[:2]
    short = min(height, width)
    size = (int(short_side * height / short), int(short_side * width / short))
    resized_1CHW = functional.interpolate(picture_HWC.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True)
    return resized_1CHW[0].permute(1, 2, 0).contiguous()


def make_resident(pictures: Sequence[Tensor], sizes_N2: Tensor, device: torch.device) -> Tensor | None:
    """pixels_P3 of all pictures on the accelerator, or None on a CPU and where they take more than half of its memory."""
    if device.type != "cuda":
        return None
    # What earlier trials of this process used and torch still holds counts as free.
    torch.cuda.empty_cache()
    num_bytes = int(3 * sizes_N2.prod(1).sum())
    if num_bytes > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    pixels_P3, start = torch.empty(num_bytes // 3, 3, dtype=torch.uint8, device=device), 0
    for first in range(0, len(pictures), COPIED_AT_ONCE):
        host_P3 = torch.cat([picture.reshape(-1, 3) for picture in pictures[first:first + COPIED_AT_ONCE]])
        pixels_P3[start:start + len(host_P3)] = host_P3.to(device)
        start += len(host_P3)
    return pixels_P3
