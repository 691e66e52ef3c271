"""Figures of a classifier on a split: loss, accuracy, confusion matrix, precision, recall, F1, ROC AUC, threshold."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from job.data.batches import Batches
from job.errors import OutOfMemory
from job.training.faults import kind_of_error
from job.training.machine import Machine

# Images of 224 pixels per batch; a batch holds fewer larger ones. Larger batches take more memory and are no faster.
EVALUATION_BATCH = {"cpu": 128, "cuda": 512}
# The most images of a size that have fitted in the GPU's memory, if that was fewer.
fitting: dict[int, int] = {}


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and accuracy over some images, with logits_NK and labels_N in the host's memory."""

    loss: float
    acc: float
    logits_NK: Tensor
    labels_N: Tensor


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Batches, split: str, machine: Machine) -> Evaluation:
    """Return loss and accuracy on the centre crops of a split, which must not be empty."""
    model.eval()
    indices = batches.indices[split]
    logits_NK, labels_N = logits_of(model, batches, indices, machine), batches.labels_N[indices]
    loss = functional.cross_entropy(logits_NK.double(), labels_N).item()
    acc = (logits_NK.argmax(1) == labels_N).double().mean().item()
    return Evaluation(loss, acc, logits_NK, labels_N)


def logits_of(model: Callable[[Tensor], Tensor], batches: Batches, indices: Tensor, machine: Machine) -> Tensor:
    """Return logits_NK, in host memory; where a batch does not fit in the GPU's memory, in batches half as large."""
    size, most = batches.image_size, EVALUATION_BATCH[machine.device.type]
    num_images = fitting.get(size, max(1, min(most, most * 224**2 // size**2)))
    while True:
        try:
            with machine.autocast():
                return torch.cat([model(batches.inputs(part)).float() for part in indices.split(num_images)]).cpu()
        except RuntimeError as error:
            if kind_of_error(error) is not OutOfMemory or num_images == 1:
                raise
        # Not within the except: until it ends, the error holds what the batch took.
        num_images = fitting[size] = num_images // 2
        torch.cuda.empty_cache()


def confusion_matrix(predicted_N: Tensor, labels_N: Tensor, num_classes: int) -> Tensor:
    """Return confusion_KK, int64: a row per true class, a column per predicted class."""
    return torch.bincount(labels_N * num_classes + predicted_N, minlength=num_classes**2).view(num_classes, num_classes)


def figures_on_test(test: Evaluation, num_classes: int) -> dict[str, Any]:
    """Return the Row's test figures.

    For two classes they are those of the positive (second) class, with its false negatives; for more, means over the
    classes, with the count of all errors.
    """
    figures = figures_of(confusion_matrix(test.logits_NK.argmax(1), test.labels_N, num_classes), "test_")
    figures |= {"test_loss": test.loss, "test_acc": test.acc}
    if num_classes == 2:
        margins_N, positive_N = positive_margins(test), test.labels_N == 1
        figures |= {"test_roc_auc": roc_auc(margins_N, positive_N),
                    "test_average_precision": average_precision(margins_N, positive_N)}
    return figures


def figures_of(confusion_KK: Tensor, prefix: str) -> dict[str, Any]:
    """Return the figures that follow from a confusion matrix; a ratio whose denominator is 0 counts as 0."""
    hits_K = confusion_KK.diagonal().double()
    precision_K = hits_K / confusion_KK.sum(0).clamp(min=1)
    recall_K = hits_K / confusion_KK.sum(1).clamp(min=1)
    f1_K = 2 * hits_K / (confusion_KK.sum(0) + confusion_KK.sum(1)).clamp(min=1)
    missed_K = confusion_KK.sum(1) - confusion_KK.diagonal()
    is_binary = len(confusion_KK) == 2
    counted = slice(1, 2) if is_binary else slice(None)
    count = "false_negatives" if is_binary else "errors"
    return {
        f"{prefix}acc": (hits_K.sum() / confusion_KK.sum()).item(), f"{prefix}confusion": confusion_KK.tolist(),
        f"{prefix}precision": precision_K[counted].mean().item(), f"{prefix}recall": recall_K[counted].mean().item(),
        f"{prefix}f1": f1_K[counted].mean().item(), f"{prefix}{count}": int(missed_K[counted].sum())}


def positive_margins(evaluation: Evaluation) -> Tensor:
    """Return margins_N, float64: of two logits the second minus the first.

    Its sigmoid is the probability of the positive class. Images are ranked by the margin because the probability rounds
    to 1 for many images of a confident model.
    """
    logits_NK = evaluation.logits_NK.double()
    return logits_NK[:, 1] - logits_NK[:, 0]


def choose_threshold(margins_N: Tensor, positive_N: Tensor, recall: float) -> float:
    """Return a margin that at least the share `recall` of the positive images reaches, and as few others as possible.

    It lies halfway to the next image below, so that a difference in the last bit between batches changes no decision.
    """
    ranked_margins = margins_N[positive_N].sort(descending=True).values
    # 0.55 * 100 is 55.00000000000001; without the small number the recall 0.55 would need 56 of 100 images.
    lowest = ranked_margins[max(1, math.ceil(recall * len(ranked_margins) - 1e-9)) - 1]
    below = margins_N[margins_N < lowest]
    return float((lowest + below.max()) / 2 if len(below) else lowest - 0.5)


def figures_at_threshold(val: Evaluation, test: Evaluation | None, recall: float,
                         temperature: float = 1.0) -> dict[str, Any]:
    """Return, for two classes, the threshold that reaches a recall on validation, and the figures at that threshold.

    `threshold_margin` is a margin of logits, by which is decided; `threshold` the calibrated probability there.
    """
    margins_N, positive_N = positive_margins(val), val.labels_N == 1
    margin = choose_threshold(margins_N, positive_N, recall)
    figures = {"threshold": torch.tensor(margin / temperature).sigmoid().item(), "threshold_margin": margin,
               "val_recall_at_threshold": (margins_N[positive_N] >= margin).double().mean().item()}
    if test:
        confusion_KK = confusion_matrix((positive_margins(test) >= margin).long(), test.labels_N, 2)
        figures |= {f"{name}_at_threshold": value for name, value in figures_of(confusion_KK, "test_").items()}
    return figures


def roc_auc(scores_N: Tensor, positive_N: Tensor) -> float | None:
    """Return the probability that a positive scores higher than a negative, a tie counting half; None without both.

    It is the Mann-Whitney statistic divided by its largest value (Hanley and McNeil 1982).
    """
    num_positive, num_negative = int(positive_N.sum()), int((~positive_N).sum())
    if not num_positive or not num_negative:
        return None
    _, groups, counts = scores_N.unique(sorted=True, return_inverse=True, return_counts=True)
    last_rank = counts.cumsum(0).double()
    ranks_N = (last_rank - (counts.double() - 1) / 2)[groups]
    least_rank_sum = num_positive * (num_positive + 1) / 2
    return float((ranks_N[positive_N].sum() - least_rank_sum) / (num_positive * num_negative))


def average_precision(scores_N: Tensor, positive_N: Tensor) -> float | None:
    """Return the sum over thresholds of precision times gain in recall, as in scikit-learn; None without positives."""
    if not positive_N.any():
        return None
    values, groups = scores_N.unique(sorted=True, return_inverse=True)
    counts_2T = torch.zeros(2, len(values), dtype=torch.float64)
    counts_2T[0].index_add_(0, groups, torch.ones(len(groups), dtype=torch.float64))
    counts_2T[1].index_add_(0, groups, positive_N.double())
    gained = counts_2T[1]
    predicted, hits = counts_2T.flip(1).cumsum(1).flip(1)
    return float((hits / predicted * gained).sum() / positive_N.sum())
