"""What a trial does at its rungs: it leaves its figures there, and ends or pauses as the race decides."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from job.folder.patience import patiently
from job.record import FIGURES, Epoch
from job.training.outcome import evaluate_best
from job.training.race import Rung, bitmap, rungs_of
from job.training.records import Records
from job.training.rungs import Out, Paused, Race
from job.training.state import State
from job.training.stopping import best_of, why_ended
from job.trial import Trial


def check_race(race: Race, trial: Trial, state: State, records: Records) -> Out | None:
    """Leave the rungs that the trial has passed, and return what puts it out of the race; None if it goes on.

    Raises Paused, with the state saved, where the trial waits for others. A trial that ends at this state by itself
    is neither.
    """
    if race.mode == "off" or state.epoch >= trial.epochs or why_ended(trial, state.history):
        return None
    for number, epoch in enumerate(rungs_of(trial), 1):
        if epoch <= state.epoch and not race.has_left(trial.trial, epoch):
            rung = rung_at(trial, number, state.history[:epoch], records)
            if epoch == state.epoch and state.step == 0 and state.best:
                val = evaluate_best(state, records.batches, "val", records.machine)
                rung = replace(rung, right=bitmap((val.logits_NK.argmax(1) == val.labels_N).tolist()))
            patiently(functools.partial(race.leave, rung), records.display.say, records.pause)
    if out := patiently(lambda: race.out(trial, state.epoch), records.display.say, records.pause):
        return out
    if patiently(lambda: race.is_waiting(trial), records.display.say, records.pause):
        records.display.end()
        records.last_checkpoint(state)
        records.outbox.flush(records.patience_seconds)
        raise Paused(f"paused after epoch {state.epoch}, at its rung, until the other trials are there")
    return None


def rung_at(trial: Trial, number: int, history: Sequence[Epoch], records: Records) -> Rung:
    """Return the trial's rung of this number after these epochs, without the images that it has right."""
    best = best_of(trial, history)
    figures: dict[str, Any] = {name: getattr(best, name, None) for name in FIGURES}
    return Rung(trial=trial.trial, rung=number, epoch=len(history), monitor=trial.best_monitor, mode=trial.best_mode,
                fold=trial.fold, folds=trial.folds, pack_hash=records.passport.pack_hash,
                best_epoch=best.epoch if best else None, **figures, num_val=len(records.batches.indices["val"]))
