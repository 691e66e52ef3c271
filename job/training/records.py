"""What a trial writes to its folder and shows on the screen while it runs."""

import json
import os
import threading
import time
from dataclasses import asdict, dataclass

from job.data.batches import Batches
from job.data.pack import Passport
from job.errors import Stopped
from job.layout import HEARTBEAT, trial_file
from job.outbox import Outbox
from job.record import Row, epochs_to_csv
from job.training.checkpoint import state_to_bytes
from job.training.display import Display
from job.training.events import end_events, epoch_events, file_name, start_events
from job.training.fit import State, count_steps
from job.training.host import host_name, now
from job.training.model import Machine, weights_to_bytes
from job.trial import Trial

HEARTBEAT_SECONDS = 5.0
# How long finishing waits for storage that does not answer before it gives up with 'try again'.
STORAGE_PATIENCE_SECONDS = 600.0
STOP_PATIENCE_SECONDS = 90.0


@dataclass
class Records:
    """What a trial writes and shows while it runs."""

    trial: Trial
    passport: Passport
    outbox: Outbox
    machine: Machine
    display: Display
    stop: threading.Event
    batches: Batches
    beat_at: float = 0.0

    def put(self, name: str, data: bytes) -> None:
        self.outbox.put(trial_file(self.trial.trial, name), data)

    def begin(self, state: State) -> None:
        """Show where the trial starts or goes on, and write its hyper-parameters."""
        t = self.trial
        self.epoch_index, self.num_steps = state.epoch, count_steps(len(self.batches.indices["train"]), t.batch_size)
        self.display.begin(f"trial {t.trial} epoch {state.epoch + 1}/{t.epochs}", t.epochs * self.num_steps,
                           state.epoch * self.num_steps + state.step)
        resumed = f", goes on after epoch {state.epoch}, step {state.step}" if state.epoch or state.step else ""
        self.display.say(f"trial {t.trial}  lr {t.lr:g}, {t.epochs} epochs, batch {t.batch_size}, {t.image_size} px, "
                         f"{self.machine.precision} on {self.machine.name}{resumed}")
        # Not by the outbox: without the right to write, better to fail now than after hours of training.
        self.outbox.folder.write(trial_file(t.trial, HEARTBEAT), self.beat(state.step))
        # A process that was killed may have written the checkpoint of an epoch and not yet what tells of it.
        have = set(self.outbox.folder.names(trial_file(t.trial, "events/")))
        told = {0: start_events(t)} | {epoch.epoch: epoch_events(epoch) for epoch in state.history}
        for number, events in told.items():
            if trial_file(t.trial, file_name(number)) not in have:
                self.put(file_name(number), events)
        if state.history:
            self.put("epochs.csv", epochs_to_csv(state.history).encode())

    def tick(self, step: int, num_steps: int) -> bool:
        """After each step: move the bar, beat the heart now and then, and say whether to stop."""
        self.display.advance_to(self.epoch_index * num_steps + step)
        if time.monotonic() - self.beat_at > HEARTBEAT_SECONDS:
            self.beat_at = time.monotonic()
            self.heartbeat(step)
        return self.stop.is_set()

    def heartbeat(self, step: int) -> None:
        self.put(HEARTBEAT, self.beat(step))

    def beat(self, step: int) -> bytes:
        """Where the trial stands, who trains it, and its settings."""
        beat = {"epoch": self.epoch_index, "step": step, "num_steps": self.num_steps, "at": now(), "host": host_name(),
                "pid": os.getpid(), "stopped": self.stop.is_set(), "settings": asdict(self.trial),
                "pack_hash": self.passport.pack_hash}
        return (json.dumps(beat) + "\n").encode()

    def patience_seconds(self) -> float:
        """How long to wait for storage: not long once a signal has asked to stop."""
        return STOP_PATIENCE_SECONDS if self.stop.is_set() else STORAGE_PATIENCE_SECONDS

    def epoch(self, state: State) -> None:
        """Write an epoch's events, the table so far and the checkpoint."""
        self.epoch_index = state.epoch
        self.put(file_name(state.epoch), epoch_events(state.history[-1]))
        self.put("epochs.csv", epochs_to_csv(state.history).encode())
        self.checkpoint(state)
        self.heartbeat(0)

    def checkpoint(self, state: State) -> None:
        self.put("last.pt", state_to_bytes(state, self.trial, self.passport.pack_hash, self.machine.precision))

    def save_and_stop(self, state: State) -> None:
        """Save in the middle of an epoch and raise Stopped."""
        self.display.end()
        self.display.say("stopping: saving the state")
        self.checkpoint(state)
        self.heartbeat(state.step)
        self.outbox.flush(self.patience_seconds)
        raise Stopped(f"trial {self.trial.trial}: stopped by a signal after epoch {state.epoch}, step {state.step}; "
                      "saved, and the same command goes on from there")

    def end(self, state: State, row: Row, predictions: bytes) -> None:
        """Write the best weights, the predictions and the last events, and wait until all that stands before the row is written."""
        if state.best_weights:
            self.put("predictions.csv", predictions)
            about = {"settings": asdict(self.trial), "classes": self.passport.classes, "epoch": row.best_epoch,
                     "threshold": row.threshold, "threshold_margin": row.threshold_margin,
                     "val_recall": row.val_recall_at_threshold, "precision": self.machine.precision,
                     "short_side": self.passport.options["short_side"], "pack_hash": self.passport.pack_hash}
            self.put("best.safetensors", weights_to_bytes(state.best_weights, about))
        self.put(file_name(state.epoch + 1), end_events(row))
        self.outbox.flush(self.patience_seconds)
