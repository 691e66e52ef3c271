"""The checkpoint of a trial, last.pt: everything that an exact resume needs, the best weights so far included."""

import io
import zipfile
from dataclasses import asdict
from typing import Any

import torch

from job.errors import BadConfig
from job.folder.same_settings import check_same
from job.record import Epoch
from job.training.state import State
from job.training.weights import UNREADABLE
from job.trial import Trial

KEYS = ("trial", "pack_hash", "precision", "model", "optimizer", "loss_sum", "num_correct", "started_at", "epoch",
        "step", "epoch_seconds", "history", "best_weights", "best_epoch")


def state_to_bytes(state: State, trial: Trial, pack_hash: str, precision: str) -> bytes:
    """Return the state as a torch file of tensors and plain values, with the trial and the pack it belongs to."""
    buffer = io.BytesIO()
    torch.save({
        "trial": asdict(trial), "pack_hash": pack_hash, "precision": precision,
        "model": state.model.state_dict(), "optimizer": state.optimizer.state_dict(),
        "loss_sum": state.loss_sum, "num_correct": state.num_correct, "started_at": state.started_at,
        "epoch": state.epoch, "step": state.step, "epoch_seconds": state.epoch_seconds,
        "history": [asdict(epoch) for epoch in state.history], "best_weights": state.best_weights,
        "best_epoch": state.best.epoch if state.best else None,
    }, buffer)
    return buffer.getvalue()


def read_checkpoint(data: bytes, trial: Trial, pack_hash: str, where: str) -> dict[str, Any]:
    """Return the values of a checkpoint; raises BadConfig if it is damaged or belongs to another trial or pack."""
    try:
        # torch.load does not check the checksums that torch.save writes.
        if damaged_part := zipfile.ZipFile(io.BytesIO(data)).testzip():
            raise ValueError(f"{damaged_part} does not match its checksum")
        saved = dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
        if missing_keys := {key for key in KEYS if key not in saved}:
            raise ValueError(f"it lacks {', '.join(sorted(missing_keys))}")
    except (*UNREADABLE, zipfile.BadZipFile) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadConfig(f"{where}: damaged checkpoint ({reason}); delete it to restart the trial") from None
    check_same(where, saved["trial"], saved["pack_hash"], trial, pack_hash)
    return saved


def restore(state: State, saved: dict[str, Any]) -> None:
    """Put the values of a checkpoint into a new state."""
    state.model.load_state_dict(saved["model"])
    # How the optimizer computes depends on this machine, which may differ from the one that saved.
    for group, new in zip(saved["optimizer"]["param_groups"], state.optimizer.param_groups, strict=True):
        group.update({name: new[name] for name in ("lr", "fused", "foreach", "capturable") if name in new})
    state.optimizer.load_state_dict(saved["optimizer"])
    state.loss_sum.copy_(saved["loss_sum"])
    state.num_correct.copy_(saved["num_correct"])
    state.started_at, state.epoch, state.step = saved["started_at"], saved["epoch"], saved["step"]
    state.epoch_seconds = saved["epoch_seconds"]
    state.history = [Epoch(**epoch) for epoch in saved["history"]]
    state.best = next((epoch for epoch in state.history if epoch.epoch == saved["best_epoch"]), None)
    state.best_weights = saved["best_weights"]
