"""What to try next, where the best value lies on the edge of the grid."""

import math
import re
from collections.abc import Sequence, Set
from dataclasses import replace

import pandas as pd

from job.folder.groups import all_folds
from job.results.compare import recommended_line
from job.results.folds import Pooled
from job.results.ranking import FOLD_NAME, as_trial
from job.trial import Trial

FACTOR_LIMITS = {"lr": (2.0, 10.0), "epochs": (1.25, 2.0)}


def next_values(name: str, values: Sequence[float], best: float) -> list[float]:
    """Return two values beyond the edge of the grid if the best value lies on that edge, else none.

    A grid with a single value has no edge. The new values continue the ratio of the grid's last step on that side,
    limited to between 2 and 10 for lr, and between 1.25 and 2 for epochs.
    """
    ordered = sorted(set(values))
    if len(ordered) < 2 or best not in (ordered[0], ordered[-1]):
        return []
    high = best == ordered[-1]
    ratio = ordered[-1] / ordered[-2] if high else ordered[1] / ordered[0]
    low_limit, high_limit = FACTOR_LIMITS[name]
    factor = min(max(ratio, low_limit), high_limit) ** (1 if high else -1)
    found = [best * factor, best * factor**2]
    if name == "epochs":
        return [float(value) for value in dict.fromkeys(max(1, round(value)) for value in found) if value != best]
    return [float(f"{value:.3g}") for value in found]


def next_grid(pooled: Pooled, grid: Sequence[Trial], names: Set[str]) -> tuple[list[Trial], list[str]]:
    """Return the trials to try next and the reasons: those of `beyond_edge`, and the plain trial of the best setting.

    pooled: with judged lines; without a recommended trial there is no advice. names: those of all trials with rows. A
    setting that was compared by its folds is tried on all folds again.
    """
    line = recommended_line(pooled.lines)
    if line is None:
        return [], []
    used = {trial.trial for trial in grid} | names
    setting = pooled.whole.get(line["trial"])
    found, notes = beyond_edge(pooled.lines, line, grid, used)
    if not setting:
        return found, notes
    found = [fold for trial in found for fold in all_folds(replace(trial, fold=1, folds=setting.num_folds))]
    if not setting.plain and not any(replace(trial, trial="1") == setting.setting for trial in grid):
        base = base_name(setting.model)
        plain = replace(setting.setting, trial=base if base not in used else new_name(used, base))
        notes.append(f"the recommended setting has no trial on the plain split: train it as trial {plain.trial}, whose "
                     "weights `job predict` then uses")
        found.insert(0, plain)
    return found, notes


def beyond_edge(table: pd.DataFrame, line: pd.Series, grid: Sequence[Trial],
                used: set[str]) -> tuple[list[Trial], list[str]]:
    """Return the trials to try next and the reasons, if the best lr or epochs lies on the edge of the grid.

    table: that of `judge`; line: its recommended line. The edge is taken over all trials (done, raced, failed, diverged
    or not yet trained) that differ from the best only in lr, epochs, warmup and seed. Fewer epochs are suggested only
    under the schedule cosine: under the others they are the beginning of the same run. More epochs are suggested only
    if early stopping did not end the best trial.
    """
    best = as_trial(line)
    ranked = [(trial, other) for _, other in table[table["rank"].notna()].iterrows()
              if is_alike(trial := as_trial(other), best)]
    alike = [*(trial for trial in grid if is_alike(trial, best)),
             *(trial for _, other in table.iterrows() if is_alike(trial := as_trial(other), best))]
    trials: list[Trial] = []
    notes = []
    for name in ("lr", "epochs"):
        values, value = [float(getattr(trial, name)) for trial in alike], float(getattr(best, name))
        largest = value == max(values)
        stopped_early = line["epochs_run"] < best.epochs
        if name == "epochs" and (stopped_early if largest else best.schedule != "cosine"):
            continue
        if not (continued := next_values(name, values, value)) or not (why := evidence(name, line, ranked)):
            continue
        if found := [new for v in continued if (new := changed(best, name, v, used))]:
            guess, reason = why
            notes.append(f"{guess}the best trial has the {'largest' if largest else 'smallest'} {name} of the grid, "
                         f"{value:g}, {reason}: try {' and '.join(f'{getattr(new, name):g}' for new in found)} next")
            trials += found
    return trials, notes


def is_alike(trial: Trial, best: Trial) -> bool:
    """Return whether a trial differs from the best one at most in lr, epochs, warmup, seed, fold and name."""
    names = ("trial", "lr", "epochs", "seed", "warmup", "fold", "folds")
    return replace(trial, **{name: getattr(best, name) for name in names}) == best


def evidence(name: str, best: pd.Series, ranked: Sequence[tuple[Trial, pd.Series]]) -> tuple[str, str] | None:
    """Return whether advice beyond the best value is a guess, and why; None from a tie, which advises nothing.

    There is a trend only if the best trial is distinguishable from the highest one with the nearest other value. The
    two must not differ in both, lr and epochs.
    """
    same = "epochs" if name == "lr" else "lr"
    others = [(abs(math.log(getattr(trial, name) / best[name])), place, line) for place, (trial, line)
              in enumerate(ranked) if getattr(trial, name) != best[name] and getattr(trial, same) == best[same]]
    if not others:
        return "a guess: ", f"but no ranked trial differs from it in {name} alone"
    _, _, line = min(others, key=lambda item: item[:2])
    if line["best_val_acc"] == best["best_val_acc"]:
        return None
    other = f"{name} {line[name]:g} (trial {line['trial']})"
    if line["verdict"] == "worse":
        return "", f"and {other} is worse"
    return "a guess: ", f"but {other} is {line['verdict'] or 'not compared'}"


def changed(best: Trial, name: str, value: float, used: set[str]) -> Trial | None:
    """Return the best trial with another value and a new name, or None if the field does not allow that value."""
    try:
        return replace(best, **{"trial": new_name(used, best.trial), name: type(getattr(best, name))(value)})
    except ValueError:
        return None


def base_name(trial: str) -> str:
    """Return the name of a trial without the fold that `all_folds` gave it."""
    return re.sub(r"-f[0-9]+$", "", trial)


def new_name(used: set[str], best: str) -> str:
    """Return an unused trial name, the next number if all names are numbers, and add it to `used`."""
    if all(FOLD_NAME.fullmatch(name) for name in used):
        name = str(max(int(base_name(name)) for name in used) + 1)
    else:
        base = base_name(best)[:30]
        name = next(f"{base}-n{k}" for k in range(1, len(used) + 2)
                    if not {f"{base}-n{k}", f"{base}-n{k}-f1"} & used)
    used.add(name)
    return name
