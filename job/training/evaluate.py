"""Figures of a classifier on a split: confusion matrix, precision, recall, F1, false negatives."""

from typing import Any

import torch
from torch import Tensor

from job.training.fit import Evaluation


def confusion_matrix(predicted_N: Tensor, labels_N: Tensor, num_classes: int) -> Tensor:
    """confusion_KK, int64: rows are the true class, columns the predicted one."""
    return torch.bincount(labels_N * num_classes + predicted_N, minlength=num_classes**2).view(num_classes, num_classes)


def figures_on_test(evaluation: Evaluation, num_classes: int) -> dict[str, Any]:
    """The Row's test figures. Two classes: of the positive (second) one; more: means over classes, and all errors.

    A ratio whose denominator is 0 counts as 0.
    """
    confusion_KK = confusion_matrix(evaluation.logits_NK.argmax(1), evaluation.labels_N, num_classes)
    hits_K = confusion_KK.diagonal().double()
    precision_K = hits_K / confusion_KK.sum(0).clamp(min=1)
    recall_K = hits_K / confusion_KK.sum(1).clamp(min=1)
    f1_K = 2 * hits_K / (confusion_KK.sum(0) + confusion_KK.sum(1)).clamp(min=1)
    missed_K = confusion_KK.sum(1) - confusion_KK.diagonal()
    of_interest = slice(1, 2) if num_classes == 2 else slice(None)
    return {
        "test_loss": evaluation.loss, "test_acc": evaluation.acc, "test_confusion": confusion_KK.tolist(),
        "test_precision": precision_K[of_interest].mean().item(), "test_recall": recall_K[of_interest].mean().item(),
        "test_f1": f1_K[of_interest].mean().item(), "test_false_negatives": int(missed_K[of_interest].sum())}
