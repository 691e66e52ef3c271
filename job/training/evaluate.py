"""Figures of a classifier on a split: confusion matrix, precision, recall, F1, ROC AUC, and those at a chosen threshold."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from job.data.batches import Batches
from job.training.machine import Machine

# Images of 224 pixels that are evaluated at once, and fewer larger ones: more are no faster, and take memory.
EVALUATION_BATCH = {"cpu": 128, "cuda": 512}


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and accuracy over some images, with logits_NK and labels_N in the host's memory."""

    loss: float
    acc: float
    logits_NK: Tensor
    labels_N: Tensor


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Batches, split: str, machine: Machine) -> Evaluation:
    """Loss and accuracy on the centre crops of a split, which must not be empty."""
    model.eval()
    most = EVALUATION_BATCH[machine.device.type]
    logits, indices = [], batches.indices[split]
    for here_N in indices.split(max(1, min(most, most * 224**2 // batches.image_size**2))):
        with machine.autocast():
            logits.append(model(batches.centered(here_N)).float())
    logits_NK, labels_N = torch.cat(logits).cpu(), batches.labels_N[indices]
    loss = functional.cross_entropy(logits_NK.double(), labels_N).item()
    acc = (logits_NK.argmax(1) == labels_N).double().mean().item()
    return Evaluation(loss, acc, logits_NK, labels_N)


def confusion_matrix(predicted_N: Tensor, labels_N: Tensor, num_classes: int) -> Tensor:
    """confusion_KK, int64: rows are the true class, columns the predicted one."""
    return torch.bincount(labels_N * num_classes + predicted_N, minlength=num_classes**2).view(num_classes, num_classes)


def figures_on_test(test: Evaluation, num_classes: int) -> dict[str, Any]:
    """The Row's test figures. Two classes: of the positive (second) one; more: means over classes, and all errors."""
    found = figures_of(confusion_matrix(test.logits_NK.argmax(1), test.labels_N, num_classes), "test_")
    found |= {"test_loss": test.loss, "test_acc": test.acc}
    if num_classes == 2:
        scores_N, positive_N = positive_margins(test), test.labels_N == 1
        found |= {"test_roc_auc": roc_auc(scores_N, positive_N), "test_average_precision": average_precision(scores_N, positive_N)}
    return found


def figures_of(confusion_KK: Tensor, prefix: str) -> dict[str, Any]:
    """Figures that follow from a confusion matrix; a ratio whose denominator is 0 counts as 0."""
    hits_K = confusion_KK.diagonal().double()
    precision_K = hits_K / confusion_KK.sum(0).clamp(min=1)
    recall_K = hits_K / confusion_KK.sum(1).clamp(min=1)
    f1_K = 2 * hits_K / (confusion_KK.sum(0) + confusion_KK.sum(1)).clamp(min=1)
    missed_K = confusion_KK.sum(1) - confusion_KK.diagonal()
    of_interest = slice(1, 2) if len(confusion_KK) == 2 else slice(None)
    return {
        f"{prefix}acc": (hits_K.sum() / confusion_KK.sum()).item(), f"{prefix}confusion": confusion_KK.tolist(),
        f"{prefix}precision": precision_K[of_interest].mean().item(), f"{prefix}recall": recall_K[of_interest].mean().item(),
        f"{prefix}f1": f1_K[of_interest].mean().item(), f"{prefix}false_negatives": int(missed_K[of_interest].sum())}


def positive_margins(evaluation: Evaluation) -> Tensor:
    """margins_N, float64: the second logit of two less the first, whose sigmoid is the probability of the positive class.

    Ranked by it rather than by the probability, which rounds to 1 for many images of a sure net.
    """
    logits_NK = evaluation.logits_NK.double()
    return logits_NK[:, 1] - logits_NK[:, 0]


def choose_threshold(margins_N: Tensor, positive_N: Tensor, recall: float) -> float:
    """A margin from which at least the wanted share of the positives lies, and as few other images as that allows.

    Halfway to the next image below, so that a last bit that differs from batch to batch decides nothing.
    """
    ranked = margins_N[positive_N].sort(descending=True).values
    # The small number keeps 0.95 * 20 = 19.000000000000004 from asking for a twentieth.
    lowest = ranked[max(1, math.ceil(recall * len(ranked) - 1e-9)) - 1]
    below = margins_N[margins_N < lowest]
    return float((lowest + below.max()) / 2 if len(below) else lowest - 0.5)


def figures_at_threshold(val: Evaluation, test: Evaluation | None, recall: float) -> dict[str, Any]:
    """For two classes: the threshold chosen on validation for a wanted recall, its recall there, and the test figures at it."""
    margins_N, positive_N = positive_margins(val), val.labels_N == 1
    margin = choose_threshold(margins_N, positive_N, recall)
    found = {"threshold": torch.tensor(margin).sigmoid().item(), "threshold_margin": margin,
             "val_recall_at_threshold": (margins_N[positive_N] >= margin).double().mean().item()}
    if test:
        confusion_KK = confusion_matrix((positive_margins(test) >= margin).long(), test.labels_N, 2)
        found |= {f"{name}_at_threshold": value for name, value in figures_of(confusion_KK, "test_").items()}
    return found


def roc_auc(scores_N: Tensor, positive_N: Tensor) -> float | None:
    """The probability that a positive scores higher than a negative, ties half; None without both.

    The Mann-Whitney statistic over its largest value (Hanley and McNeil 1982).
    """
    num_positive, num_negative = int(positive_N.sum()), int((~positive_N).sum())
    if not num_positive or not num_negative:
        return None
    _, groups, counts = scores_N.unique(sorted=True, return_inverse=True, return_counts=True)
    last_rank = counts.cumsum(0).double()
    ranks_N = (last_rank - (counts.double() - 1) / 2)[groups]
    least = num_positive * (num_positive + 1) / 2
    return float((ranks_N[positive_N].sum() - least) / (num_positive * num_negative))


def average_precision(scores_N: Tensor, positive_N: Tensor) -> float | None:
    """The sum over thresholds of precision times the gain in recall, as scikit-learn defines it; None without positives."""
    if not positive_N.any():
        return None
    values, groups = scores_N.unique(sorted=True, return_inverse=True)
    at_least = torch.zeros(2, len(values), dtype=torch.float64)
    at_least[0].index_add_(0, groups, torch.ones(len(groups), dtype=torch.float64))
    at_least[1].index_add_(0, groups, positive_N.double())
    gained = at_least[1]
    predicted, hits = at_least.flip(1).cumsum(1).flip(1)
    return float((hits / predicted * gained).sum() / positive_N.sum())
