"""Weights as bytes: ImageNet's, a state dict from a file, and the best weights that a trial leaves behind."""

import contextlib
import io
import json
import pickle
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights

from job.errors import BadConfig, BadData, MissingInput
from job.trial import Trial

# What torch.load raises for files that are damaged or something else; found by flipping bytes.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError)
WEIGHTS_FILE = "resnet18-f37072fd.pth"
DOWNLOAD_PAUSES_SECONDS = (1, 5)


def load_weights(model: nn.Module, weights: dict[str, Tensor], trial: Trial) -> None:
    """Put weights into the model, all but a head of another size; raises BadData, naming the keys, where they do not fit."""
    own = model.state_dict()
    weights = {key: value for key, value in weights.items()
               if not (key.startswith("fc.") and key in own and own[key].shape != value.shape)}
    wrong = [key for key, value in weights.items() if key not in own or own[key].shape != value.shape]
    absent = [key for key in own if key not in weights and not key.startswith("fc.")
              and not key.endswith("num_batches_tracked")]
    if wrong or absent:
        raise BadData(f"weights {trial.weights}: not the state dict of a {trial.model}; "
                      f"unknown or of another shape: {', '.join(wrong[:5]) or 'none'}; "
                      f"missing: {', '.join(absent[:5]) or 'none'}")
    model.load_state_dict(weights, strict=False)


def parse_weights(data: bytes, name: str) -> dict[str, Tensor]:
    """A state dict from a safetensors file or a torch file (read with weights_only: no code is run); raises BadData."""
    try:
        if name.endswith(".safetensors"):
            return safetensors.torch.load(data)
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (*UNREADABLE, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadData(f"weights {name}: not a state dict that can be read safely ({reason})") from None
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise BadData(f"weights {name}: not a state dict; save model.state_dict(), not the model")
    return {key.removeprefix("module."): value for key, value in found.items()}


def imagenet_weights() -> dict[str, Tensor]:
    """Torchvision's ImageNet weights, from its cache (TORCH_HOME) or downloaded there.

    Raises MissingInput, with both ways out, where they cannot be downloaded.
    """
    try:
        return download_patiently()
    except (OSError, *UNREADABLE) as error:
        cache = Path(torch.hub.get_dir(), "checkpoints", WEIGHTS_FILE)
        raise MissingInput(
            f"the ImageNet weights cannot be loaded or downloaded ({error or type(error).__name__}). Either fetch "
            f"{ResNet18_Weights.IMAGENET1K_V1.url} on another machine and give it in the grid's column weights (a path or "
            f"s3:// URI; or put it at {cache}), or set weights to none to start from random weights") from None


def download_patiently() -> dict[str, Tensor]:
    """The weights; a server or a network that fails for the moment is asked again."""
    for pause in DOWNLOAD_PAUSES_SECONDS:
        # torch.hub announces every download on standard error, also one that fails.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(URLError):
            return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
        time.sleep(pause)
    with contextlib.redirect_stderr(io.StringIO()):
        return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))


def weights_to_bytes(weights: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    """A safetensors file of the weights, with what `job predict` needs to know as one JSON text in its header."""
    # One key, because safetensors writes several in an order that differs from process to process.
    weights = {key: value.cpu() for key, value in weights.items()}
    return bytes(safetensors.torch.save(weights, {"trialgrid": json.dumps(about)}))


def read_about(data: bytes, where: str) -> dict[str, Any]:
    """What `weights_to_bytes` wrote about the weights; raises BadConfig where the file is not one of its."""
    try:
        length = int.from_bytes(data[:8], "little")
        return dict(json.loads(json.loads(data[8:8 + length])["__metadata__"]["trialgrid"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BadConfig(f"{where}: not weights that a trial has left ({type(error).__name__}: {error})") from None
