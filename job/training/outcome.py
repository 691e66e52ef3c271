"""The outcome of a trial: the figures computed at its end, the predictions, and its row, written last."""

import csv
import functools
import io
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from job.data.batches import Batches
from job.data.pack import Passport
from job.errors import TryAgain
from job.folder.escape import for_csv
from job.folder.layout import trial_file, trial_work
from job.folder.lease import Busy, Lease, claim, held
from job.folder.patience import patiently
from job.folder.storage import Folder, join
from job.record import PROBABILITY, Epoch, Row, row_to_json, summarise
from job.training.backbone import load_state
from job.training.calibration import calibration_figures
from job.training.evaluate import Evaluation, evaluate, figures_at_threshold, figures_on_test
from job.training.faults import named_faults
from job.training.host import circumstances
from job.training.machine import Machine
from job.training.model import state_copy
from job.training.records import Records
from job.training.rows import finished_row, set_failed_aside
from job.training.rungs import Out
from job.training.state import State
from job.training.stopping import why_best, why_ended
from job.trial import Trial

LAST_FIGURES = ("test_acc", "test_false_negatives", "test_errors")
# Another process's row, or a failed one, may be in the way for a moment.
MOST_TRIES = 3


def evaluate_best(state: State, batches: Batches, split: str, machine: Machine) -> Evaluation:
    """Return the best epoch's evaluation on a split, computed once: trials of a trajectory often share it."""
    assert state.best and state.best_weights, "no epoch was finished"
    if split not in state.best_evaluations:
        last_weights = None if state.best is state.history[-1] else state_copy(state.model)
        load_state(state.model, state.best_weights)
        state.best_evaluations[split] = evaluate(state.model, batches, split, machine)
        if last_weights:
            load_state(state.model, last_weights)
    return state.best_evaluations[split]


def write_shorter_rows(sweep: Folder, shorter: Sequence[Trial], longest: Trial, state: State,
                       records: Records) -> list[Trial]:
    """Write the rows of those shorter trials of a trajectory that end at this state; return those that end later.

    It writes no row for a trial that another process has finished or is training, nor for one that ended before this
    state.
    """
    ending = [trial for trial in shorter if state.step == 0 and state.history and has_ended(trial, state.history)]
    for trial in ending:
        write_shorter_row(sweep, trial, longest, state, records)
    return [trial for trial in shorter if trial not in ending and trial.epochs > state.epoch]


def write_shorter_row(sweep: Folder, trial: Trial, longest: Trial, state: State, records: Records,
                      out: Out | None = None) -> None:
    """Write the row of one shorter trial of a trajectory, unless another process has done so or is training it.

    out: what puts the longest trial, and so this one, out of the race.
    """
    finished = functools.partial(finished_row, sweep, trial, records.passport)
    patiently(records.lease.confirm, records.display.say, records.pause)
    try:
        lease = claim(sweep, trial_work(trial.trial), finished, records.display.say, wait=False,
                      pause=records.pause, settings=asdict(trial), pack_hash=records.passport.pack_hash)
    except Busy as error:
        records.display.say(f"{error}; that process writes its row")
        return
    if lease:
        with held(lease), named_faults(trial):
            set_failed_aside(sweep, trial, lease)
            trial_records = replace(records, trial=trial, lease=lease)
            trial_records.catch_up(state)
            row = publish(sweep, trial, state, trial_records, lease, longest.trial, out)
            records.display.row(row, already=False)


def has_ended(trial: Trial, history: Sequence[Epoch]) -> bool:
    """Return whether a trial ends with exactly this history."""
    return len(history) == trial.epochs or (len(history) < trial.epochs and bool(why_ended(trial, history)))


def publish(sweep: Folder, trial: Trial, state: State, records: Records, lease: Lease, trained_by: str = "",
            out: Out | None = None) -> Row:
    """Write the trial's results, its row last; return the row that the sweep now has. out: of a raced trial, why."""
    if out:
        row = row_of_state(trial, state, records.batches, records.machine, records.passport, status="raced",
                           cause=out.cause, race=out.record)
        records.end_early(state)
    else:
        row, predictions = conclude(trial, state, records.batches, records.machine, records.passport)
        records.end(state, row, predictions)
    row = replace(row, trained_by=trained_by)

    def write_row() -> Row | None:
        lease.confirm()
        # A delayed write may have brought a failed row back.
        set_failed_aside(sweep, trial, lease)
        is_written = sweep.write_once(trial_file(trial.trial, "row.json"), row_to_json(row).encode())
        return row if is_written else finished_row(sweep, trial, records.passport)

    for _ in range(MOST_TRIES):
        if written := patiently(write_row, records.display.say, records.pause):
            return written
    where = join(sweep.uri, trial_file(trial.trial, "row.json"))
    raise TryAgain(f"{where}: the storage neither takes the row nor shows another one; start again later")


def conclude(trial: Trial, state: State, batches: Batches, machine: Machine, passport: Passport) -> tuple[Row, bytes]:
    """Return the row and the predictions: a summary of the epochs, and the best and last weights evaluated."""
    figures: dict[str, Any] = {}
    predictions = b""
    if state.best_weights:
        num_classes, has_test = len(passport.classes), len(batches.indices["test"]) > 0
        val = evaluate_best(state, batches, "val", machine)
        test = evaluate_best(state, batches, "test", machine) if has_test else None
        if has_test and not state.history[-1].diverged:
            last_is_best = state.best is state.history[-1]
            last_test = test if test and last_is_best else evaluate(state.model, batches, "test", machine)
            last = figures_on_test(last_test, num_classes)
            figures |= {f"last_{name}": last[name] for name in LAST_FIGURES if name in last}
        if test:
            figures |= figures_on_test(test, num_classes)
        figures |= calibration_figures(val, test)
        temperature = figures.get("temperature", 1.0)
        if trial.recall and num_classes == 2:
            figures |= figures_at_threshold(val, test, trial.recall, temperature)
        predictions = predictions_csv({"val": val, "test": test}, batches, passport.classes, temperature)
    diverged = bool(state.history) and state.history[-1].diverged
    status, cause = "diverged" if diverged else "done", why_ended(trial, state.history)
    return row_of_state(trial, state, batches, machine, passport, status=status, cause=cause, **figures), predictions


def row_of_state(trial: Trial, state: State, batches: Batches, machine: Machine, passport: Passport,
                 **outcome: Any) -> Row:
    """Return a row with the trial's settings, the figures of its epochs, and where it was trained."""
    figures = summarise(state.history, state.best) | {"best_reason": why_best(trial, state.history, state.best)}
    return Row(settings=asdict(trial), **figures, **outcome, num_train=len(batches.indices["train"]),
               num_val=len(batches.indices["val"]), num_test=len(batches.indices["test"]), device=machine.name,
               precision_used=machine.precision, features=state.features, continued_from=state.continued_from,
               started_at=state.started_at, **circumstances(passport))


def predictions_csv(evaluations: dict[str, Evaluation | None], batches: Batches, classes: Sequence[str],
                    temperature: float) -> bytes:
    """Return a CSV with a line per image: split, image, label, predicted class, whether it is correct, p_CLASS.

    The last are the calibrated probabilities of the classes. Names that a spreadsheet would take for formulas are
    escaped by `for_csv`.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "image", "label", "predicted", "correct", *(PROBABILITY + name for name in classes)])
    for split, evaluation in evaluations.items():
        if evaluation:
            images = [batches.names[index] for index in batches.indices[split].tolist()]
            probabilities_NK = (evaluation.logits_NK.double() / temperature).softmax(1).tolist()
            # Of the logits, as everywhere: two probabilities may round to the same number.
            predicted_N = evaluation.logits_NK.argmax(1).tolist()
            for image, label, predicted, probabilities in zip(images, evaluation.labels_N.tolist(), predicted_N,
                                                              probabilities_NK, strict=True):
                writer.writerow([split, *map(for_csv, (image, classes[label], classes[predicted])), predicted == label,
                                 *probabilities])
    return text.getvalue().encode()
