"""The checkpoint of a trial, last.pt: everything that an exact resume needs, the best weights so far included."""

import contextlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from job.errors import BadConfig
from job.folder.same_settings import check_same
from job.folder.untrusted import check_types, in_range
from job.record import Epoch
from job.training.backbone import load_state
from job.training.faults import kind_of_error
from job.training.state import State
from job.training.weights import UNREADABLE
from job.trial import NAME_PATTERN, Trial

KEYS = ("trial", "pack_hash", "precision", "model", "optimizer", "loss_sum", "num_correct", "started_at", "epoch",
        "step", "epoch_seconds", "history", "best_weights", "best_epoch")
SCALER_KEYS = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


def state_to_bytes(state: State, trial: Trial, pack_hash: str, precision: str) -> bytes:
    """Return the state as a torch file of tensors and plain values, with the trial and the pack it belongs to."""
    buffer = io.BytesIO()
    torch.save({
        "trial": asdict(trial), "pack_hash": pack_hash, "precision": precision,
        "model": state.model.state_dict(), "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "loss_sum": state.loss_sum, "num_correct": state.num_correct, "started_at": state.started_at,
        "epoch": state.epoch, "step": state.step, "epoch_seconds": state.epoch_seconds,
        "history": [asdict(epoch) for epoch in state.history], "best_weights": state.best_weights,
        "best_epoch": state.best.epoch if state.best else None, "features": state.features,
        "continued_from": state.continued_from,
    }, buffer)
    return buffer.getvalue()


def read_checkpoint(data: bytes, trial: Trial, pack_hash: str, where: str) -> dict[str, Any]:
    """Return the values of a checkpoint, and `where`; raises BadConfig if it is damaged or of another trial or pack."""
    with damage(where):
        check_archive(data)
        saved = dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
        if missing_keys := {key for key in KEYS if key not in saved}:
            raise ValueError(f"it lacks {', '.join(sorted(missing_keys))}")
        check_types(Saved, saved)
    check_same(where, saved["trial"], saved["pack_hash"], trial, pack_hash)
    with damage(where):
        check_values(saved, trial)
    return {**saved, "where": where}


@contextlib.contextmanager
def damage(where: str) -> Iterator[None]:
    """Turn what a damaged checkpoint makes torch and Python raise into BadConfig."""
    try:
        yield
    except (*UNREADABLE, zipfile.BadZipFile) as error:
        if kind_of_error(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadConfig(f"{where}: damaged checkpoint ({reason}); delete it to restart the trial") from None


def check_archive(data: bytes) -> None:
    """Raise ValueError if a part does not match its checksum, or is compressed: torch.save compresses nothing."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
        raise ValueError("a part of it is compressed")
    if sum(part.file_size for part in archive.infolist()) > len(data):
        raise ValueError("its parts overlap")
    # torch.load does not check the checksums that torch.save writes.
    if damaged_part := archive.testzip():
        raise ValueError(f"{damaged_part} does not match its checksum")


@dataclass(frozen=True)
class Saved:
    """The types of the plain values of a checkpoint."""

    trial: dict[str, Any]
    pack_hash: str
    precision: Literal["fp32", "bf16", "fp16"]
    started_at: str
    epoch: int
    step: int
    epoch_seconds: float
    best_epoch: int | None
    features: str = ""
    continued_from: str = ""


def check_values(saved: dict[str, Any], trial: Trial) -> None:
    """Raise ValueError unless the history is that of so many epochs, and the best one has its weights."""
    history = [Epoch(**epoch) for epoch in saved["history"]]
    in_range("epoch", saved["epoch"], 0, trial.epochs)
    in_range("step", saved["step"], 0)
    if [epoch.epoch for epoch in history] != list(range(1, saved["epoch"] + 1)):
        raise ValueError(f"its history is not that of {saved['epoch']} epochs")
    if not all(isinstance(value, int | float | None) for epoch in history for value in vars(epoch).values()):
        raise ValueError("its history holds something that is no number")
    # Checkpoints of fp16 alone have values here, and older ones lack it.
    scaler = saved.setdefault("scaler", {})
    if not isinstance(scaler, dict) or set(scaler) != (SCALER_KEYS if saved["precision"] == "fp16" else set()):
        raise ValueError("its loss scale is incomplete")
    if not all(isinstance(value, int | float) for value in scaler.values()):
        raise ValueError("its loss scale holds something that is no number")
    if not re.fullmatch("([0-9a-f]{16})?", saved.get("features", "")):
        raise ValueError("features is not the name of features")
    if saved.get("continued_from") and not NAME_PATTERN.fullmatch(saved["continued_from"]):
        raise ValueError("continued_from is not the name of a trial")
    if saved["best_epoch"] is not None:
        in_range("best_epoch", saved["best_epoch"], 1, saved["epoch"])
    if (saved["best_epoch"] is None) != (saved["best_weights"] is None):
        raise ValueError("a best epoch without its weights, or weights without their epoch")


def restore(state: State, saved: dict[str, Any]) -> None:
    """Put the values of a checkpoint into a new state; raises BadConfig if they do not fit its model."""
    with damage(saved["where"]):
        load_state(state.model, saved["model"])
        restore_optimizer(state.optimizer, saved["optimizer"])
        if saved["scaler"]:
            state.scaler.load_state_dict(saved["scaler"])
        state.loss_sum.copy_(saved["loss_sum"])
        state.num_correct.copy_(saved["num_correct"])
        if saved["best_weights"] is not None:
            check_shapes(saved["best_weights"], state.model.state_dict())
    state.started_at, state.epoch, state.step = saved["started_at"], saved["epoch"], saved["step"]
    state.epoch_seconds, state.features = saved["epoch_seconds"], saved.get("features", "")
    state.continued_from = saved.get("continued_from", "")
    state.history = [Epoch(**epoch) for epoch in saved["history"]]
    state.best = next((epoch for epoch in state.history if epoch.epoch == saved["best_epoch"]), None)
    state.best_weights = saved["best_weights"]


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Put the saved state into an optimizer; raises ValueError for a tensor that is not of its weight's shape.

    A GPU's fused step takes all sizes from the weights, so it would read past the end of a smaller tensor.
    """
    for group, new in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        # How the optimizer computes depends on this machine, which may differ from the one that saved.
        group.update({name: value for name, value in new.items() if name != "params"})
    optimizer.load_state_dict(saved)
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape != (() if name == "step" else weight.shape):
                raise ValueError(f"the optimizer's {name} is {list(value.shape)} for weights {list(weight.shape)}")
            if not isinstance(value, Tensor | None):
                raise ValueError(f"the optimizer's {name} is no tensor")


def check_shapes(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise ValueError unless the weights have the names and the shapes of the model's."""
    if {key: value.shape for key, value in weights.items()} != {key: value.shape for key, value in expected.items()}:
        raise ValueError("the best weights have other names or shapes than the model's")
