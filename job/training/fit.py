"""The training loop: a generator that yields one `Epoch` after another and never prints, uploads or writes.

All randomness follows from the trial's seed, the epoch and the step, so a state that is saved after any step and
restored continues as if it had never stopped.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from job.data.augment import draw_maps
from job.data.batches import Batches
from job.record import Epoch
from job.training.model import Machine, state_copy
from job.trial import Trial

EVALUATION_BATCH = 128
BLOCK = 64


@dataclass
class State:
    """A trial under way: `epoch` passes are finished, and `step` steps of the next one."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_sum: Tensor
    num_correct: Tensor
    started_at: str
    epoch: int = 0
    step: int = 0
    epoch_seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    best_weights: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and accuracy over some pictures, with logits_NK and labels_N in the host's memory."""

    loss: float
    acc: float
    logits_NK: Tensor
    labels_N: Tensor


def new_state(trial: Trial, model: nn.Module, machine: Machine, started_at: str) -> State:
    """The state before the first step."""
    optimizer = torch.optim.SGD(model.parameters(), trial.lr, trial.momentum, weight_decay=trial.weight_decay)
    zero = torch.zeros((), dtype=torch.float64, device=machine.device)
    return State(model, optimizer, zero, zero.clone(), started_at)


def generator_for(trial: Trial, *parts: object) -> torch.Generator:
    """A generator whose seed is a hash of the trial's seed and the given parts."""
    text = "/".join(map(str, (trial.seed, *parts)))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1)


def lr_of(trial: Trial, epoch: int) -> float:
    """The learning rate of an epoch, counted from 0: torch's StepLR, without its state."""
    return float(trial.lr * trial.gamma ** (epoch // trial.step_size))


def fit(trial: Trial, state: State, batches: Batches, machine: Machine,
        should_stop: Callable[[int, int], bool]) -> Iterator[Epoch]:
    """Train from `state` to the trial's last epoch and yield each finished Epoch, with `state` up to date.

    Ends early after an epoch whose loss is not finite, and where `should_stop(steps done, steps in all)`, asked after
    each step, answers True: then `state` stands within an epoch.
    """
    while state.epoch < trial.epochs and not (state.history and state.history[-1].diverged):
        if not train_epoch(trial, state, batches, machine, should_stop):
            return
        yield finish_epoch(trial, state, batches, machine)


def train_epoch(trial: Trial, state: State, batches: Batches, machine: Machine,
                should_stop: Callable[[int, int], bool]) -> bool:
    """The rest of one epoch's steps; whether it was finished."""
    indices = batches.indices["train"]
    order_N = indices[torch.randperm(len(indices), generator=generator_for(trial, state.epoch, "order"))]
    num_steps = -(-len(order_N) // trial.batch_size)
    for group in state.optimizer.param_groups:
        group["lr"] = lr_of(trial, state.epoch)
    state.model.train()
    started, begun = time.perf_counter(), state.epoch_seconds
    block_pictures = BLOCK * trial.batch_size
    block, maps_N23 = -1, torch.empty(0)
    while state.step < num_steps:
        if state.step // BLOCK != block:
            block = state.step // BLOCK
            sizes_N2 = batches.sizes_N2[order_N[block * block_pictures:(block + 1) * block_pictures]]
            maps_N23 = draw_maps(sizes_N2, trial, generator_for(trial, state.epoch, "maps", block))
        first = state.step * trial.batch_size
        here = slice(first - block * block_pictures, first - block * block_pictures + trial.batch_size)
        train_step(state, batches, machine, order_N[first:first + trial.batch_size], maps_N23[here])
        state.step += 1
        state.epoch_seconds = begun + time.perf_counter() - started
        if should_stop(state.step, num_steps):
            return False
    # Reading the sum waits for the device, so that the clock below covers the work and not only its launch.
    state.loss_sum.item()
    state.epoch_seconds = begun + time.perf_counter() - started
    return True


def train_step(state: State, batches: Batches, machine: Machine, indices: Tensor, maps_N23: Tensor) -> None:
    """One step of SGD on the mean cross-entropy of a batch; the sums stay on the device."""
    images_NCHW, labels_N = batches.images(indices, maps_N23), batches.labels(indices)
    with machine.autocast():
        logits_NK = state.model(images_NCHW)
    loss = functional.cross_entropy(logits_NK.float(), labels_N)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    state.loss_sum += loss.detach().double() * len(labels_N)
    state.num_correct += (logits_NK.argmax(1) == labels_N).sum()


def finish_epoch(trial: Trial, state: State, batches: Batches, machine: Machine) -> Epoch:
    """Validate, record the epoch, keep its weights if it is the best, and make the state ready for the next one."""
    num_train = len(batches.indices["train"])
    started = time.perf_counter()
    val = evaluate(state.model, batches, "val", machine)
    epoch = Epoch(
        epoch=state.epoch + 1, train_loss=float(state.loss_sum.item() / num_train),
        train_acc=float(state.num_correct.item() / num_train), val_loss=val.loss, val_acc=val.acc,
        lr=lr_of(trial, state.epoch), images_per_second=num_train / state.epoch_seconds,
        train_seconds=state.epoch_seconds, val_seconds=time.perf_counter() - started)
    state.history.append(epoch)
    if not epoch.diverged and is_better(trial, epoch, state.best):
        state.best, state.best_weights = epoch, state_copy(state.model)
    state.epoch, state.step, state.epoch_seconds = state.epoch + 1, 0, 0.0
    state.loss_sum.zero_()
    state.num_correct.zero_()
    return epoch


def is_better(trial: Trial, epoch: Epoch, best: Epoch | None) -> bool:
    """Whether an epoch's monitored figure beats the best so far; of equals the earlier stays."""
    if best is None:
        return True
    new, old = getattr(epoch, trial.best_monitor), getattr(best, trial.best_monitor)
    return bool(new > old if trial.monitors_max else new < old)


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Batches, split: str, machine: Machine) -> Evaluation:
    """Loss and accuracy on the centre crops of a split, which must not be empty."""
    model.eval()
    logits, labels = [], []
    for indices in batches.indices[split].split(EVALUATION_BATCH):
        with machine.autocast():
            logits.append(model(batches.images(indices, None)).float())
        labels.append(batches.labels(indices))
    logits_NK, labels_N = torch.cat(logits).cpu(), torch.cat(labels).cpu()
    loss = functional.cross_entropy(logits_NK.double(), labels_N).item()
    acc = (logits_NK.argmax(1) == labels_N).double().mean().item()
    return Evaluation(loss, acc, logits_NK, labels_N)
