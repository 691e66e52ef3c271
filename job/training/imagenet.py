"""ImageNet's weights: torchvision's default ones of each model, from a folder of the user, a cache, or the internet."""

import contextlib
import hashlib
import io
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.error import URLError
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from job.errors import BadData, MissingInput
from job.folder.storage import Folder, join, open_folder
from job.training.faults import is_fault_at
from job.training.weights import UNREADABLE, parse_weights

DOWNLOAD_PAUSES_SECONDS = (1, 5)

Fetched = TypeVar("Fetched")


def weights_url(model: str) -> str:
    """Return where torchvision's default ImageNet weights of a model are; its file name ends in their hash."""
    return str(get_model_weights(model).DEFAULT.url)


def weights_file(url: str) -> str:
    """Return the name of the file at a URL."""
    return urlsplit(url).path.rpartition("/")[2]


def check_hash(data: bytes, name: str, where: str) -> None:
    """Raise BadData unless the SHA-256 of a file begins as its name says, as in resnet18-f37072fd.pth."""
    found = re.search(r"-([0-9a-f]{8,})\.", name)
    if not found or not hashlib.sha256(data).hexdigest().startswith(found[1]):
        raise BadData(f"{where}: its SHA-256 is not the one in its name; `job weights` fetches it again")


def stored_bytes(model: str, folder: str) -> bytes:
    """Return the file of a model's ImageNet weights in a folder; raises MissingInput if it is not there."""
    name = weights_file(weights_url(model))
    try:
        return open_folder(folder).read(name)
    except MissingInput:
        raise MissingInput(f"{join(folder, name)}: TRIALGRID_WEIGHTS names this folder, and the ImageNet weights of "
                           f"{model} are not in it; on a machine with internet run `job weights {model} {folder}`, or "
                           "set weights to none") from None


def stored_weights(data: bytes, model: str, folder: str) -> dict[str, Tensor]:
    """Return the state dict in such a file; raises BadData if it is not what its name says."""
    name = weights_file(weights_url(model))
    check_hash(data, name, join(folder, name))
    return parse_weights(data, join(folder, name))


def imagenet_weights(model: str) -> dict[str, Tensor]:
    """Return a model's ImageNet weights from torch's cache (TORCH_HOME), or by a download into it.

    Raises MissingInput, saying what to do, if the download fails.
    """
    weights = get_model_weights(model).DEFAULT
    try:
        return dict(patiently_downloaded(lambda: weights.get_state_dict(progress=False, check_hash=True)))
    except (OSError, *UNREADABLE) as error:
        cache = Path(torch.hub.get_dir(), "checkpoints", weights_file(weights.url))
        if is_fault_at(error, cache.stat().st_size if cache.exists() else 0):
            raise
        raise MissingInput(
            f"the ImageNet weights of {model} cannot be loaded or downloaded ({error or type(error).__name__}). Run "
            f"`job weights {model} FOLDER` on another machine and set TRIALGRID_WEIGHTS to that folder; or download "
            f"{weights.url} there and name the file in the grid's column weights (a path or s3:// URI; or copy it to "
            f"{cache}); or set weights to none to start from random ones") from None


def store_weights(url: str, target: Folder) -> bool:
    """Put the file at a URL into a folder; return False if it is there already, whole.

    Raises MissingInput if it cannot be downloaded, BadData if it is not what its name says.
    """
    name = weights_file(url)
    with contextlib.suppress(MissingInput, BadData):
        check_hash(target.read(name), name, join(target.uri, name))
        return False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        try:
            patiently_downloaded(lambda: torch.hub.download_url_to_file(url, str(path), progress=False))
        except OSError as error:
            raise MissingInput(f"{url} cannot be downloaded ({error}); run this command on a machine with internet") \
                from None
        data = path.read_bytes()
    check_hash(data, name, url)
    target.write(name, data)
    return True


def patiently_downloaded(download: Callable[[], Fetched]) -> Fetched:
    """Return what a download gives; one that fails is tried twice again, after a pause."""
    for pause in DOWNLOAD_PAUSES_SECONDS:
        # torch.hub announces every download on standard error, even one that then fails.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(URLError):
            return download()
        time.sleep(pause)
    with contextlib.redirect_stderr(io.StringIO()):
        return download()
