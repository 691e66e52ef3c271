"""Which labels are likely wrong: confident learning over the images that a model predicts without having seen them.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of Artificial
Intelligence Research 70 (2021). Needs no torch.
"""

import csv
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from job.errors import MissingInput
from job.folder.escape import for_csv
from job.folder.layout import read_parsed, trial_file
from job.folder.storage import Folder
from job.record import PROBABILITY
from job.results.folds import Setting
from job.results.predictions import whole_predictions

COLUMNS = ("rank", "image", "split", "label", "likely_label", "label_probability", "likely_probability")


@dataclass(frozen=True)
class LabelIssues:
    """The images whose labels are likely wrong, the likeliest first, of num_images that were looked at.

    table: rank, image, split, label, likely_label, and the probability that the model gives to each of the two.
    """

    table: pd.DataFrame
    num_images: int

    def notes(self) -> list[str]:
        """Return how many there are, in words."""
        num = len(self.table)
        return [f"{num} of {self.num_images} labels may be wrong (confident learning, on "
                "images that the model has not trained on): label-issues.csv lists them, the likeliest first; look at "
                "an image before you change its label"] if num else []


def find_issues(sweep: Folder, trial: str, setting: Setting | None, classes: Sequence[str]) -> LabelIssues | None:
    """Return the issues by a trial's validation and test images, or by those of all folds of its setting.

    The predictions are read again, because those of many classes are kept without their probabilities. None without
    them.
    """
    parse = functools.partial(whole_predictions, classes=classes)
    names = setting.trials.values() if setting else [trial]
    try:
        found = {name: read_parsed(sweep, trial_file(name, "predictions.csv"), parse) for name in {trial, *names}}
    except (MissingInput, ValueError):
        return None
    parts = [found[name][found[name]["split"] == "val"] for name in names]
    predictions = pd.concat([*parts, found[trial][found[trial]["split"] == "test"]], ignore_index=True)
    return LabelIssues(label_issues(predictions, classes), len(predictions))


def label_issues(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return a table of the images that lie off the diagonal of the confident joint, the largest margin first.

    predictions: a table of `whole_predictions`, of images that the model has not trained on. The threshold of a class
    is the mean probability of the class over the images labelled so. An image is confidently of the likeliest of those
    classes whose threshold it reaches; where that is not its label, the label is an issue. The margin is the
    probability of that class less that of the label.
    """
    probabilities_NK = predictions[[PROBABILITY + name for name in classes]].to_numpy(dtype=float)
    labels_N, places_N = pd.Index(classes).get_indexer(predictions["label"]), np.arange(len(predictions))
    # A class that no image is labelled with is never likely.
    thresholds_K = np.array([probabilities_NK[labels_N == k, k].mean() if (labels_N == k).any() else np.inf
                             for k in range(len(classes))])
    confident_NK = np.where(probabilities_NK >= thresholds_K, probabilities_NK, -1.0)
    likely_N = confident_NK.argmax(1)
    is_issue_N = (confident_NK.max(1) >= 0) & (likely_N != labels_N)
    found = predictions[["image", "split", "label"]].assign(
        likely_label=np.asarray(classes, dtype=object)[likely_N],
        label_probability=probabilities_NK[places_N, labels_N],
        likely_probability=probabilities_NK[places_N, likely_N])[is_issue_N]
    margins = found["likely_probability"] - found["label_probability"]
    found = found.loc[margins.sort_values(ascending=False, kind="stable").index].reset_index(drop=True)
    return found.assign(rank=np.arange(1, len(found) + 1))[list(COLUMNS)]


def issues_csv(issues: LabelIssues) -> bytes:
    """Return label-issues.csv: a line per issue; names that look like formulas are escaped by `for_csv`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([for_csv(cell) if isinstance(cell, str) else cell for cell in line]
                     for line in issues.table.itertuples(index=False))
    return text.getvalue().encode("utf-8", "backslashreplace")
