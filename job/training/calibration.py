"""Confidence that means what it says: one temperature per trial, and how far confidence and accuracy are apart."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from job.training.bins import num_bins
from job.training.evaluate import Evaluation

LOWEST, HIGHEST = 0.05, 20.0
HALVINGS = 60
# Fewer images make bins of a handful, whose accuracy is chance.
LEAST_IMAGES = 30
RESAMPLES, SEED = 1000, 0
# Images of the resamples that are in memory at once.
MOST_PICKS = 2_000_000


def fit_temperature(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Return the temperature T, from 0.05 to 20, at which softmax(logits / T) has the least negative log-likelihood.

    Guo et al. 2017, On Calibration of Modern Neural Networks. In 1/T that likelihood is convex, so its slope is
    bisected, over log T, in float64. A model that is right about every image gets 0.05, the lowest.
    """
    logits_NK = logits_NK.double()
    true_N = logits_NK.gather(1, labels_N[:, None])[:, 0]

    def is_too_low(temperature: float) -> bool:
        expected_N = ((logits_NK / temperature).softmax(1) * logits_NK).sum(1)
        return float((expected_N - true_N).sum()) > 0

    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_too_low(math.exp(middle)) else (low, middle)
    return math.exp((low + high) / 2)


def calibration_figures(val: Evaluation, test: Evaluation | None) -> dict[str, Any]:
    """Return the Row's figures of calibration: the temperature, fitted on validation, and what it does on each split.

    Per split: negative log-likelihood before and after, and after it the Brier score and the expected calibration
    error with its interval. `calibration_note` says why something is missing.
    """
    if not val.logits_NK.isfinite().all() or not (test is None or test.logits_NK.isfinite().all()):
        return {"calibration_note": "a logit is not finite, so nothing is calibrated"}
    temperature, notes = 1.0, []
    if (val.logits_NK.argmax(1) == val.labels_N).all():
        # The likelihood would rise until every image had the probability 1.
        notes.append("no validation image is wrong, so no temperature can be fitted")
    else:
        temperature = fit_temperature(val.logits_NK, val.labels_N)
    figures: dict[str, Any] = {"temperature": temperature}
    for split, found in (("val", val), ("test", test)):
        if found:
            if len(found.labels_N) < LEAST_IMAGES:
                notes.append(f"{split} has {len(found.labels_N)} images, and a calibration error needs {LEAST_IMAGES}")
            logits_NK = found.logits_NK.double()
            calibrated_NK = (logits_NK / temperature).softmax(1)
            error, low, high = calibration_error(calibrated_NK, found.labels_N)
            figures |= {f"{split}_nll": functional.cross_entropy(logits_NK, found.labels_N).item(),
                        f"{split}_nll_calibrated": functional.cross_entropy(logits_NK / temperature,
                                                                            found.labels_N).item(),
                        f"{split}_brier": brier_score(calibrated_NK, found.labels_N),
                        f"{split}_ece": error, f"{split}_ece_low": low, f"{split}_ece_high": high}
    return {**figures, "calibration_note": "; ".join(notes)}


def brier_score(probabilities_NK: Tensor, labels_N: Tensor) -> float:
    """Return the mean over images of the squared errors of all classes' probabilities: 0 to 2 (Brier 1950)."""
    truth_NK = functional.one_hot(labels_N, probabilities_NK.shape[1])
    return float(((probabilities_NK - truth_NK) ** 2).sum(1).mean())


def calibration_error(probabilities_NK: Tensor, labels_N: Tensor) -> tuple[float | None, float | None, float | None]:
    """Return the expected calibration error and its 95% bootstrap interval; None for fewer than 30 images.

    The images are sorted by the probability of the predicted class and cut into bins of equal mass; the error is the
    mean over images of the gap between a bin's mean probability and its accuracy. The interval is that of percentiles
    over 1,000 resamples of the images.
    """
    num_images = len(labels_N)
    if num_images < LEAST_IMAGES:
        return None, None, None
    confidence_N, predicted_N = probabilities_NK.max(1)
    order_N = confidence_N.argsort(stable=True)
    gap_N = ((predicted_N == labels_N).double() - confidence_N)[order_N]
    generator, errors = torch.Generator().manual_seed(SEED), list[Tensor]()
    for num in chunks(RESAMPLES, max(1, MOST_PICKS // num_images)):
        picks_RN = torch.randint(num_images, (num, num_images), generator=generator)
        errors.append(errors_of(picks_RN, gap_N))
    low, high = torch.quantile(torch.cat(errors), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(errors_of(torch.arange(num_images)[None], gap_N)), low, high


def errors_of(picks_RN: Tensor, gap_N: Tensor) -> Tensor:
    """Return errors_R: per resample the mean over its images of the gap of their bin; gap_N: in order of confidence.

    A resample is not sorted: how often each image is in it says where its bins end, which is ten times as fast.
    """
    num_images = len(gap_N)
    counts_RN = torch.zeros(picks_RN.shape, dtype=torch.float64).scatter_add_(
        1, picks_RN, torch.ones((), dtype=torch.float64).expand(picks_RN.shape))
    sums_RN = (counts_RN * gap_N).cumsum(1)
    counts_RN = counts_RN.cumsum(1)
    sizes = [len(part) for part in gap_N.tensor_split(num_bins(num_images))]
    ends_RB = torch.tensor(sizes, dtype=torch.float64).cumsum(0).expand(len(picks_RN), -1).contiguous()
    # The image at which a bin ends may lie with some of its copies in the next one.
    last_RB = torch.searchsorted(counts_RN, ends_RB)
    beyond_RB = counts_RN.gather(1, last_RB) - ends_RB
    until_RB = sums_RN.gather(1, last_RB) - beyond_RB * gap_N[last_RB]
    return until_RB.diff(dim=1, prepend=torch.zeros(len(picks_RN), 1, dtype=torch.float64)).abs().sum(1) / num_images


def chunks(total: int, most: int) -> list[int]:
    """Return numbers of at most `most` that add up to `total`."""
    return [min(most, total - first) for first in range(0, total, most)]
