"""What is concluded at the end of a trial, and written: figures, predictions, the row last."""

import csv
import functools
import io
from collections.abc import Sequence
from dataclasses import asdict, replace

from job.data.batches import Batches
from job.data.pack import Passport
from job.folder.layout import trial_file, trial_work
from job.folder.lease import Busy, Lease, claim, held
from job.folder.storage import Folder
from job.record import Epoch, Row, row_to_json, summarise
from job.training.evaluate import Evaluation, evaluate, figures_at_threshold, figures_on_test
from job.training.host import circumstances
from job.training.machine import Machine
from job.training.model import state_copy
from job.training.records import Records
from job.training.rows import finished_row, set_failed_aside
from job.training.state import State
from job.training.stopping import why_best, why_ended
from job.trial import Trial


def evaluate_best(state: State, batches: Batches, split: str, machine: Machine) -> Evaluation:
    """The best epoch's evaluation on a split, made once: the rows of a trajectory mostly share it."""
    assert state.best and state.best_weights, "no epoch was finished"
    if split not in state.best_evaluations:
        last_weights = None if state.best is state.history[-1] else state_copy(state.model)
        state.model.load_state_dict(state.best_weights)
        state.best_evaluations[split] = evaluate(state.model, batches, split, machine)
        if last_weights:
            state.model.load_state_dict(last_weights)
    return state.best_evaluations[split]


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
    """A line a validation and test image: split, image, label, predicted class, and each class's probability."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["split", "image", "label", "predicted", *(f"p {name}" for name in classes)])
    for split, found in evaluations.items():
        if found:
            names = [batches.names[i] for i in batches.indices[split].tolist()]
            rows = zip(names, found.labels_N.tolist(), found.logits_NK.double().softmax(1).tolist(), strict=True)
            lines.writerows([split, name, classes[label], classes[p.index(max(p))], *p] for name, label, p in rows)
    return text.getvalue().encode()
