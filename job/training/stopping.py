"""Which epoch is the best, and when training ends early: pure functions of the epochs so far."""

import math
from collections.abc import Sequence

from job.record import Epoch
from job.trial import Trial, is_max


def why_ended(trial: Trial, history: Sequence[Epoch]) -> str:
    """Return why training ends after this history, before the trial's last epoch; '' if it does not."""
    if history and history[-1].diverged:
        return f"the loss was not finite in epoch {history[-1].epoch}"
    return stopped_early(trial, history)


def stopped_early(trial: Trial, history: Sequence[Epoch]) -> str:
    """Return why early stopping ends training after this history, with the figures; '' if it does not.

    The rule is that of Keras' EarlyStopping: an epoch improves if its figure beats the best so far by more than
    min_delta; training stops once `patience` epochs in a row have not improved, and never after the first epoch. The
    rule depends on the history alone, so a resume needs no further state.
    """
    if trial.stop_monitor == "none":
        return ""
    sign = 1 if is_max(trial.stop_monitor, trial.stop_mode) else -1
    best, best_epoch, num_waited = -math.inf, 0, 0
    for number, epoch in enumerate(history):
        figure = sign * getattr(epoch, trial.stop_monitor)
        num_waited += 1
        if figure - trial.stop_min_delta > best:
            best, best_epoch, num_waited = figure, epoch.epoch, 0
        elif num_waited >= trial.stop_patience and number > 0:
            return (f"stopped early after epoch {epoch.epoch}: {trial.stop_monitor} has not improved by more than "
                    f"{trial.stop_min_delta:g} since epoch {best_epoch}")
    return ""


def why_best(trial: Trial, history: Sequence[Epoch], best: Epoch | None) -> str:
    """Return why the best epoch is the best, naming the epochs that tie with it."""
    if best is None:
        return "no epoch has a finite loss"
    name, figure = trial.best_monitor, getattr(best, trial.best_monitor)
    extreme = "highest" if is_max(name, trial.best_mode) else "lowest"
    ties = [str(epoch.epoch) for epoch in history
            if getattr(epoch, name) == figure and epoch is not best and not epoch.diverged]
    also = f"; epoch{'s' * (len(ties) > 1)} {', '.join(ties)} the same, the earlier is kept" if ties else ""
    return f"{extreme} {name}, {figure:.4f}{also}"


def is_better(trial: Trial, epoch: Epoch, best: Epoch | None) -> bool:
    """Return whether an epoch's monitored figure beats the best so far; in a tie the earlier epoch stays the best."""
    if best is None:
        return True
    new, old = getattr(epoch, trial.best_monitor), getattr(best, trial.best_monitor)
    return bool(new > old if is_max(trial.best_monitor, trial.best_mode) else new < old)


def best_of(trial: Trial, epochs: Sequence[Epoch]) -> Epoch | None:
    """Return the best epoch by the figure that the trial monitors; None if no epoch has a finite loss."""
    best = None
    for epoch in epochs:
        if not epoch.diverged and is_better(trial, epoch, best):
            best = epoch
    return best
