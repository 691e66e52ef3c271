"""The path of one trial: from the claim to its row."""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from job.data.load import load_batches
from job.data.pack import Passport
from job.errors import BadConfig, Stopped
from job.folder.attempts import now
from job.folder.layout import trial_file, trial_work
from job.folder.lease import Lease, claim, held
from job.folder.outbox import Outbox
from job.folder.storage import Folder, join, read_uri
from job.record import Row
from job.training.checkpoint import read_checkpoint, restore
from job.training.display import Display
from job.training.fit import fit
from job.training.machine import Machine, choose_machine, gpu_memory
from job.training.model import build_model
from job.training.outcome import publish, write_shorter_rows
from job.training.records import Records
from job.training.rows import failure_as_row, failure_since, finished_row, set_failed_aside
from job.training.state import State, new_state
from job.training.weights import imagenet_weights, parse_weights
from job.trial import Trial


def run_trial(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display, stop: threading.Event,
              failed_before: Mapping[str, Row], wait: bool = True) -> Row | None:
    """Train the last of these trials and return its row; return None if another process has made it fail meanwhile.

    The order of resuming: row exists -> done; last checkpoint -> resume; initial weights -> start. `trials` is one
    trial, or a trajectory from the shortest trial to the longest: the shorter ones get their rows on the way.
    `failed_before` are the `failed_rows` at the start of the command; those trials are tried again. Raises Busy if
    another process trains the trial and `wait` is False; Stopped, with the state saved, once `stop` is set.
    """
    trial = trials[-1]
    with claimed(sweep, trials, passport, display, stop, failed_before, wait) as lease:
        if not lease:
            return show_finished(sweep, trial, passport, display)
        with contextlib.closing(Outbox(sweep, display.say, lease.guard)) as outbox:
            machine, state = resume_or_start(sweep, trial, passport)
            batches = load_batches(sweep, passport, trial, machine.device)
            if stop.is_set():
                raise Stopped(f"stopped by a signal before a step; the same command resumes after epoch {state.epoch}")
            records = Records(trial, passport, outbox, lease, machine, display, stop, batches)
            records.begin(state)
            shorter = write_shorter_rows(sweep, trials[:-1], trial, state, records)
            for epoch in fit(trial, state, batches, machine, records.tick, display.say):
                display.epoch(trial, epoch)
                records.epoch(state)
                # Before the next epoch's checkpoint, so that no resume starts beyond a missing row.
                shorter = write_shorter_rows(sweep, shorter, trial, state, records)
            if stop.is_set() or lease.taken_over.is_set():
                records.save_and_stop(state)
            records.last_checkpoint(state)
            row = publish(sweep, trial, state, records, lease)
            display.end()
            display.row(row, already=False)
            return row


@contextlib.contextmanager
def claimed(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display, stop: threading.Event,
            failed_before: Mapping[str, Row], wait: bool) -> Iterator[Lease | None]:
    """Yield the lease of the last trial, or None if it needs no training; a failure of the block becomes its row."""
    trial = trials[-1]

    def finished() -> bool:
        return bool(finished_row(sweep, trial, passport) or failure_since(sweep, trial, failed_before))

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise Stopped("stopped by a signal while another process trains it; the same command waits again")

    # Workers of one command share one screen: the worker that trains a trial says so, and no other does.
    say = display.say if display.position.num_workers == 1 else lambda text: None
    lease = claim(sweep, trial_work(trial.trial), finished, say, wait=wait, pause=pause, settings=asdict(trial),
                  pack_hash=passport.pack_hash, shorter=[shorter.trial for shorter in trials[:-1]])
    if not lease:
        yield None
        return
    with held(lease):
        # A process that was replaced because it fell silent may have written the row even after this claim.
        if finished_row(sweep, trial, passport):
            yield None
            return
        set_failed_aside(sweep, trial, lease)
        with failure_as_row(sweep, trial, passport, display, lease), gpu_memory(trial):
            lease.check_deaths()
            check_recall(trial, passport)
            yield lease


def show_finished(sweep: Folder, trial: Trial, passport: Passport, display: Display) -> Row | None:
    """Show the row of a trial that another process has finished, and return it; None if there is none."""
    row = finished_row(sweep, trial, passport)
    if row and display.position.num_workers == 1:
        display.row(row, already=True)
    return row


def check_recall(trial: Trial, passport: Passport) -> None:
    """Raise BadConfig if the trial sets a recall and there are not two classes."""
    if trial.recall and len(passport.classes) != 2:
        raise BadConfig(f"recall is for two classes, and the pack has {len(passport.classes)}; leave the column recall "
                        "out of the grid, or prepare the images with --positive CLASS")


def resume_or_start(sweep: Folder, trial: Trial, passport: Passport) -> tuple[Machine, State]:
    """Return the machine and the state: from the last checkpoint if there is one, else from the initial weights."""
    name = trial_file(trial.trial, "last.pt")
    saved = None
    if sweep.exists(name):
        saved = read_checkpoint(sweep.read(name), trial, passport.pack_hash, join(sweep.uri, name))
    # A trial resumes in the precision in which it started, whatever this machine would choose.
    machine = choose_machine(saved["precision"] if saved else trial.precision)
    weights = None
    if not saved and trial.weights != "none":
        weights = (imagenet_weights() if trial.weights == "imagenet"
                   else parse_weights(read_uri(trial.weights), trial.weights))
    model = build_model(trial, len(passport.classes), weights, machine)
    state = new_state(trial, model, machine, now())
    if saved:
        restore(state, saved)
    return machine, state
