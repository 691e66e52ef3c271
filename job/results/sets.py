"""Prediction sets: the classes that an image may have, so that a promised share of images has its own among them.

Split conformal prediction with the score 1 - p (Sadinle et al. 2019; Angelopoulos and Bates 2021): calibrated on
validation, checked on test. Needs no torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from job.errors import BadConfig
from job.record import PROBABILITY
from job.training.exact import Share, share

# That of `job gather`, and of `job predict` where no other is asked for.
COVERAGE = 0.9

# What rounding moves a probability by, at most.
ROUNDING = 1e-9


def least_images(coverage: float) -> int:
    """Return how many validation images a coverage needs: ceil(1 / (1 - coverage)) - 1."""
    return math.ceil(round(1 / (1 - coverage), 9)) - 1


def score_limit(scores_N: "np.ndarray", coverage: float) -> float | None:
    """Return the score that a class may have at most to be in a set: the ceil((n + 1) coverage)-th smallest of n.

    scores_N: 1 - p of each validation image's own class. None for fewer images than `least_images`. Images of the same
    kind as those have their class in the set with at least this probability.
    """
    if len(scores_N) < least_images(coverage):
        return None
    return float(np.sort(scores_N)[math.ceil(round((len(scores_N) + 1) * coverage, 9)) - 1])


def check_coverage(coverage: float) -> None:
    """Raise BadConfig for a share that is not between 0 and 1."""
    if not 0 < coverage < 1:
        raise BadConfig(f"coverage is {coverage:g}: give a share of the images between 0 and 1, such as 0.9")


def in_set(probabilities: Sequence[float], limit: float) -> list[int]:
    """Return the positions of the classes in an image's set, the most probable first; it may be empty."""
    order = sorted(range(len(probabilities)), key=lambda place: -probabilities[place])
    return [place for place in order if 1 - probabilities[place] <= limit + ROUNDING]


@dataclass(frozen=True)
class Sets:
    """The sets of a trial at one coverage.

    limit: see `score_limit`; None, with the reason, if there are too few validation images. num_covered of num_test
    test images have their own class in their set of mean_size classes; both 0 without test images.
    """

    coverage: float
    limit: float | None
    reason: str = ""
    num_covered: int = 0
    num_test: int = 0
    mean_size: float = 0.0

    @property
    def covered(self) -> Share | None:
        """How many test images have their class in their set, with the exact interval; None without test images."""
        return share(self.num_covered, self.num_test) if self.num_test else None

    def __str__(self) -> str:
        if self.limit is None:
            return f"no prediction sets: {self.reason}"
        text = f"prediction sets of coverage {self.coverage:g}, calibrated on validation"
        if not self.covered:
            return f"{text}; without a test split their coverage is not checked"
        return f"{text}: on test the class is in its set for {self.covered}, mean size {self.mean_size:.2f}"


def sets_of(predictions: pd.DataFrame, classes: Sequence[str], coverage: float) -> Sets:
    """Return the sets that a trial's predictions give; the table is that of `predictions_table`."""
    check_coverage(coverage)
    probabilities_NK = predictions[[PROBABILITY + name for name in classes]].to_numpy(dtype=float)
    labels_N = pd.Index(classes).get_indexer(predictions["label"])
    scores_N = 1 - probabilities_NK[np.arange(len(labels_N)), labels_N]
    is_val, is_test = (predictions["split"].to_numpy() == split for split in ("val", "test"))
    limit = score_limit(scores_N[is_val], coverage)
    if limit is None:
        return Sets(coverage, None, f"a coverage of {coverage:g} needs {least_images(coverage)} validation images, and "
                                    f"there are {is_val.sum()}")
    sizes_N = (1 - probabilities_NK[is_test] <= limit + ROUNDING).sum(1)
    num_covered = int((scores_N[is_test] <= limit + ROUNDING).sum())
    return Sets(coverage, limit, "", num_covered, len(sizes_N), float(sizes_N.mean()) if len(sizes_N) else 0.0)
