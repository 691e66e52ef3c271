"""A pack -> memory: shards mapped from disk, checked, and kept on the GPU if they fit."""

import csv
import hashlib
import io
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from job.data.batches import Batches, resize_side
from job.data.pack import Passport
from job.data.source import SPLITS
from job.errors import BadConfig, BadData, MissingInput
from job.folder.storage import Folder, join, local_path
from job.trial import Trial

# Of the GPU's free memory, the largest share that the pixels of a pack may take.
RESIDENT_SHARE = 0.5
IMAGES_PER_COPY = 256
NUM_FETCHERS = 8
# Hashing takes about a second per GB; of larger packs only the sizes are checked.
VERIFIED_BYTES = 8 << 30


def load_batches(sweep: Folder, passport: Passport, trial: Trial, device: torch.device) -> Batches:
    """Return the pack at the trial's image size, memory-mapped; from object storage it is copied to this machine first.

    If the trial needs smaller images than the pack holds, all are resized here, once. The pixels move to the GPU if
    they take less than half of its free memory. Raises BadConfig if the images of the pack are too small.
    """
    short_side, wanted = int(str(passport.options["short_side"])), resize_side(trial.image_size)
    if wanted > short_side:
        raise BadConfig(f"image_size {trial.image_size} needs images with a short side of "
                        f"{wanted}, but the pack has {short_side}; prepare a new sweep folder with "
                        f"--short-side {wanted}")
    table = local_copy(sweep, passport.table["name"], 0, passport.table["sha256"])
    lines = list(csv.DictReader(io.StringIO(table.read_bytes().decode(), newline="")))
    images = map_images(sweep, passport, [(int(line["height"]), int(line["width"])) for line in lines])
    if wanted < short_side:
        images = [shrink(image, wanted) for image in images]
    indices = {split: torch.tensor([i for i, line in enumerate(lines) if line["split"] == split], dtype=torch.int64)
               for split in SPLITS}
    sizes_N2 = torch.tensor([image.shape[:2] for image in images])
    labels_N = torch.tensor([passport.classes.index(line["label"]) for line in lines])
    # Version 0.1 named the column "picture".
    names = [line.get("image") or line["picture"] for line in lines]
    resident_P3 = make_resident(images, sizes_N2, device)
    return Batches(trial.image_size, device, images, sizes_N2, labels_N, indices, names, resident_P3)


def map_images(sweep: Folder, passport: Passport, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return images_HWC, uint8: views of the memory-mapped shards."""
    images: list[Tensor] = []
    verify = sum(int(str(shard["bytes"])) for shard in passport.shards) <= VERIFIED_BYTES

    def copy_of(shard: dict[str, object]) -> Path:
        sha256 = str(shard["sha256"]) if verify else ""
        return local_copy(sweep, str(shard["name"]), int(str(shard["bytes"])), sha256)

    # In parallel, because a store limits the speed of each transfer, and hashing releases Python's lock.
    with ThreadPoolExecutor(NUM_FETCHERS) as threads:
        paths = list(threads.map(copy_of, passport.shards))
    for path, shard in zip(paths, passport.shards, strict=True):
        with safe_open(path, framework="pt") as file:
            pixels = file.get_tensor("pixels")
        shard_sizes = sizes[len(images):len(images) + int(str(shard["num_images"]))]
        parts = pixels.split([height * width * 3 for height, width in shard_sizes])
        images += [part.view(height, width, 3) for part, (height, width) in zip(parts, shard_sizes, strict=True)]
    return images


def local_copy(sweep: Folder, name: str, num_bytes: int, sha256: str) -> Path:
    """Return the local path of a file of the pack; one in object storage is copied once to the temporary folder.

    A pack's files are named by their content, so a copy is valid for every sweep that names it. Raises BadData if the
    size (unless 0) or the hash (unless '') differs from the passport's, and MissingInput if the file is gone.
    """
    if folder := local_path(sweep):
        path = folder / "pack" / name
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
        raise MissingInput(f"{path}: this file of the pack is missing; {rebuild}")
    if not is_intact(path, num_bytes, sha256):
        raise BadData(f"{path}: this file of the pack is damaged; {rebuild}")
    return path


def is_intact(path: Path, num_bytes: int, sha256: str) -> bool:
    """Return whether a file has this size (unless 0) and this hash (unless '')."""
    if num_bytes and path.stat().st_size != num_bytes:
        return False
    if not sha256:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def shrink(image_HWC: Tensor, short_side: int) -> Tensor:
    """Return the image with a smaller short side, resized as torchvision's Resize does (bilinear, antialiased)."""
    height, width = image_HWC.shape[:2]
    short = min(height, width)
    size = (int(short_side * height / short), int(short_side * width / short))
    resized_1CHW = functional.interpolate(image_HWC.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True)
    return resized_1CHW[0].permute(1, 2, 0).contiguous()


def make_resident(images: Sequence[Tensor], sizes_N2: Tensor, device: torch.device) -> Tensor | None:
    """Return pixels_P3 of all images on the GPU; None on a CPU, or if they take more than half of the free memory."""
    if device.type != "cuda":
        return None
    # Memory that torch still holds from earlier trials of this process counts as free.
    torch.cuda.empty_cache()
    num_bytes = int(3 * sizes_N2.prod(1).sum())
    if num_bytes > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    pixels_P3, start = torch.empty(num_bytes // 3, 3, dtype=torch.uint8, device=device), 0
    for first in range(0, len(images), IMAGES_PER_COPY):
        host_P3 = torch.cat([image.reshape(-1, 3) for image in images[first:first + IMAGES_PER_COPY]])
        pixels_P3[start:start + len(host_P3)] = host_P3.to(device)
        start += len(host_P3)
    return pixels_P3
