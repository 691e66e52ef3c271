"""What a trial writes to its folder and shows on the screen while it runs."""

import threading
import time
from dataclasses import asdict, dataclass

from job.data.batches import Batches
from job.data.pack import Passport
from job.errors import Stopped
from job.folder.layout import trial_file
from job.folder.lease import Lease
from job.folder.outbox import Outbox
from job.record import Row, epochs_to_csv
from job.training.checkpoint import state_to_bytes
from job.training.display import Display
from job.training.events import end_events, epoch_events, file_name, start_events
from job.training.fit import count_steps
from job.training.machine import Machine
from job.training.state import State
from job.training.weights import weights_to_bytes
from job.trial import Trial

# How long finishing waits for storage that does not answer before it gives up with 'try again'.
STORAGE_PATIENCE_SECONDS = 600.0
STOP_PATIENCE_SECONDS = 90.0
# Of the time between two checkpoints: each waits for the device, copies 135 MB of a ResNet18, and takes a core to write them,
# which a step on a CPU waits for; and an epoch may be shorter.
MOST_CHECKPOINT_SHARE = 0.02


@dataclass
class Records:
    """What a trial writes and shows while it runs."""

    trial: Trial
    passport: Passport
    outbox: Outbox
    lease: Lease
    machine: Machine
    display: Display
    stop: threading.Event
    batches: Batches
    checkpoint_seconds: float = 0.0
    checkpointed_at: float = 0.0
    checkpointed: tuple[int, int] = (0, 0)

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
        self.catch_up(state)

    def catch_up(self, state: State) -> None:
        """Tell the heartbeat where the trial stands, and write what events and table of its epochs are not there yet."""
        t, num_steps = self.trial, count_steps(len(self.batches.indices["train"]), self.trial.batch_size)
        self.lease.progress(state.epoch, state.step, num_steps)
        self.lease.beat_soon()
        # A process that was killed may have written the checkpoint of an epoch and not yet what tells of it.
        have = set(self.outbox.folder.names(trial_file(t.trial, "events/")))
        told = {0: start_events(t)} | {epoch.epoch: epoch_events(epoch) for epoch in state.history}
        for number, events in told.items():
            if trial_file(t.trial, file_name(number)) not in have:
                self.put(file_name(number), events)
        if state.history:
            self.put("epochs.csv", epochs_to_csv(state.history).encode())

    def tick(self, step: int, num_steps: int) -> bool:
        """After each step: move the bar, note the progress for the heartbeat, and say whether to stop."""
        self.display.advance_to(self.epoch_index * num_steps + step)
        self.lease.progress(self.epoch_index, step, num_steps)
        return self.stop.is_set() or self.lease.taken_over.is_set()

    def patience_seconds(self) -> float:
        """How long to wait for storage: not long once a signal has asked to stop."""
        return STOP_PATIENCE_SECONDS if self.stop.is_set() else STORAGE_PATIENCE_SECONDS

    def epoch(self, state: State) -> None:
        """Write an epoch's events, the table so far and, where it is time, the checkpoint."""
        self.epoch_index = state.epoch
        self.put(file_name(state.epoch), epoch_events(state.history[-1]))
        self.put("epochs.csv", epochs_to_csv(state.history).encode())
        # The first epoch's at once; later ones as often as they take no more than this share of the time.
        writing_seconds = self.outbox.core_seconds.get(trial_file(self.trial.trial, "last.pt"), 0.0)
        if self.checkpoint_seconds + writing_seconds <= MOST_CHECKPOINT_SHARE * (time.monotonic() - self.checkpointed_at):
            self.checkpoint(state)
        self.lease.progress(state.epoch, 0, self.num_steps)
        self.lease.beat_soon()

    def checkpoint(self, state: State) -> None:
        """Write the state, from which a resume is exact, whichever epoch it is of."""
        began = time.monotonic()
        self.put("last.pt", state_to_bytes(state, self.trial, self.passport.pack_hash, self.machine.precision))
        self.checkpointed_at = time.monotonic()
        self.checkpoint_seconds = self.checkpointed_at - began
        self.checkpointed = state.epoch, state.step

    def last_checkpoint(self, state: State) -> None:
        """Write the state in which the trial ends, unless it is written."""
        if self.checkpointed != (state.epoch, state.step):
            self.checkpoint(state)

    def save_and_stop(self, state: State) -> None:
        """Save in the middle of an epoch and raise Stopped; raises TakenOver, saving nothing, where another process goes on."""
        self.display.end()
        if self.lease.taken_over.is_set():
            self.lease.guard()
        self.display.say("stopping: saving the state")
        self.checkpoint(state)
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
