"""A pack in memory, as the training loop reads it: batches of normalised pictures, from the memory map or the device."""

import csv
import hashlib
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from job.data.augment import Draws, blurred, center_boxes, maps_of_boxes, noisy, normalise, sample_each, sample_ragged
from job.data.pack import Passport
from job.data.source import SPLITS
from job.errors import BadConfig, BadData, MissingInput
from job.storage import Folder, LocalFolder, join
from job.trial import Trial

# The study resizes the short side to 256 and crops 224; other sizes keep the proportion.
RESIZE_OVER_CROP = 256 / 224
RESIDENT_SHARE = 0.5
# Hashing costs about a second a GB; of larger packs only the sizes are checked.
VERIFIED_BYTES = 8 << 30


@dataclass(frozen=True)
class Resident:
    """All pixels on the accelerator: pixels_P3 end to end, each picture's first row and (height, width)."""

    pixels_P3: Tensor
    starts_N: Tensor
    sizes_N2: Tensor


@dataclass(frozen=True)
class Batches:
    """The pictures of a pack at the size of one trial; indices count the pictures in the pack's order."""

    image_size: int
    device: torch.device
    pictures: Sequence[Tensor]
    sizes_N2: Tensor
    labels_N: Tensor
    indices: dict[str, Tensor]
    names: list[str]
    resident: Resident | None

    def images(self, indices: Tensor) -> Tensor:
        """images_NCHW, normalised, on the device: the centre crops of validation."""
        if self.resident:
            boxes_N4 = center_boxes(self.sizes_N2[indices], self.image_size)
            return normalise(self.sampled(indices, maps_of_boxes(boxes_N4)))
        return normalise(crop_centers([self.pictures[i] for i in indices.tolist()], self.image_size).to(self.device))

    def augmented(self, indices: Tensor, draws: Draws, seed: int) -> Tensor:
        """images_NCHW, normalised, on the device: augmented as drawn; `seed` is that of the noise."""
        images_NCHW = self.sampled(indices, draws.maps_N23)
        if draws.sigma_N is not None:
            images_NCHW = blurred(images_NCHW, draws.sigma_N)
        if draws.noise_N is not None:
            images_NCHW = noisy(images_NCHW, draws.noise_N, torch.Generator(self.device).manual_seed(seed))
        return normalise(images_NCHW)

    def sampled(self, indices: Tensor, maps_N23: Tensor) -> Tensor:
        """images_NCHW, 0 to 255, on the device: each picture along its map."""
        if not self.resident:
            return sample_each([self.pictures[i] for i in indices.tolist()], maps_N23, self.image_size).to(self.device)
        here, r = indices.to(self.device, non_blocking=True), self.resident
        maps_N23 = maps_N23.float().to(self.device, non_blocking=True)
        return sample_ragged(r.pixels_P3, r.starts_N[here], r.sizes_N2[here], maps_N23, self.image_size)

    def labels(self, indices: Tensor) -> Tensor:
        """labels_N, int64, on the device."""
        return self.labels_N[indices.to(self.labels_N.device, non_blocking=True)]


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
    labels_N = torch.tensor([passport.classes.index(line["label"]) for line in lines]).to(device)
    return Batches(trial.image_size, device, pictures, sizes_N2, labels_N, indices, [line["picture"] for line in lines],
                   make_resident(pictures, sizes_N2, device))


def map_pictures(sweep: Folder, passport: Passport, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """pictures_HWC, uint8: views of the memory-mapped shards."""
    pictures: list[Tensor] = []
    verify = sum(int(str(shard["bytes"])) for shard in passport.shards) <= VERIFIED_BYTES
    for shard in passport.shards:
        path = local_copy(sweep, str(shard["name"]), int(str(shard["bytes"])), str(shard["sha256"]) if verify else "")
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
    """The picture with a smaller short side, by the antialiased bilinear resize of torchvision."""
    resized_CHW: Tensor = transforms.resize(picture_HWC.permute(2, 0, 1), [short_side], antialias=True)
    return resized_CHW.permute(1, 2, 0).contiguous()


def make_resident(pictures: Sequence[Tensor], sizes_N2: Tensor, device: torch.device) -> Resident | None:
    """All pixels on the accelerator, or None on a CPU and where they would take more than half of its free memory."""
    if device.type != "cuda":
        return None
    # What earlier trials of this process used and torch still holds counts as free.
    torch.cuda.empty_cache()
    num_bytes = int(3 * sizes_N2.prod(1).sum())
    if num_bytes > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    pixels_P3 = torch.empty(num_bytes // 3, 3, dtype=torch.uint8, device=device)
    starts_N = torch.zeros(len(pictures), dtype=torch.int64)
    starts_N[1:] = sizes_N2.prod(1).cumsum(0)[:-1]
    for start, picture in zip(starts_N.tolist(), pictures, strict=True):
        pixels_P3[start:start + picture.shape[0] * picture.shape[1]] = picture.view(-1, 3).to(device, non_blocking=True)
    return Resident(pixels_P3, starts_N.to(device), sizes_N2.to(device))
