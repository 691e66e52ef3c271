"""Checkpoints: refused under other settings or when damaged, and written in turns when they are slow."""

import contextlib
import copy
import io
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from job.data.pack import Passport
from job.errors import BadConfig
from job.folder.layout import trial_work
from job.folder.lease import claim, held
from job.folder.local import LocalFolder
from job.folder.outbox import Outbox
from job.folder.storage import Folder
from job.training.checkpoint import read_checkpoint, restore, state_to_bytes
from job.training.display import Display
from job.training.fit import fit
from job.training.records import Records
from loops import PACK, TRIAL, begin, never


def test_checkpoint_of_other_settings_or_pack_is_refused(packed: tuple[Folder, Passport]) -> None:
    _, _, state = begin(packed)
    data = state_to_bytes(state, TRIAL, PACK, "fp32")
    with pytest.raises(BadConfig, match=r"lr was 0.05, now 0.1"):
        read_checkpoint(data, replace(TRIAL, lr=0.1), PACK, "last.pt")
    with pytest.raises(BadConfig, match="the pack was pppp"):
        read_checkpoint(data, TRIAL, "q" * 64, "last.pt")
    for damaged in (data[:1000], b"", b"hello" * 100):
        with pytest.raises(BadConfig, match="damaged checkpoint"):
            read_checkpoint(damaged, TRIAL, PACK, "last.pt")


def test_checkpoint_whose_writing_takes_a_core_long_waits_its_turn_and_the_last_does_not(
        packed: tuple[Folder, Passport], tmp_path: Path) -> None:
    class Laborious(LocalFolder):
        written = 0

        def write(self, name: str, data: bytes) -> None:
            if name.endswith("last.pt"):
                self.written += 1
                until = time.thread_time() + 0.3
                while time.thread_time() < until:
                    pass
            super().write(name, data)

    trial, folder = replace(TRIAL, model="mlp", epochs=4), Laborious(str(tmp_path))
    machine, batches, state = begin(packed, trial)
    lease = claim(folder, trial_work(trial.trial), lambda: None, print)
    assert lease
    with (held(lease), contextlib.closing(Outbox(folder, print, lease.guard)) as outbox,
          Display(Console(quiet=True)) as display):
        records = Records(trial, packed[1], outbox, lease, machine, display, threading.Event(), batches)
        records.begin(state)
        for _ in fit(trial, state, batches, machine, never):
            records.epoch(state)
            outbox.flush(lambda: 30)
        assert folder.written == 1 and records.checkpointed == (1, 0)
        records.last_checkpoint(state)
        outbox.flush(lambda: 30)
    assert folder.written == 2 and records.checkpointed == (4, 0)


def spoilt(saved: dict[str, Any], *path: Any, value: Any) -> bytes:
    """Return a checkpoint with another value at this place."""
    inner = saved = copy.deepcopy(saved)
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(("path", "value"), [
    (("epoch",), 99), (("epoch",), "1"), (("epoch",), -1), (("step",), True), (("history",), []), (("history",), [1]),
    (("history", 0, "val_acc"), "x"), (("best_epoch",), 7), (("best_weights",), None), (("precision",), "int1"),
    (("precision",), "fp16"), (("scaler",), {"scale": 1.0}), (("scaler",), []), (("scaler",), "x"),
    (("continued_from",), 1), (("continued_from",), "../1"),
    (("pack_hash",), 1), (("trial",), []), (("started_at",), 1), (("epoch_seconds",), "x"),
    (("model", "fc.bias"), torch.zeros(7)), (("model",), {}), (("best_weights", "fc.bias"), torch.zeros(7)),
    (("best_weights", "x"), torch.zeros(1)), (("optimizer", "param_groups"), []),
    (("optimizer", "state"), {0: {"momentum_buffer": "x"}}),
    (("optimizer", "state", 0, "momentum_buffer"), torch.zeros(1)), (("loss_sum",), torch.zeros(3))])
def test_checkpoint_with_another_value_is_refused_not_trained_from(
        path: tuple[Any, ...], value: Any, packed: tuple[Folder, Passport]) -> None:
    """A GPU's fused step would read past the end of a momentum that is smaller than its weights."""
    trial = replace(TRIAL, model="mlp")
    machine, batches, state = begin(packed, trial)
    next(iter(fit(trial, state, batches, machine, never)))
    data = state_to_bytes(state, trial, PACK, "fp32")
    saved = torch.load(io.BytesIO(data), weights_only=True)
    _, _, new = begin(packed, trial)
    with pytest.raises(BadConfig, match=r"last\.pt: "):
        restore(new, read_checkpoint(spoilt(saved, *path, value=value), trial, PACK, "last.pt"))
    # As older versions wrote it.
    old = {key: value for key, value in saved.items() if key not in ("continued_from", "features", "scaler")}
    for readable in (spoilt(old, "epoch_seconds", value=0.5), data):
        restore(new, read_checkpoint(readable, trial, PACK, "last.pt"))
    assert all(torch.equal(value, new.model.state_dict()[key]) for key, value in state.model.state_dict().items())


def test_compressed_checkpoint_is_refused_before_it_is_unpacked(packed: tuple[Folder, Passport]) -> None:
    """A megabyte of it could hold a gigabyte."""
    _, _, state = begin(packed)
    source = zipfile.ZipFile(io.BytesIO(state_to_bytes(state, TRIAL, PACK, "fp32")))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            target.writestr(part.filename, source.read(part))
    with pytest.raises(BadConfig, match="a part of it is compressed"):
        read_checkpoint(buffer.getvalue(), TRIAL, PACK, "last.pt")
