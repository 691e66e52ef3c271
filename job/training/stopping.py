"""Which epoch is the best, and when training ends early: functions of the epochs so far, without state of their own."""

import math
from collections.abc import Sequence

from job.record import Epoch
from job.trial import Trial, is_max


def why_ended(trial: Trial, history: Sequence[Epoch]) -> str:
    """Why training ends with this history before its last epoch, or ''."""
    if history and history[-1].diverged:
        return f"the loss was not finite in epoch {history[-1].epoch}"
    return stopped_early(trial, history)


def stopped_early(trial: Trial, history: Sequence[Epoch]) -> str:
    """Whether early stopping ends training after the last epoch of this history, and by which figures; '' if not.

    Keras' EarlyStopping: an epoch improves if its figure beats the best so far by more than min_delta; training stops
    once `patience` epochs in a row have not improved, and never after the first epoch. Being a function of the history,
    it needs no state of its own to survive a resume.
    """
    if trial.stop_monitor == "none":
        return ""
    sign = 1 if is_max(trial.stop_monitor, trial.stop_mode) else -1
    best, best_epoch, wait = -math.inf, 0, 0
    for number, epoch in enumerate(history):
        figure = sign * getattr(epoch, trial.stop_monitor)
        wait += 1
        if figure - trial.stop_min_delta > best:
            best, best_epoch, wait = figure, epoch.epoch, 0
        elif wait >= trial.stop_patience and number > 0:
            return (f"stopped early after epoch {epoch.epoch}: {trial.stop_monitor} has not improved by more than "
                    f"{trial.stop_min_delta:g} since epoch {best_epoch}")
    return ""


def why_best(trial: Trial, history: Sequence[Epoch], best: Epoch | None) -> str:
    """Why the best epoch is the best, ties named."""
    if best is None:
        return "no epoch has a finite loss"
    name, figure = trial.best_monitor, getattr(best, trial.best_monitor)
    extreme = "highest" if is_max(name, trial.best_mode) else "lowest"
    ties = [str(epoch.epoch) for epoch in history if getattr(epoch, name) == figure and epoch is not best and not epoch.diverged]
    also = f"; epoch{'s' * (len(ties) > 1)} {', '.join(ties)} the same, the earlier is kept" if ties else ""
    return f"{extreme} {name}, {figure:.4f}{also}"


def is_better(trial: Trial, epoch: Epoch, best: Epoch | None) -> bool:
    """Whether an epoch's monitored figure beats the best so far; of equals the earlier stays."""
    if best is None:
        return True
    new, old = getattr(epoch, trial.best_monitor), getattr(best, trial.best_monitor)
    return bool(new > old if is_max(trial.best_monitor, trial.best_mode) else new < old)
