"""What a trial writes to its folder and shows on the screen while it runs."""

import threading
import time
from dataclasses import asdict, dataclass

from job.data.batches import Batches
from job.data.pack import Passport
from job.errors import Stopped
from job.folder.layout import epochs_file, trial_file
from job.folder.lease import Lease
from job.folder.outbox import Outbox
from job.folder.patience import patience_seconds
from job.record import Row, epochs_to_csv
from job.training.checkpoint import state_to_bytes
from job.training.display import Display
from job.training.drawing import count_steps
from job.training.event_images import best_epoch_summaries
from job.training.events import compared_settings, end_events, epoch_events, file_name, start_events
from job.training.machine import Machine
from job.training.state import State
from job.training.weights import weights_to_bytes
from job.trial import Trial

# How long a trial waits for storage that does not respond, once a signal has asked it to stop.
STOP_PATIENCE_SECONDS = 90.0
# The largest share of the time that checkpoints may take. Each one waits for the device, copies 135 MB of a ResNet18,
# and keeps a core busy while it is written, which slows the steps on a CPU; an epoch may take less time than that.
MOST_CHECKPOINT_SHARE = 0.02


def size_of(trial: Trial) -> str:
    """Return the sizes of a trial's images for people."""
    return f"{trial.image_size} px" + (f" (training {trial.train_size})" if trial.train_size else "")


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

    def begin(self, state: State, resumes: str = "resumes") -> None:
        """Show where the trial starts, resumes or continues another one, and write its hyper-parameters."""
        trial, self.epoch_index = self.trial, state.epoch
        self.num_steps = count_steps(len(self.batches.indices["train"]), trial.batch_size)
        self.display.trial(trial, state.epoch, trial.epochs * self.num_steps, state.epoch * self.num_steps + state.step)
        step = f", step {state.step}" if state.step else ""
        begins = f", {resumes} after epoch {state.epoch}{step}" if state.epoch or state.step else ""
        self.display.say(f"trial {trial.trial}  lr {trial.lr:g}, {trial.epochs} epochs, batch {trial.batch_size}, "
                         f"{size_of(trial)}, {self.machine.precision} on {self.machine.name}{begins}")
        self.catch_up(state)

    def catch_up(self, state: State) -> None:
        """Report the progress in the next heartbeat, and write the events and the table of epochs that are missing."""
        trial = self.trial
        self.lease.progress(state.epoch, state.step, count_steps(len(self.batches.indices["train"]), trial.batch_size))
        self.lease.beat_soon()
        # A killed process may have written an epoch's checkpoint, but not its events.
        written = set(self.outbox.folder.names(trial_file(trial.trial, "events/")))
        if trial_file(trial.trial, file_name(0)) not in written:
            compared, has_test = compared_settings(self.outbox.folder, trial), len(self.batches.indices["test"]) > 0
            self.put(file_name(0), start_events(trial, compared, has_test))
        for epoch in state.history:
            if trial_file(trial.trial, file_name(epoch.epoch)) not in written:
                self.put(file_name(epoch.epoch), epoch_events(epoch))
        if state.history:
            self.put("epochs.csv", epochs_to_csv(state.history).encode())

    def tick(self, step: int, num_steps: int) -> bool:
        """Show and note the progress after a step; return whether to stop."""
        self.display.advance_to(self.epoch_index * num_steps + step)
        self.lease.progress(self.epoch_index, step, num_steps)
        return self.stop.is_set() or self.lease.taken_over.is_set()

    def patience_seconds(self) -> float:
        """Return how long to wait for storage: less once a signal has asked to stop."""
        return patience_seconds(STOP_PATIENCE_SECONDS) if self.stop.is_set() else patience_seconds()

    def pause(self, seconds: float) -> None:
        """Sleep; raise Stopped if a signal asks to stop."""
        if self.stop.wait(seconds):
            raise Stopped("stopped by a signal while the storage did not respond; the same command resumes the trial")

    def epoch(self, state: State) -> None:
        """Write an epoch's events, the table of epochs so far and, if one is due, the checkpoint."""
        self.epoch_index = state.epoch
        self.put(file_name(state.epoch), epoch_events(state.history[-1]))
        self.put("epochs.csv", epochs_to_csv(state.history).encode())
        # The first epoch is saved at once; a later one if that keeps the cost of checkpoints within its share.
        writing_seconds = self.outbox.core_seconds.get(trial_file(self.trial.trial, "last.pt"), 0.0)
        seconds_since = time.monotonic() - self.checkpointed_at
        if self.checkpoint_seconds + writing_seconds <= MOST_CHECKPOINT_SHARE * seconds_since:
            self.checkpoint(state)
        self.lease.progress(state.epoch, 0, self.num_steps)
        self.lease.beat_soon()

    def checkpoint(self, state: State) -> None:
        """Write the state; a resume from it is exact, whichever epoch and step it is from."""
        began = time.monotonic()
        self.put("last.pt", state_to_bytes(state, self.trial, self.passport.pack_hash, self.machine.precision))
        self.checkpointed_at = time.monotonic()
        self.checkpoint_seconds = self.checkpointed_at - began
        self.checkpointed = state.epoch, state.step

    def last_checkpoint(self, state: State) -> None:
        """Write the state in which the trial ends, unless the last checkpoint has it already."""
        if self.checkpointed != (state.epoch, state.step):
            self.checkpoint(state)

    def save_and_stop(self, state: State) -> None:
        """Write the state within an epoch and raise Stopped; without the lease, write nothing and raise TakenOver."""
        self.display.end()
        if self.lease.taken_over.is_set():
            self.lease.guard()
        self.display.say(f"trial {self.trial.trial}  stopping: saving the state")
        self.checkpoint(state)
        self.outbox.flush(self.patience_seconds)
        raise Stopped(f"stopped by a signal after epoch {state.epoch}, step {state.step}; the state is saved, and the "
                      "same command resumes the trial")

    def end(self, state: State, row: Row, predictions: bytes) -> None:
        """Write best weights, predictions, last events and the whole table of epochs, and wait until storage has them.

        The row comes last. The whole table has a name of its own, because a store may deliver an earlier write of
        epochs.csv after this one.
        """
        self.put(epochs_file(len(state.history)), epochs_to_csv(state.history).encode())
        shown = []
        if state.best_weights:
            shown = best_epoch_summaries(state.best_evaluations, self.batches, self.passport.classes)
            self.put("predictions.csv", predictions)
            about = {"settings": asdict(self.trial), "classes": self.passport.classes, "epoch": row.best_epoch,
                     "threshold": row.threshold, "threshold_margin": row.threshold_margin,
                     "val_recall": row.val_recall_at_threshold, "temperature": row.temperature,
                     "precision": self.machine.precision, "short_side": self.passport.options["short_side"],
                     "pack_hash": self.passport.pack_hash}
            self.put("best.safetensors", weights_to_bytes(state.best_weights, about))
        self.put(file_name(state.epoch + 1), end_events(row, shown))
        self.outbox.flush(self.patience_seconds)

    def end_early(self, state: State) -> None:
        """Write the whole table of epochs of a raced trial, and wait until storage has it, and the checkpoint."""
        self.put(epochs_file(len(state.history)), epochs_to_csv(state.history).encode())
        self.outbox.flush(self.patience_seconds)
