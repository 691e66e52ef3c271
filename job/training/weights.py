"""Weights: ImageNet's, a state dict from a file, and the best weights that a trial writes."""

import contextlib
import io
import json
import pickle
import struct
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights

from job.errors import BadConfig, BadData, MissingInput
from job.folder.untrusted import bounded_json, check_types, check_unicode
from job.trial import ImageOptions, Trial, brief

# What torch.load raises for a damaged file or for a file of another kind; found by flipping bytes.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError,
              AttributeError, OverflowError, AssertionError, struct.error)
WEIGHTS_FILE = "resnet18-f37072fd.pth"
DOWNLOAD_PAUSES_SECONDS = (1, 5)
# Far around what `fit_temperature` gives.
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-3, 1e3


def load_weights(model: nn.Module, weights: dict[str, Tensor], trial: Trial) -> None:
    """Load weights into the model, except a head of another size; raises BadData, naming the keys that do not fit."""
    expected = model.state_dict()
    weights = {key: value for key, value in weights.items()
               if not (key.startswith("fc.") and key in expected and expected[key].shape != value.shape)}
    wrong = [key for key, value in weights.items() if key not in expected or expected[key].shape != value.shape]
    missing = [key for key in expected if key not in weights and not key.startswith("fc.")
               and not key.endswith("num_batches_tracked")]
    if wrong or missing:
        raise BadData(f"weights {trial.weights}: not the state dict of a {trial.model}; "
                      f"unknown or of another shape: {', '.join(wrong[:5]) or 'none'}; "
                      f"missing: {', '.join(missing[:5]) or 'none'}; give weights of this model, or none")
    model.load_state_dict(weights, strict=False)


def parse_weights(data: bytes, name: str) -> dict[str, Tensor]:
    """Return the state dict in a safetensors or torch file; weights_only, so no code runs. Raises BadData."""
    try:
        if name.endswith(".safetensors"):
            return safetensors.torch.load(data)
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (*UNREADABLE, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadData(f"weights {name}: not a state dict that can be read safely ({reason}); give a safetensors file, "
                      "or what torch.save(model.state_dict(), FILE) writes") from None
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise BadData(f"weights {name}: not a state dict; save model.state_dict(), not the model")
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def imagenet_weights() -> dict[str, Tensor]:
    """Return torchvision's ImageNet weights, from its cache (TORCH_HOME) or by a download into it.

    Raises MissingInput, saying what to do, if the download fails.
    """
    try:
        return download_patiently()
    except (OSError, *UNREADABLE) as error:
        cache = Path(torch.hub.get_dir(), "checkpoints", WEIGHTS_FILE)
        raise MissingInput(
            f"the ImageNet weights cannot be loaded or downloaded ({error or type(error).__name__}). Either download "
            f"{ResNet18_Weights.IMAGENET1K_V1.url} on another machine and name the file in the grid's column weights "
            f"(a path or s3:// URI; or copy it to {cache}), or set weights to none to start from random ones") from None


def download_patiently() -> dict[str, Tensor]:
    """Return the ImageNet weights; a failed download is tried twice again, after a pause."""
    for pause in DOWNLOAD_PAUSES_SECONDS:
        # torch.hub announces every download on standard error, even one that then fails.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(URLError):
            return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
        time.sleep(pause)
    with contextlib.redirect_stderr(io.StringIO()):
        return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))


def weights_to_bytes(weights: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    """Return a safetensors file of the weights; its header holds `about`, for `job predict`, as one JSON text."""
    # One key, because safetensors writes several keys in an order that differs from process to process.
    weights = {key: value.cpu() for key, value in weights.items()}
    return bytes(safetensors.torch.save(weights, {"trialgrid": json.dumps(about)}))


@dataclass(frozen=True)
class About:
    """What `job predict` needs besides the weights."""

    trial: Trial
    classes: list[str]
    short_side: int
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    threshold: float | None = None
    threshold_margin: float | None = None
    val_recall: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        ImageOptions(short_side=self.short_side)
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ValueError("classes are not two or more different names")
        if self.threshold_margin is not None and len(self.classes) != 2:
            raise ValueError(f"a threshold for {len(self.classes)} classes")
        if self.temperature is not None and not LEAST_TEMPERATURE <= self.temperature <= MOST_TEMPERATURE:
            raise ValueError(f"temperature is {brief(self.temperature)}")


def read_about(data: bytes, where: str) -> About:
    """Return the `about` that `weights_to_bytes` wrote; raises BadConfig if it did not write this file."""
    try:
        length = int.from_bytes(data[:8], "little")
        text = bounded_json(data[8:8 + length])["__metadata__"]["trialgrid"].encode()
        found = bounded_json(text)
        settings = found["settings"]
        check_unicode(text, found)
        check_types(About, found)
        check_types(Trial, settings)
        trial = Trial(**{spec.name: settings[spec.name] for spec in fields(Trial) if spec.name in settings})
        return About(trial, **{spec.name: found[spec.name] for spec in fields(About) if spec.name in found})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadConfig(f"{where}: not the best weights of a trial ({type(error).__name__}: {error}); delete this file "
                        "and the trial's row.json, then train the trial again") from None
