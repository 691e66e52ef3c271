"""Checkpoints: refused under other settings or when damaged, and written in turns when they are slow."""

import contextlib
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from job.data.pack import Passport
from job.errors import BadConfig
from job.folder.layout import trial_work
from job.folder.lease import claim, held
from job.folder.local import LocalFolder
from job.folder.outbox import Outbox
from job.folder.storage import Folder
from job.training.checkpoint import read_checkpoint, state_to_bytes
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
