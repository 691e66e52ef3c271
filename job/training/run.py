"""One trial from its grid line to its row: the whole path, and what is written on the way."""

import contextlib
import csv
import functools
import io
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace

import torch

from job.attempt import Busy, Lease, claim, held, now
from job.data.batches import Batches, load_batches
from job.data.pack import Passport
from job.errors import AccessDenied, BadConfig, JobError, OutOfMemory, Stopped, TakenOver, TryAgain
from job.layout import read_row, trial_file, trial_work
from job.outbox import Outbox
from job.record import Epoch, Row, row_to_json, summarise
from job.storage import Folder, join, read_uri
from job.training.checkpoint import read_checkpoint, restore
from job.training.display import Display
from job.training.evaluate import figures_at_threshold, figures_on_test
from job.training.fit import Evaluation, State, evaluate, evaluate_best, fit, new_state
from job.training.host import circumstances
from job.training.model import Machine, build_model, choose_machine, imagenet_weights, parse_weights
from job.training.records import Records
from job.training.stopping import why_best, why_ended
from job.trial import Trial
from job.unchanged import check_same


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


@contextlib.contextmanager
def failure_as_row(sweep: Folder, trial: Trial, passport: Passport, display: Display, lease: Lease) -> Iterator[None]:
    """Where the block fails for a reason of the trial's own, write a row that says so, then raise the reason.

    What a later try may mend (storage, credentials, a stop signal) leaves no row; nor does a trial that another process has
    taken over.
    """
    try:
        yield
    except (Stopped, TryAgain, AccessDenied, TakenOver):
        raise
    except JobError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - the one broad except: whatever breaks a trial becomes its row, and exit code 70.
        display.say(traceback.format_exc())
        failure = JobError(f"trial {trial.trial}: {type(error).__name__}: {error} (a fault of this program; "
                           "please report it with the lines above)")
        failure.__cause__ = error
    else:
        return
    lease.guard()
    row = Row(settings=asdict(trial), status="failed", cause=str(failure), started_at=now(), **circumstances(passport))
    sweep.write_once(trial_file(trial.trial, "row.json"), row_to_json(row).encode())
    raise failure


def pass_through(sweep: Folder, shorter: Sequence[Trial], longest: Trial, state: State, records: Records) -> list[Trial]:
    """Write the rows of the shorter trials of a trajectory that end with the state as it is; answers those still to come.

    One that another process has finished, or is at work on, is left to it; so is one that the state is already beyond.
    """
    ending = [trial for trial in shorter if state.step == 0 and state.history and has_ended(trial, state.history)]
    for trial in ending:
        finished = functools.partial(finished_row, sweep, trial, records.passport)
        try:
            lease = claim(sweep, trial_work(trial.trial), finished, records.display.say, wait=False, settings=asdict(trial),
                          pack_hash=records.passport.pack_hash)
        except Busy as error:
            records.display.say(f"{error}; left to it")
            continue
        if lease:
            with held(lease):
                set_failed_aside(sweep, trial, lease)
                own = replace(records, trial=trial, lease=lease)
                own.catch_up(state)
                row = publish(sweep, trial, state, own, lease, trained_by=longest.trial)
                records.display.row(row, already=False)
    return [trial for trial in shorter if trial not in ending and trial.epochs > state.epoch]


def has_ended(trial: Trial, history: Sequence[Epoch]) -> bool:
    """Whether a trial ends with exactly this history."""
    return len(history) == trial.epochs or (len(history) < trial.epochs and bool(why_ended(trial, history)))


def publish(sweep: Folder, trial: Trial, state: State, records: Records, lease: Lease, trained_by: str = "") -> Row:
    """Write what a trial leaves behind, its row last; answers the row that stands there."""
    row, predictions = conclude(trial, state, records.batches, records.machine, records.passport)
    row = replace(row, trained_by=trained_by)
    records.end(state, row, predictions)
    lease.guard()
    set_failed_aside(sweep, trial, lease)
    if not sweep.write_once(trial_file(trial.trial, "row.json"), row_to_json(row).encode()):
        row = finished_row(sweep, trial, records.passport) or row
    return row


def finished_row(sweep: Folder, trial: Trial, passport: Passport) -> Row | None:
    """The row of a trial that is done or diverged; raises BadConfig where it was made with other settings."""
    row = read_row(sweep, trial.trial)
    if not row or row.status == "failed":
        return None
    where = join(sweep.uri, trial_file(trial.trial, "row.json"))
    check_same(where, row.settings, row.pack_hash, trial, passport.pack_hash)
    return row


def failed_rows(sweep: Folder, trials: Sequence[Trial]) -> dict[str, Row]:
    """The rows of those trials that have failed, by the trial's name."""
    rows = {trial.trial: read_row(sweep, trial.trial) for trial in trials}
    return {name: row for name, row in rows.items() if row and row.status == "failed"}


def failure_since(sweep: Folder, trial: Trial, failed_before: Mapping[str, Row]) -> JobError | None:
    """Why a trial has failed, where its row says so and is another than the one before."""
    row = failed_rows(sweep, [trial]).get(trial.trial)
    return JobError(row.cause) if row and row != failed_before.get(trial.trial) else None


def set_failed_aside(sweep: Folder, trial: Trial, lease: Lease) -> None:
    """Rename the row of a trial that failed, for the trial to be tried again."""
    name = trial_file(trial.trial, "row.json")
    row = read_row(sweep, trial.trial)
    if row and row.status == "failed":
        number = sum(1 for _ in sweep.names(trial_file(trial.trial, "failed-"))) + 1
        sweep.write(trial_file(trial.trial, f"failed-{number}.json"), row_to_json(row).encode())
        lease.guard()
        sweep.delete(name)


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


def conclude(trial: Trial, state: State, batches: Batches, machine: Machine, passport: Passport) -> tuple[Row, bytes]:
    """The row, and the predictions: the epochs summarised, the best epoch's weights evaluated, and the last ones beside them."""
    figures = summarise(state.history, state.best) | {"best_reason": why_best(trial, state.history, state.best)}
    predictions = b""
    if state.best_weights:
        num_classes, has_test = len(passport.classes), len(batches.indices["test"]) > 0
        val = evaluate_best(state, batches, "val", machine)
        test = evaluate_best(state, batches, "test", machine) if has_test else None
        if has_test and not state.history[-1].diverged:
            ended_best = state.best is state.history[-1]
            last = figures_on_test(test if test and ended_best else evaluate(state.model, batches, "test", machine), num_classes)
            figures |= {"last_test_acc": last["test_acc"], "last_test_false_negatives": last["test_false_negatives"]}
        if test:
            figures |= figures_on_test(test, num_classes)
        if trial.recall and num_classes == 2:
            figures |= figures_at_threshold(val, test, trial.recall)
        predictions = predictions_csv({"val": val, "test": test}, batches, passport.classes)
    ended = why_ended(trial, state.history)
    diverged = bool(state.history) and state.history[-1].diverged
    row = Row(settings=asdict(trial), status="diverged" if diverged else "done", cause=ended, **figures,
              num_train=len(batches.indices["train"]), num_val=len(batches.indices["val"]),
              num_test=len(batches.indices["test"]), device=machine.name, precision_used=machine.precision,
              started_at=state.started_at, **circumstances(passport))
    return row, predictions


def predictions_csv(evaluations: dict[str, Evaluation | None], batches: Batches, classes: Sequence[str]) -> bytes:
    """A line a validation and test picture: split, picture, label, predicted class, and each class's probability."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["split", "picture", "label", "predicted", *(f"p {name}" for name in classes)])
    for split, found in evaluations.items():
        if found:
            names = [batches.names[i] for i in batches.indices[split].tolist()]
            rows = zip(names, found.labels_N.tolist(), found.logits_NK.double().softmax(1).tolist(), strict=True)
            lines.writerows([split, name, classes[label], classes[p.index(max(p))], *p] for name, label, p in rows)
    return text.getvalue().encode()


@contextlib.contextmanager
def gpu_memory(trial: Trial) -> Iterator[None]:
    """Turn the accelerator's out-of-memory error into ours."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"trial {trial.trial}: {str(error).splitlines()[0]} Use a smaller batch_size or image_size, "
                          "or a larger GPU") from None


