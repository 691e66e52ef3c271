"""A pack -> memory: shards mapped from disk, checked, and kept on the device where they fit."""

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
from job.folder.local import LocalFolder
from job.folder.storage import Folder, join
from job.trial import Trial

RESIDENT_SHARE = 0.5
COPIED_AT_ONCE = 256
FETCHERS = 8
# Hashing costs about a second a GB; of larger packs only the sizes are checked.
VERIFIED_BYTES = 8 << 30


def load_batches(sweep: Folder, passport: Passport, trial: Trial, device: torch.device) -> Batches:
    """The pack, memory-mapped (from a local copy where it lies in object storage), at the trial's image size.

    Where the trial's images are smaller than the pack's they are all resized once, here. On an accelerator the
    pixels move there if they take less than half of its free memory. Raises BadConfig where the pack is too small.
    """
    short_side, wanted = int(str(passport.options["short_side"])), resize_side(trial.image_size)
    if wanted > short_side:
        raise BadConfig(f"trial {trial.trial}: image_size {trial.image_size} needs images with a short side of {wanted}, "
                        f"and the pack has {short_side}; prepare a new sweep folder with --short-side {wanted}")
    table = local_copy(sweep, passport.table["name"], 0, passport.table["sha256"])
    lines = list(csv.DictReader(io.StringIO(table.read_bytes().decode(), newline="")))
    images = map_images(sweep, passport, [(int(line["height"]), int(line["width"])) for line in lines])
    if wanted < short_side:
        images = [shrink(image, wanted) for image in images]
    indices = {split: torch.tensor([i for i, line in enumerate(lines) if line["split"] == split], dtype=torch.int64)
               for split in SPLITS}
    sizes_N2 = torch.tensor([image.shape[:2] for image in images])
    labels_N = torch.tensor([passport.classes.index(line["label"]) for line in lines])
    return Batches(trial.image_size, device, images, sizes_N2, labels_N, indices, [line.get("image") or line["picture"] for line in lines],
                   make_resident(images, sizes_N2, device))


def map_images(sweep: Folder, passport: Passport, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """images_HWC, uint8: views of the memory-mapped shards."""
    images: list[Tensor] = []
    verify = sum(int(str(shard["bytes"])) for shard in passport.shards) <= VERIFIED_BYTES
    # Side by side, because a store sends each at its own pace, and hashing does not hold Python's lock.
    with ThreadPoolExecutor(FETCHERS) as threads:
        paths = list(threads.map(
            lambda shard: local_copy(sweep, str(shard["name"]), int(str(shard["bytes"])), str(shard["sha256"]) if verify else ""),
            passport.shards))
    for path, shard in zip(paths, passport.shards, strict=True):
        with safe_open(path, framework="pt") as file:
            pixels = file.get_tensor("pixels")
        counts = sizes[len(images):len(images) + int(str(shard["num_images"]))]
        parts = pixels.split([height * width * 3 for height, width in counts])
        images += [part.view(height, width, 3) for part, (height, width) in zip(parts, counts, strict=True)]
    return images


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


def shrink(image_HWC: Tensor, short_side: int) -> Tensor:
    """The image with a smaller short side, by the antialiased bilinear resize that torchvision's Resize makes of a tensor."""
    height, width = image_HWC.shape[:2]
    short = min(height, width)
    size = (int(short_side * height / short), int(short_side * width / short))
    resized_1CHW = functional.interpolate(image_HWC.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True)
    return resized_1CHW[0].permute(1, 2, 0).contiguous()


def make_resident(images: Sequence[Tensor], sizes_N2: Tensor, device: torch.device) -> Tensor | None:
    """pixels_P3 of all images on the accelerator, or None on a CPU and where they take more than half of its memory."""
    if device.type != "cuda":
        return None
    # What earlier trials of this process used and torch still holds counts as free.
    torch.cuda.empty_cache()
    num_bytes = int(3 * sizes_N2.prod(1).sum())
    if num_bytes > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    pixels_P3, start = torch.empty(num_bytes // 3, 3, dtype=torch.uint8, device=device), 0
    for first in range(0, len(images), COPIED_AT_ONCE):
        host_P3 = torch.cat([image.reshape(-1, 3) for image in images[first:first + COPIED_AT_ONCE]])
        pixels_P3[start:start + len(host_P3)] = host_P3.to(device)
        start += len(host_P3)
    return pixels_P3
