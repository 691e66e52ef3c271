"""The training state of a trial, which a checkpoint holds, and the seeds of everything random in the trial."""

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from job.record import Epoch
from job.training.evaluate import Evaluation
from job.training.machine import Machine
from job.trial import Trial


@dataclass
class State:
    """A trial in training: `epoch` epochs are finished, and `step` steps of the next one.

    scaler: scales the loss in fp16, whose smallest gradients would be 0 otherwise; elsewhere it does nothing. features:
    the name of the features that it trains on (job.training.features); '' for images. continued_from: the shorter trial
    whose last checkpoint it began from; '' if it began with initial weights.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loss_sum: Tensor
    num_correct: Tensor
    started_at: str
    epoch: int = 0
    step: int = 0
    epoch_seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    best_weights: dict[str, Tensor] | None = None
    best_evaluations: "dict[str, Evaluation]" = field(default_factory=dict)
    features: str = ""
    continued_from: str = ""


def new_state(trial: Trial, model: nn.Module, machine: Machine, started_at: str) -> State:
    """Return the state before the first step."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    on_gpu = machine.device.type == "cuda"
    # On a GPU one kernel updates all weights, and a CUDA graph can read the learning rate from a tensor. On a CPU both
    # are slower.
    lr = torch.tensor(trial.lr, device=machine.device) if on_gpu else trial.lr
    optimizer: torch.optim.Optimizer
    if trial.optimizer == "adam":
        optimizer = torch.optim.Adam(weights, lr, weight_decay=trial.weight_decay, fused=on_gpu, capturable=on_gpu)
        # Adam would warn about the warm-up steps, which run without a graph on purpose.
        optimizer._warned_capturable_if_run_uncaptured = True
    else:
        optimizer = torch.optim.SGD(weights, lr, trial.momentum, weight_decay=trial.weight_decay, fused=on_gpu)
    zero = torch.zeros((), dtype=torch.float64, device=machine.device)
    scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.precision == "fp16")
    return State(model, optimizer, scaler, zero, zero.clone(), started_at)


def seed_of(trial: Trial, *parts: object) -> int:
    """Return a seed: a hash of the trial's seed and the given parts."""
    text = "/".join(map(str, (trial.seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator_for(trial: Trial, *parts: object) -> torch.Generator:
    """Return a generator seeded by `seed_of`."""
    return torch.Generator().manual_seed(seed_of(trial, *parts))
