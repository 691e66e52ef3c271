"""Is the winner real? Paired tests against the best trial, means over seeds, and values beyond the grid's edge."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import pandas as pd

from job.trial import Trial

TEST = "McNemar's exact test, two-sided, on the same validation images"
LEVEL = 0.05
ALIKE_COST = 1.1
REPEATED = ("best_val_acc", "best_val_loss", "test_acc", "last_test_acc", "test_false_negatives", "seconds")
FACTOR_LIMITS = {"lr": (2.0, 10.0), "epochs": (1.25, 2.0)}


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test that two classifiers are equally accurate on the same images.

    only_first, only_second: how many images only that classifier has right. If the two are equally accurate, each of
    these images is a fair coin toss. The p-value is the two-sided binomial probability of a split at least as uneven
    (McNemar 1947, exact form); 1 if they never differ.
    """
    num, least = only_first + only_second, min(only_first, only_second)
    log_half = num * math.log(0.5)
    tail = math.fsum(math.exp(math.lgamma(num + 1) - math.lgamma(k + 1) - math.lgamma(num - k + 1) + log_half)
                     for k in range(least + 1))
    return min(1.0, 2 * tail)


def hits(predictions: pd.DataFrame) -> pd.Series:
    """Return which validation images a trial predicts correctly: image name -> bool."""
    return predictions["label"] == predictions["predicted"]


def baseline_notes(table: pd.DataFrame, predictions: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return notes on the baseline (always predict the commonest class) and on classes that are never predicted."""
    best = next(iter(table[table["rank"] == 1]["trial"].astype(str)), "")
    if best not in predictions:
        return []
    found = predictions[best]
    commonest, count = found["label"].value_counts().index[0], found["label"].value_counts().iloc[0]
    notes = [f"baseline: always predicting {commonest!r} gives validation accuracy {count / len(found):.4f} "
             f"({len(found)} images)"]
    never = sorted(set(found["label"]) - set(found["predicted"]))
    if never:
        notes.append(f"WARNING: the best trial, {best}, never predicts {', '.join(map(repr, never))} in validation")
    return notes


def judge(table: pd.DataFrame, right: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Return the ranked table with the columns `p_vs_best` and `verdict`.

    A verdict is best, same as best (not distinguishable from it), worse, or more accurate (if the trials are ranked by
    another figure than accuracy). Of the best trial and those not distinguishable from it, the cheapest is preferred.
    right: trial -> `hits`. A trial without predictions has no p-value and no verdict.
    """
    table = table.assign(p_vs_best=float("nan"), verdict="")
    ranked = table[table["rank"].notna()]
    if ranked.empty or ranked.iloc[0]["trial"] not in right:
        return table
    best = ranked.iloc[0]
    table.loc[table["rank"] == 1, "verdict"] = "best"
    for index, line in ranked.iloc[1:].iterrows():
        if line["trial"] in right:
            pair = pd.concat([right[best["trial"]], right[line["trial"]]], axis=1, keys=["best", "other"], join="inner")
            only_best = int((pair["best"] & ~pair["other"]).sum())
            only_other = int((pair["other"] & ~pair["best"]).sum())
            p = mcnemar(only_best, only_other)
            table.loc[index, "p_vs_best"] = p
            different = "worse" if only_best > only_other else "more accurate"
            table.loc[index, "verdict"] = "same as best" if p > LEVEL else different
    same = table[table["verdict"].isin(["best", "same as best"])]
    # Training times are noisy: of the trials about as cheap as the cheapest, the highest ranked is preferred.
    cheapest = same[~(same["seconds"] > ALIKE_COST * same["seconds"].min())].index[0]
    if len(same) > 1:
        table.loc[cheapest, "verdict"] = f"{table.loc[cheapest, 'verdict']}, cheapest: preferred"
    return table


def verdict_notes(table: pd.DataFrame) -> list[str]:
    """Return the verdicts in words."""
    if table["p_vs_best"].isna().all():
        return []
    same = table[table["verdict"].str.startswith("same as best")]
    if same.empty:
        return [f"every other trial is distinguishable from the best (p at most {LEVEL:g}, {TEST})"]
    preferred = table[table["verdict"].str.endswith("preferred")].iloc[0]
    num_others = int((table["rank"].notna()).sum()) - 1
    return [f"not distinguishable from the best: trials {', '.join(same['trial'])} ({len(same)} of {num_others}; "
            f"p > {LEVEL:g}, {TEST})",
            f"preferred: trial {preferred['trial']}, the cheapest among these and the best "
            f"({preferred['seconds']:.1f} s of training)"]


def repeats(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and spread over seeds: one line per setting with several seeds; empty if there is none.

    Columns: trials, num_seeds, the settings that vary, then mean and sample standard deviation of each figure.
    """
    settings = [spec.name for spec in fields(Trial) if spec.name in table and spec.name not in ("trial", "seed")]
    ranked = table[table["rank"].notna()]
    figures = [name for name in REPEATED if name in ranked and ranked[name].notna().any()]
    lines = []
    for _, every in ranked.groupby(settings, sort=False, dropna=False):
        # Two trials with the same settings and seed are the same run.
        group = every.drop_duplicates("seed")
        if len(group) > 1:
            line = {"trials": ", ".join(group["trial"]), "num_seeds": len(group)}
            line |= {name: group.iloc[0][name] for name in settings
                     if name in ("lr", "epochs") or ranked[name].nunique() > 1}
            for name in figures:
                values = pd.to_numeric(group[name])
                line |= {f"mean_{name}": values.mean(), f"std_{name}": values.std()}
            lines.append(line)
    return pd.DataFrame(lines)


def repeat_notes(found: pd.DataFrame) -> list[str]:
    """Return the setting with the best mean over seeds, in words."""
    if found.empty:
        return []
    line = found.sort_values("mean_best_val_acc", ascending=False, kind="stable").iloc[0]
    return [f"best mean over seeds: trials {line['trials']}, validation accuracy {line['mean_best_val_acc']:.4f} "
            f"(standard deviation {line['std_best_val_acc']:.4f}); see the sheet Repeats"]


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


def next_grid(table: pd.DataFrame, grid: Sequence[Trial]) -> tuple[list[Trial], list[str]]:
    """Return the trials to try next and the reasons, if the best lr or epochs lies on the edge of the grid.

    The edge is taken over all trials (done, failed, diverged or not yet trained) that differ from the best only in lr,
    epochs, warmup and seed. Fewer epochs are suggested only under the schedule cosine: under the others they are the
    beginning of the same run. More epochs are suggested only if early stopping did not end the best trial.
    """
    ranked = table[table["rank"].notna()]
    if ranked.empty:
        return [], []
    best = as_trial(ranked.iloc[0])
    known = [*grid, *(as_trial(line) for _, line in table.iterrows())]
    same = {name: getattr(best, name) for name in ("trial", "lr", "epochs", "seed", "warmup")}
    alike = [trial for trial in known if replace(trial, **same) == best]
    used = {trial.trial for trial in known}
    trials: list[Trial] = []
    notes = []
    for name in ("lr", "epochs"):
        values, value = [float(getattr(trial, name)) for trial in alike], float(getattr(best, name))
        largest = value == max(values)
        stopped_early = ranked.iloc[0]["epochs_run"] < best.epochs
        if name == "epochs" and (stopped_early if largest else best.schedule != "cosine"):
            continue
        found = [new for v in next_values(name, values, value) if (new := changed(best, name, v, used))]
        if found:
            extreme, values_next = "largest" if largest else "smallest", (getattr(trial, name) for trial in found)
            notes.append(f"the best trial has the {extreme} {name} of the grid, {value:g}: try "
                         f"{' and '.join(format(new, 'g') for new in values_next)} next")
            trials += found
    return trials, notes


def changed(best: Trial, name: str, value: float, used: set[str]) -> Trial | None:
    """Return the best trial with another value and a new name, or None if the field does not allow that value."""
    try:
        return replace(best, **{"trial": new_name(used, best.trial), name: type(getattr(best, name))(value)})
    except ValueError:
        return None


def as_trial(line: pd.Series) -> Trial:
    """Return the Trial of a line of the table."""
    values: dict[str, Any] = {}
    for spec in fields(Trial):
        if spec.name in line and pd.notna(line[spec.name]):
            kind: Any = type(spec.default)
            values[spec.name] = kind(line[spec.name])
    return Trial(**values)


def new_name(used: set[str], best: str) -> str:
    """Return an unused trial name, the next number if all names are numbers, and add it to `used`."""
    if all(name.isdecimal() for name in used):
        name = str(max(map(int, used)) + 1)
    else:
        name = next(f"{best[:34]}-n{k}" for k in range(1, len(used) + 2) if f"{best[:34]}-n{k}" not in used)
    used.add(name)
    return name
