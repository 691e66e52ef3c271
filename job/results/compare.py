"""Is the winner real? Paired tests against the baseline and the best trial, and means over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import pandas as pd

from job.training.exact import LEVEL, holm, mcnemar, mcnemar_better
from job.trial import Trial

TEST = "McNemar's exact test on the same validation images"
REPEATED = ("best_val_acc", "best_val_loss", "test_acc", "last_test_acc", "test_false_negatives", "test_errors",
            "seconds")
# The settings that repeat a training.
REPETITION = ("trial", "seed", "fold", "folds")
MOST_NAMED = 10
NOT_DISTINGUISHABLE = "not distinguishable"


def hits(predictions: pd.DataFrame) -> pd.Series:
    """Return which validation images a trial predicts correctly: image name -> bool."""
    return validation(predictions)["correct"]


def validation(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions of the validation images, indexed by the image's name."""
    return predictions[predictions["split"] == "val"].set_index("image")


def commonest_label(predictions: pd.DataFrame) -> str:
    """Return the commonest class of validation; if classes tie, the first by name."""
    counts = validation(predictions)["label"].value_counts()
    return str(min(counts[counts == counts.max()].index))


def against_baseline(table: pd.DataFrame, predictions: Mapping[str, pd.DataFrame], commonest: str) -> pd.DataFrame:
    """Return the table with `p_vs_baseline`, `p_vs_baseline_holm` and `beats_baseline` (None where it is not known).

    The baseline always says `commonest`. The test is one-sided, because only a better trial is of use, and its p-value
    is corrected for the number of trials, because the best of many is partly lucky. The race chose among the raced ones
    by the same images, so they count as trials that do not beat the baseline.
    """
    table = table.assign(p_vs_baseline=float("nan"), p_vs_baseline_holm=float("nan"))
    table["beats_baseline"] = pd.Series([None] * len(table), dtype=object)
    indices, p_values, least = [], [], []
    for index, line in table[table["rank"].notna()].iterrows():
        if line["trial"] in predictions:
            found = validation(predictions[line["trial"]])
            only_trial, only_constant = differences(found["correct"], found["label"] == commonest)
            indices.append(index)
            p_values.append(mcnemar_better(only_trial, only_constant))
            least.append(mcnemar_better(only_trial + only_constant, 0))
    num_raced = int(is_raced(table).sum())
    corrections = holm([*p_values, *[1.0] * num_raced], [*least, *[0.0] * num_raced])
    for index, p, corrected in zip(indices, p_values, corrections, strict=False):
        table.loc[index, ["p_vs_baseline", "p_vs_baseline_holm"]] = p, corrected
        table.at[index, "beats_baseline"] = corrected <= LEVEL
    return table


def differences(first: pd.Series, second: pd.Series) -> tuple[int, int]:
    """Return how many images only the first and only the second has right; image name -> bool, images of both."""
    pair = pd.concat([first, second], axis=1, keys=["first", "second"], join="inner")
    return int((pair["first"] & ~pair["second"]).sum()), int((pair["second"] & ~pair["first"]).sum())


def recommended_line(table: pd.DataFrame) -> pd.Series | None:
    """Return the highest ranked line that beats the baseline, or None; `table` is that of `against_baseline`."""
    found = table[table["rank"].notna() & (table["beats_baseline"] == True)]  # noqa: E712 - None is neither.
    return None if found.empty else found.iloc[0]


def judge(table: pd.DataFrame, right: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Return the table of `against_baseline` with the columns `p_vs_best`, `p_vs_best_holm` and `verdict`.

    The best trial is the recommended one; without one there is nothing to compare with. A verdict is best, not
    distinguishable (from it), worse, or more accurate (which a trial can be that ranks lower by another figure than
    accuracy, or does not beat the baseline). It follows from the p-value corrected for the number of the others.
    right: trial -> `hits`. A trial without predictions has no p-value and no verdict.
    """
    table = table.assign(p_vs_best=float("nan"), p_vs_best_holm=float("nan"), verdict="")
    best = recommended_line(table)
    if best is None:
        return table
    table.loc[best.name, "verdict"] = "best"
    others = [(index, *differences(right[best["trial"]], right[line["trial"]]))
              for index, line in table[table["rank"].notna()].drop(best.name).iterrows() if line["trial"] in right]
    p_values = [mcnemar(only_best, only_other) for _, only_best, only_other in others]
    least = [mcnemar(only_best + only_other, 0) for _, only_best, only_other in others]
    for (index, only_best, only_other), p, corrected in zip(others, p_values, holm(p_values, least), strict=True):
        different = "worse" if only_best > only_other else "more accurate"
        table.loc[index, ["p_vs_best", "p_vs_best_holm"]] = p, corrected
        table.loc[index, "verdict"] = NOT_DISTINGUISHABLE if corrected > LEVEL else different
    return table


def verdict_notes(table: pd.DataFrame) -> list[str]:
    """Return the verdicts in words."""
    if table["p_vs_best"].isna().all():
        return []
    best = table[table["verdict"] == "best"].iloc[0]["trial"]
    others = table[table["p_vs_best"].notna()]
    same = others[others["verdict"] == NOT_DISTINGUISHABLE]
    how = f"{LEVEL:g} after Holm's correction for the number of trials, two-sided, {TEST}"
    if same.empty:
        return [f"every other ranked trial is distinguishable from trial {best} (p at most {how})"]
    return [f"not distinguishable from trial {best}: trials {named(list(same['trial']))} "
            f"({len(same)} of {len(others)}; p > {how})"]


def named(trials: Sequence[str]) -> str:
    """Return the names of some trials, of many the first ones and how many more there are."""
    more = len(trials) - MOST_NAMED
    return ", ".join(trials) if more <= 0 else f"{', '.join(trials[:MOST_NAMED])} and {more} more"


def never_notes(trial: str, predictions: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return a warning of the classes that a trial never predicts in validation."""
    if trial not in predictions:
        return []
    found = validation(predictions[trial])
    never = sorted(set(found["label"]) - set(found["predicted"]))
    return [f"WARNING: trial {trial} never predicts {', '.join(map(repr, never))} in validation"] if never else []


def repeats(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and spread over seeds: one line per setting with several seeds; empty if there is none.

    A setting of which the race stopped a seed has no line: the mean of those that it left would be too good. Columns:
    trials, num_seeds, the settings that vary, then mean and sample standard deviation of each figure.
    """
    settings = [spec.name for spec in fields(Trial) if spec.name in table and spec.name not in REPETITION]
    ranked = table[table["rank"].notna()]
    figures = [name for name in REPEATED if name in ranked and ranked[name].notna().any()]
    lines = []
    for _, every in table[table["rank"].notna() | is_raced(table)].groupby(settings, sort=False, dropna=False):
        # Two trials with the same settings and seed are the same run.
        group = every[every["rank"].notna()].drop_duplicates("seed")
        if len(group) > 1 and every["seed"].isin(group["seed"]).all():
            line = {"trials": ", ".join(group["trial"]), "num_seeds": len(group)}
            line |= {name: group.iloc[0][name] for name in settings
                     if name in ("lr", "epochs") or ranked[name].nunique() > 1}
            for name in figures:
                values = pd.to_numeric(group[name])
                line |= {f"mean_{name}": values.mean(), f"std_{name}": values.std()}
            lines.append(line)
    return pd.DataFrame(lines)


def is_raced(table: pd.DataFrame) -> pd.Series:
    """Return which lines are of trials that the race stopped early."""
    return table["status"] == "raced"


def repeat_notes(found: pd.DataFrame) -> list[str]:
    """Return the setting with the best mean over seeds, in words."""
    if found.empty:
        return []
    line = found.sort_values("mean_best_val_acc", ascending=False, kind="stable").iloc[0]
    return [f"best mean over seeds: trials {line['trials']}, validation accuracy {line['mean_best_val_acc']:.4f} "
            f"(standard deviation {line['std_best_val_acc']:.4f}); see the sheet Repeats"]
