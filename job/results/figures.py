"""Figures of a finished sweep that its page and its workbook show alike: pure functions of tables."""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from job.results.compare import REPETITION
from job.training.exact import share
from job.trial import Trial

if TYPE_CHECKING:
    from job.results.summary import Summary


def per_class(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> pd.DataFrame:
    """Return precision, recall and F1 of each class, in the order of the classes.

    confusion: a row per true class, a column per predicted class. Columns: label, images, precision, precision_low,
    precision_high, recall, recall_low, recall_high, f1. A ratio whose denominator is 0 counts as 0, as in the row, and
    its interval runs from 0 to 1.
    """
    counts_KK = np.asarray(confusion, dtype=np.int64).reshape(len(classes), len(classes))
    lines = []
    for label, hits, actual, predicted in zip(classes, counts_KK.diagonal().tolist(), counts_KK.sum(1).tolist(),
                                              counts_KK.sum(0).tolist(), strict=True):
        precision, recall = share(hits, predicted), share(hits, actual)
        lines.append({"label": label, "images": actual,
                      "precision": precision.value, "precision_low": precision.low, "precision_high": precision.high,
                      "recall": recall.value, "recall_low": recall.low, "recall_high": recall.high,
                      "f1": 2 * hits / max(actual + predicted, 1)})
    return pd.DataFrame(lines)


def confusion_of(predictions: pd.DataFrame, classes: Sequence[str], split: str) -> list[list[int]]:
    """Return the confusion matrix of a split: a row per true class, a column per predicted class."""
    found = predictions[predictions["split"] == split]
    label, predicted = (pd.Categorical(found[name], categories=list(classes)).codes.astype(np.int64)
                        for name in ("label", "predicted"))
    counts = np.bincount(label * len(classes) + predicted, minlength=len(classes) ** 2)
    return [[int(count) for count in line] for line in counts.reshape(len(classes), len(classes))]


def mistakes(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the images that are predicted wrongly, the most confident mistake first.

    predictions: a table of `Summary.predictions`. Columns: image, split, label, predicted, probability (of the
    predicted class).
    """
    wrong = predictions[~predictions["correct"]]
    found = wrong.sort_values("probability", ascending=False, kind="stable").reset_index(drop=True)
    return found[["image", "split", "label", "predicted", "probability"]]


def varied_settings(table: pd.DataFrame) -> list[str]:
    """Return the settings that differ between ranked trials, in the order of the grid's columns; no seeds or folds."""
    return varied_in(table[table["rank"].notna()])


def varied_in(table: pd.DataFrame) -> list[str]:
    """Return the settings that differ between the lines of a table, as `varied_settings` does."""
    return [spec.name for spec in fields(Trial) if spec.name in table and spec.name not in REPETITION
            and table[spec.name].nunique(dropna=False) > 1]


def heat_map(table: pd.DataFrame, figure: str) -> pd.DataFrame | None:
    """Return a figure by the two settings that the grid varies, or None if it does not vary exactly two.

    None also if fewer than a quarter of the cells would hold trials, as of a drawn grid. Rows are the first setting's
    values and columns the second's, both sorted; their names are those of index and columns. A cell is the mean over
    its trials (of several seeds), NaN where no trial is ranked.
    """
    varied = varied_settings(table)
    if len(varied) != 2:
        return None
    ranked = table[table["rank"].notna()]
    if 4 * len(ranked[varied].drop_duplicates()) < ranked[varied].nunique(dropna=False).prod():
        return None
    values = ranked.assign(**{figure: pd.to_numeric(ranked[figure])})
    return values.pivot_table(figure, *varied, aggfunc="mean", dropna=False).sort_index().sort_index(axis=1)


def spent(summary: "Summary") -> dict[str, float]:
    """Return seconds: `trained` (all training and validation), `saved` by trajectories, lost in `failed` trials, ...

    ... and spent on `diverged` ones; the last two are part of `trained`. A shorter trial of a trajectory took nothing
    of its own: its row counts the longer one's seconds up to its own end. The seconds of a trial that continued another
    one count that one's, which are counted once here. A failed trial's are those of the epochs that it finished. What
    the race saved is `race_cost`.
    """
    runs: dict[str, list[float]] = {}
    continued: dict[str, str] = {}
    own: dict[str, float] = {}
    found = {"trained": 0.0, "saved": 0.0, "failed": 0.0, "diverged": 0.0}
    for _, line in summary.table.iterrows():
        seconds = float(line["seconds"]) if pd.notna(line["seconds"]) else 0.0
        if line["status"] == "failed":
            seconds = seconds_of(summary.epochs.get(line["trial"]))
            found["failed"] += seconds
        run, own[line["trial"]] = line["trained_by"] or line["trial"], seconds
        runs.setdefault(run, []).append(seconds)
        continued[run] = line["continued_from"]
    new = {name: max(run) - own.get(continued[name], 0.0) for name, run in runs.items()}
    diverged = summary.table.loc[summary.table["status"] == "diverged", "trial"]
    found["diverged"] = math.fsum(new.get(name, 0.0) for name in diverged)
    found["trained"] = math.fsum(new.values())
    found["saved"] = math.fsum(second for run in runs.values() for second in run) - found["trained"]
    return found


def seconds_of(epochs: pd.DataFrame | None) -> float:
    """Return the seconds of training and validation that a table of epochs has recorded."""
    if epochs is None or epochs.empty:
        return 0.0
    return float(epochs[["train_seconds", "val_seconds"]].apply(pd.to_numeric).fillna(0.0).to_numpy().sum())


def roc_points(scores: Sequence[float], labels: Sequence[bool]) -> pd.DataFrame:
    """Return the ROC curve of two classes, from (0, 0) to (1, 1); empty without images of both.

    scores: probability of the positive class. labels: whether the image is of that class. Columns:
    false_positive_rate, true_positive_rate, threshold (the first one is infinite). A point per different score.
    """
    hits, predicted, thresholds, num_positive = cumulated(scores, labels)
    num_negative = len(scores) - num_positive
    if not num_positive or not num_negative:
        return pd.DataFrame(columns=["false_positive_rate", "true_positive_rate", "threshold"], dtype=float)
    return pd.DataFrame({"false_positive_rate": np.append(0.0, (predicted - hits) / num_negative),
                         "true_positive_rate": np.append(0.0, hits / num_positive),
                         "threshold": np.append(np.inf, thresholds)})


def pr_points(scores: Sequence[float], labels: Sequence[bool]) -> pd.DataFrame:
    """Return the precision-recall curve of two classes, from the highest score down; empty without positive images.

    Columns: recall, precision, threshold. A point per different score.
    """
    hits, predicted, thresholds, num_positive = cumulated(scores, labels)
    if not num_positive:
        return pd.DataFrame(columns=["recall", "precision", "threshold"], dtype=float)
    return pd.DataFrame({"recall": hits / num_positive, "precision": hits / predicted, "threshold": thresholds})


def cumulated(scores: Sequence[float], labels: Sequence[bool]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return, per different score from the highest down: hits and images at or above it; it; and all positives."""
    values, groups = np.unique(np.asarray(scores, dtype=float), return_inverse=True)
    positive = np.asarray(labels, dtype=bool)
    hits = np.bincount(groups, weights=positive, minlength=len(values))[::-1].cumsum()
    predicted = np.bincount(groups, minlength=len(values))[::-1].cumsum()
    return hits, predicted, values[::-1], int(positive.sum())
