"""A pack -> memory: shards mapped from disk, checked, and kept on the GPU if they fit."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from job.data.batches import Batches, to_device
from job.data.cache import local_copy, rebuild
from job.data.folds import splits_of
from job.data.pack import Passport
from job.data.sizes import resize_side
from job.data.source import SPLITS
from job.data.table import Packed, read_table
from job.errors import BadConfig, BadData
from job.folder.storage import Folder
from job.trial import Trial

# Of the GPU's free memory, the largest share that the pixels of a pack may take.
RESIDENT_SHARE = 0.5
IMAGES_PER_COPY = 256
NUM_FETCHERS = 8
# Hashing takes about a second per GB; of larger packs only the sizes are checked.
VERIFIED_BYTES = 8 << 30
# The images of the last trial of this process, by what they are: the next trial most often needs the same.
loaded: dict[tuple[str, str, int, torch.device], tuple[list[Packed], list[Tensor], Tensor | None]] = {}


def load_batches(sweep: Folder, passport: Passport, trial: Trial, device: torch.device,
                 dtype: torch.dtype = torch.float32) -> Batches:
    """Return the pack at the trial's image size, memory-mapped; from object storage it is copied to this machine first.

    If the trial needs smaller images than the pack holds, all are resized here, once. The pixels move to the GPU if
    they take less than half of its free memory. Raises BadConfig if the images of the pack are too small,
    and BadData if a class has too few for the trial's folds.
    """
    short_side, wanted = int(str(passport.options["short_side"])), resize_side(trial.image_size)
    if wanted > short_side:
        raise BadConfig(f"image_size {trial.image_size} needs images with a short side of "
                        f"{wanted}, but the pack has {short_side}; prepare a new sweep folder with "
                        f"--short-side {wanted}")
    key = sweep.uri, passport.pack_hash, wanted, device
    if key not in loaded:
        # Another pack's memory is free before this one takes its own.
        loaded.clear()
        loaded[key] = load_images(sweep, passport, wanted, device)
    lines, images, resident_P3 = loaded[key]
    splits = splits_of(lines, passport.near_duplicates, trial, int(str(passport.options.get("split_seed", 0))))
    indices = {split: torch.tensor([i for i, found in enumerate(splits) if found == split], dtype=torch.int64)
               for split in SPLITS}
    sizes_N2 = torch.tensor([image.shape[:2] for image in images])
    labels_N = torch.tensor([passport.classes.index(line.label) for line in lines])
    names = [line.image for line in lines]
    return Batches(trial.image_size, device, images, sizes_N2, labels_N, indices, names, resident_P3, dtype,
                   trial.train_size)


def load_images(sweep: Folder, passport: Passport, short_side: int,
                device: torch.device) -> tuple[list[Packed], list[Tensor], Tensor | None]:
    """Return the table of the pack, its images at this short side, and `make_resident` of them."""
    lines = read_lines(sweep, passport)
    images = map_images(sweep, passport, lines)
    if short_side < int(str(passport.options["short_side"])):
        images = [shrink(image, short_side) for image in images]
    return lines, images, make_resident(images, device)


def read_lines(sweep: Folder, passport: Passport) -> list[Packed]:
    """Return the table of the pack's images; raises BadData, naming the line, where it contradicts the passport."""
    path = local_copy(sweep, passport.table["name"], 0, passport.table["sha256"])
    try:
        return read_table(path.read_bytes(), vars(passport))
    except ValueError as error:
        raise BadData(f"{path}: {error}; {rebuild(sweep)}") from None


def map_images(sweep: Folder, passport: Passport, lines: Sequence[Packed]) -> list[Tensor]:
    """Return images_HWC, uint8: views of the memory-mapped shards. Raises BadData unless each shard fits the table."""
    images: list[Tensor] = []
    verify = sum(int(str(shard["bytes"])) for shard in passport.shards) <= VERIFIED_BYTES

    def copy_of(shard: dict[str, object]) -> Path:
        sha256 = str(shard["sha256"]) if verify else ""
        return local_copy(sweep, str(shard["name"]), int(str(shard["bytes"])), sha256)

    # In parallel, because a store limits the speed of each transfer, and hashing releases Python's lock.
    with ThreadPoolExecutor(NUM_FETCHERS) as threads:
        paths = list(threads.map(copy_of, passport.shards))
    for path, shard in zip(paths, passport.shards, strict=True):
        here = lines[len(images):len(images) + int(str(shard["num_images"]))]
        try:
            pixels = read_pixels(path, sum(line.num_bytes for line in here))
        except ValueError as error:
            raise BadData(f"{path}: this file of the pack is damaged ({error}); {rebuild(sweep)}") from None
        parts = pixels.split([line.num_bytes for line in here])
        images += [part.view(line.height, line.width, 3) for part, line in zip(parts, here, strict=True)]
    return images


def read_pixels(path: Path, num_bytes: int) -> Tensor:
    """Return the pixels of a shard, memory-mapped; raises ValueError unless there are this many bytes of them."""
    try:
        with safe_open(path, framework="pt") as file:
            found = file.get_slice("pixels")
            form, shape = found.get_dtype(), found.get_shape()
            if (form, shape) != ("U8", [num_bytes]):
                raise ValueError(f"it holds {form} {shape}, but its images have {num_bytes} bytes")
            pixels: Tensor = file.get_tensor("pixels")
            return pixels
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def shrink(image_HWC: Tensor, short_side: int) -> Tensor:
    """Return the image with a smaller short side, resized as torchvision's Resize does (bilinear, antialiased)."""
    height, width = image_HWC.shape[:2]
    short = min(height, width)
    size = (int(short_side * height / short), int(short_side * width / short))
    resized_1CHW = functional.interpolate(image_HWC.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True)
    return resized_1CHW[0].permute(1, 2, 0).contiguous()


def make_resident(images: Sequence[Tensor], device: torch.device) -> Tensor | None:
    """Return pixels_P3 of all images on the GPU; None on a CPU, or if they take more than half of the free memory.

    At most this process's share of the memory is free (torch's set_per_process_memory_fraction).
    """
    if device.type != "cuda":
        return None
    # Memory that torch still holds from earlier trials of this process counts as free.
    torch.cuda.empty_cache()
    num_bytes = sum(image.numel() for image in images)
    free, total = torch.cuda.mem_get_info(device)
    if num_bytes > RESIDENT_SHARE * min(free, total * torch.cuda.get_per_process_memory_fraction(device)):
        return None
    pixels_P3, start = torch.empty(num_bytes // 3, 3, dtype=torch.uint8, device=device), 0
    for first in range(0, len(images), IMAGES_PER_COPY):
        part_P3 = to_device([image.reshape(-1, 3) for image in images[first:first + IMAGES_PER_COPY]], device)
        pixels_P3[start:start + len(part_P3)] = part_P3
        start += len(part_P3)
    return pixels_P3
