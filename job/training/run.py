"""One trial from its grid line to its row: the whole path, and what is written on the way."""

import contextlib
import threading
from collections.abc import Mapping, Sequence
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
from job.training.outcome import pass_through, publish
from job.training.records import Records
from job.training.rows import failure_as_row, failure_since, finished_row, set_failed_aside
from job.training.state import State, new_state
from job.training.weights import imagenet_weights, parse_weights
from job.trial import Trial


def run_trial(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display, stop: threading.Event,
              failed_before: Mapping[str, Row], wait: bool = True) -> Row | None:
    """Train the last of these trials and write its row; answers the row of a trial that is done or diverged in the end.

    trials: one trial, or a trajectory, the shortest first: each shorter one gets its row as the last passes through it.
    failed_before: the `failed_rows` that stood there when the command began. These are set aside and their trials tried
    again; where another process has failed since, nothing is tried, and the answer is None.
    The order of resuming: row exists -> done; last checkpoint -> resume; initial weights -> start. While another process
    trains the trial this one waits, or raises Busy. Raises Stopped once `stop` is set, with the state saved.
    """
    trial = trials[-1]

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise Stopped(f"stopped by a signal while another process was at work on trial {trial.trial}")

    def finished() -> bool:
        return bool(finished_row(sweep, trial, passport) or failure_since(sweep, trial, failed_before))

    row = finished_row(sweep, trial, passport)
    lease = None if row else claim(
        sweep, trial_work(trial.trial), finished, display.say, wait=wait,
        pause=pause, settings=asdict(trial), pack_hash=passport.pack_hash, shorter=[shorter.trial for shorter in trials[:-1]])
    with held(lease) if lease else contextlib.nullcontext():
        # Another process may have ended the trial during the wait; one that fell silent, even after the claim.
        row = row or finished_row(sweep, trial, passport)
        if lease and not row:
            set_failed_aside(sweep, trial, lease)
            with failure_as_row(sweep, trial, passport, display, lease), gpu_memory(trial):
                lease.check_deaths()
                check_recall(trial, passport)
                return train(sweep, trials, passport, display, stop, lease)
    if row:
        display.row(row, already=True)
    return row


def train(sweep: Folder, trials: Sequence[Trial], passport: Passport, display: Display, stop: threading.Event, lease: Lease) -> Row:
    """The path from the last checkpoint, or the beginning, to the row, with the right to it in hand."""
    trial = trials[-1]
    with contextlib.closing(Outbox(sweep, display.say, lease.guard)) as outbox:
        machine, state = resume_or_start(sweep, trial, passport)
        batches = load_batches(sweep, passport, trial, machine.device)
        if stop.is_set():
            raise Stopped(f"trial {trial.trial}: stopped by a signal before its first step; the same command begins it")
        records = Records(trial, passport, outbox, lease, machine, display, stop, batches)
        records.begin(state)
        pending = pass_through(sweep, trials[:-1], trial, state, records)
        for epoch in fit(trial, state, batches, machine, records.tick, display.say):
            display.epoch(trial, epoch)
            # Their rows come before the checkpoint of the next epoch, so a resume never stands beyond one without.
            records.epoch(state)
            pending = pass_through(sweep, pending, trial, state, records)
        if stop.is_set() or lease.taken_over.is_set():
            records.save_and_stop(state)
        records.last_checkpoint(state)
        row = publish(sweep, trial, state, records, lease)
        display.end()
        display.row(row, already=False)
    return row


def check_recall(trial: Trial, passport: Passport) -> None:
    """Raise BadConfig where a trial wants a recall and there are not two classes."""
    if trial.recall and len(passport.classes) != 2:
        raise BadConfig(f"trial {trial.trial}: recall is for two classes, and there are {len(passport.classes)}; "
                        "leave it out, or prepare with --positive CLASS")


def resume_or_start(sweep: Folder, trial: Trial, passport: Passport) -> tuple[Machine, State]:
    """The machine and the state: from the last checkpoint where there is one, else from the initial weights."""
    name = trial_file(trial.trial, "last.pt")
    saved = None
    if sweep.exists(name):
        saved = read_checkpoint(sweep.read(name), trial, passport.pack_hash, join(sweep.uri, name))
    # A trial goes on in the precision that it began with, whatever the new machine would choose.
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
