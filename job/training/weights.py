"""Weights: a state dict from a file, what fits the model, and the best weights that a trial writes."""

import io
import json
import pickle
import re
import struct
from dataclasses import dataclass, fields
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from job.errors import BadConfig, BadData
from job.folder.untrusted import bounded_json, check_types, check_unicode
from job.training.backbone import head_name, load_state
from job.training.faults import is_fault_at
from job.trial import ImageOptions, Trial, brief

# What torch.load raises for a damaged file or for a file of another kind; found by flipping bytes.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError,
              AttributeError, OverflowError, AssertionError, struct.error)
# Keys of torchvision's files that are older than its models.
OLD_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
OLD_VIT_KEY = re.compile(r"(?<=\.mlp\.)linear_([12])(?=\.)")
# Far around what `fit_temperature` gives.
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-3, 1e3


def load_weights(model: nn.Module, weights: dict[str, Tensor], trial: Trial) -> None:
    """Load weights into the model, except a head of another size; raises BadData, naming the keys that do not fit."""
    expected, head = model.state_dict(), f"{head_name(model)}."
    weights = {current_name(key): value for key, value in weights.items()}
    weights = {key: value for key, value in weights.items()
               if not (key.startswith(head) and key in expected and expected[key].shape != value.shape)}
    wrong = [key for key, value in weights.items() if key not in expected or expected[key].shape != value.shape]
    missing = [key for key in expected if key not in weights and not key.startswith(head)
               and not key.endswith("num_batches_tracked")]
    if wrong or missing:
        raise BadData(f"weights {trial.weights}: not the state dict of a {trial.model}; "
                      f"unknown or of another shape: {', '.join(wrong[:5]) or 'none'}; "
                      f"missing: {', '.join(missing[:5]) or 'none'}; give weights of this model, or none")
    load_state(model, weights, strict=False)


def current_name(key: str) -> str:
    """Return the name that a weight has in today's torchvision: its densenet and vit had other ones."""
    key = OLD_DENSENET_KEY.sub(r"\1\2", key)
    return OLD_VIT_KEY.sub(lambda found: "0" if found[1] == "1" else "3", key)


def parse_weights(data: bytes, name: str) -> dict[str, Tensor]:
    """Return the state dict in a safetensors or torch file; weights_only, so no code runs. Raises BadData."""
    try:
        if name.endswith(".safetensors"):
            return safetensors.torch.load(data)
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (*UNREADABLE, safetensors.SafetensorError) as error:
        if is_fault_at(error, len(data)):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadData(f"weights {name}: not a state dict that can be read safely ({reason}); give a safetensors file, "
                      "or what torch.save(model.state_dict(), FILE) writes") from None
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise BadData(f"weights {name}: not a state dict; save model.state_dict(), not the model")
    return {key.removeprefix("module."): value for key, value in loaded.items()}


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
