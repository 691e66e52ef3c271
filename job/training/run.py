"""The path of one trial, once it is claimed: to its row."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from job.data.load import load_batches
from job.data.pack import Passport
from job.errors import BadConfig, BadData, MissingInput, Stopped, TryAgain
from job.folder.attempts import now
from job.folder.layout import trial_file
from job.folder.lease import Lease
from job.folder.outbox import Outbox
from job.folder.patience import patiently
from job.folder.storage import Folder, join, read_uri
from job.record import Row
from job.training.checkpoint import read_checkpoint, restore
from job.training.continued import Predecessor
from job.training.display import Display
from job.training.faults import named_faults
from job.training.features import with_features
from job.training.fit import fit
from job.training.imagenet import imagenet_weights, stored_bytes, stored_weights
from job.training.machine import Machine, choose_machine
from job.training.model import build_model
from job.training.outcome import publish, write_shorter_row, write_shorter_rows
from job.training.racing import check_race
from job.training.records import Records
from job.training.rungs import Race
from job.training.state import State, new_state
from job.training.weights import parse_weights
from job.trial import Trial

Parsed = TypeVar("Parsed")


def train(sweep: Folder, trials: Sequence[Trial], passport: Passport, lease: Lease, display: Display,
          stop: threading.Event, race: Race, predecessor: Predecessor | None = None) -> Row:
    """Train the last of these trials under its lease, and return its row; the shorter ones get theirs on the way.

    The order of resuming: row exists -> done; own last checkpoint -> resume; that of a finished shorter trial, the
    predecessor -> continue; initial weights -> start. Raises Stopped, with the state saved, once `stop` is set, and
    Paused where the trial waits at a rung.
    """
    trial = trials[-1]
    with named_faults(trial), contextlib.closing(Outbox(sweep, display.say, lease.guard)) as outbox:
        def pause(seconds: float) -> None:
            if stop.wait(seconds):
                raise Stopped("stopped by a signal before a step; the same command resumes the trial")

        machine, state, resumes = patiently(
            lambda: resume_or_start(sweep, trial, passport, predecessor, display.say), display.say, pause)
        images = patiently(lambda: load_batches(sweep, passport, trial, machine.device, machine.dtype),
                           display.say, pause)
        batches = with_features(sweep, passport, trial, state, images, machine, display.say, pause)
        pause(0)
        records = Records(trial, passport, outbox, lease, machine, display, stop, batches)
        records.begin(state, resumes)
        shorter = write_shorter_rows(sweep, trials[:-1], trial, state, records)
        out = check_race(race, trial, state, records)
        for epoch in fit(trial, state, batches, machine, records.tick, display.say) if not out else ():
            display.epoch(trial, epoch)
            records.epoch(state)
            # Before the next epoch's checkpoint, so that no resume starts beyond a missing row.
            shorter = write_shorter_rows(sweep, shorter, trial, state, records)
            if out := check_race(race, trial, state, records):
                break
        if stop.is_set() or lease.taken_over.is_set():
            records.save_and_stop(state)
        records.last_checkpoint(state)
        for other in shorter if out else ():
            write_shorter_row(sweep, other, trial, state, records, out)
        row = publish(sweep, trial, state, records, lease, out=out)
        display.end()
        display.row(row, already=False)
        return row


def resume_or_start(sweep: Folder, trial: Trial, passport: Passport, predecessor: Predecessor | None,
                    say: Callable[[str], None]) -> tuple[Machine, State, str]:
    """Return the machine, the state, and in words how it begins: from a checkpoint, or from the initial weights.

    A checkpoint of the predecessor that cannot be used is no failure of this trial.
    """
    if sweep.exists(trial_file(trial.trial, "last.pt")):
        return *from_checkpoint(sweep, trial, passport), "resumes"
    if predecessor:
        shorter = predecessor.trial
        try:
            machine, state = from_checkpoint(sweep, shorter, passport)
        except (BadConfig, MissingInput) as error:
            say(f"trial {trial.trial} does not continue trial {shorter.trial}, and begins anew: {error}")
        else:
            state.continued_from = shorter.trial
            return machine, state, f"continues trial {shorter.trial}"
    machine = choose_machine(trial.precision)
    weights = None if trial.weights == "none" else initial_weights(trial)
    return machine, new_state(trial, build_model(trial, len(passport.classes), weights, machine), machine, now()), ""


def from_checkpoint(sweep: Folder, trial: Trial, passport: Passport) -> tuple[Machine, State]:
    """Return the machine and the state of a trial's last checkpoint; raises BadConfig where it cannot be used."""
    name = trial_file(trial.trial, "last.pt")
    saved = read_twice(lambda: sweep.read(name), lambda data: read_checkpoint(
        data, trial, passport.pack_hash, join(sweep.uri, name)))
    # A trial resumes in the precision in which it started, whatever this machine would choose.
    machine = choose_machine(saved["precision"])
    state = new_state(trial, build_model(trial, len(passport.classes), None, machine), machine, now())
    restore(state, saved)
    return machine, state


def initial_weights(trial: Trial) -> dict[str, Tensor]:
    """Return the weights that the trial names; raises BadData for a file that holds none."""
    if trial.weights == "imagenet":
        if not (folder := os.environ.get("TRIALGRID_WEIGHTS")):
            return imagenet_weights(trial.model)
        return read_twice(lambda: stored_bytes(trial.model, folder),
                          lambda data: stored_weights(data, trial.model, folder))
    if "://" not in trial.weights:
        # Read once: it may be a pipe.
        return parse_weights(read_uri(trial.weights), trial.weights)
    return read_twice(lambda: read_uri(trial.weights), lambda data: parse_weights(data, trial.weights))


def read_twice(read: Callable[[], bytes], parse: Callable[[bytes], Parsed]) -> Parsed:
    """Return what `parse` makes of the bytes; refused bytes are read again, so that a bad read is not taken for damage.

    Raises TryAgain if the second read gives other bytes that are refused, too.
    """
    data = read()
    try:
        return parse(data)
    except (BadConfig, BadData):
        if (again := read()) == data:
            raise
    try:
        return parse(again)
    except (BadConfig, BadData) as error:
        raise TryAgain(f"two reads gave different bytes; start again later. The second: {error}") from None
