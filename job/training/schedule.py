"""The learning rate of each step."""

import math

from job.trial import Trial


def lr_of(trial: Trial, epoch: int, step: int = 0, num_steps: int = 1) -> float:
    """Return the learning rate of a step; epochs and steps count from 0.

    The schedule step is torch's StepLR. The schedule cosine equals torch's CosineAnnealingLR at the start of each epoch
    and continues smoothly within it. A linear warm-up reaches lr at the last step of its epochs.
    """
    epochs_done = epoch + step / num_steps
    factor = 1.0
    if trial.schedule == "step":
        factor = trial.gamma ** (epoch // trial.step_size)
    elif trial.schedule == "cosine":
        total = max(trial.epochs - trial.warmup, 1e-9)
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, epochs_done - trial.warmup) / total)))
    warm = min(1.0, (epoch + (step + 1) / num_steps) / trial.warmup) if trial.warmup else 1.0
    return float(trial.lr * factor * warm)
