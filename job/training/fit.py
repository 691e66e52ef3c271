"""The training loop: a generator that yields one `Epoch` after another and never prints, uploads or writes.

All randomness follows from the trial's seed, the epoch and the step. So a state that is saved after any step and
restored later continues as if training had never stopped.
"""

import functools
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from job.data.augment import Draws
from job.data.batches import Batches
from job.record import Epoch
from job.training.drawing import Drawing, count_steps
from job.training.evaluate import evaluate
from job.training.gpu import GpuSteps
from job.training.machine import Machine
from job.training.model import set_training, state_copy
from job.training.schedule import lr_of
from job.training.state import State, seed_of
from job.training.stopping import is_better, why_ended
from job.trial import Trial


def class_weights(trial: Trial, batches: Batches) -> Tensor | None:
    """Return weights_K, float32, from the training labels: n / (K n_k), as scikit-learn's 'balanced'; None for none."""
    if trial.class_weights == "none":
        return None
    counts_K = torch.bincount(batches.labels(batches.indices["train"]))
    return counts_K.sum() / (len(counts_K) * counts_K.float())


def fit(trial: Trial, state: State, batches: Batches, machine: Machine, should_stop: Callable[[int, int], bool],
        say: Callable[[str], None] = lambda text: None) -> Iterator[Epoch]:
    """Train from `state` to the trial's last epoch and yield each finished Epoch, with `state` up to date.

    Training ends early for the reasons of `why_ended`, or when `should_stop(steps done, steps per epoch)` returns True;
    it is called after each step, and `state` then stands within an epoch. `say` gets a message if training runs slower
    than it should.
    """
    advance, drawing = stepper(trial, state, batches, machine, say), Drawing(trial, batches)
    while state.epoch < trial.epochs and not why_ended(trial, state.history):
        if not train_epoch(trial, state, drawing, advance, should_stop):
            return
        yield finish_epoch(trial, state, batches, machine)


Advance = Callable[[Tensor, Draws, float], None]


def stepper(trial: Trial, state: State, batches: Batches, machine: Machine, say: Callable[[str], None]) -> Advance:
    """Return the function that does one step: on images by their indices, augmented by draws, at a learning rate."""
    loss_of = functools.partial(training_loss, weights_K=class_weights(trial, batches), smoothing=trial.label_smoothing)

    def train(images_NCHW: Tensor, labels_N: Tensor) -> None:
        train_step(state, machine, images_NCHW, labels_N, loss_of)

    def advance_on_cpu(indices: Tensor, draws: Draws, lr: float) -> None:
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        train(batches.augmented(indices, draws), batches.labels(indices))

    if machine.device.type == "cuda":
        return GpuSteps(batches, trial.batch_size, train, state.optimizer.param_groups[0]["lr"], say)
    return advance_on_cpu


def train_epoch(trial: Trial, state: State, drawing: Drawing, advance: Advance,
                should_stop: Callable[[int, int], bool]) -> bool:
    """Train the remaining steps of one epoch; return False if `should_stop` returned True after one of them."""
    num_steps = drawing.num_steps
    set_training(state.model, trial)
    started, seconds_before, stopped = time.perf_counter(), state.epoch_seconds, False
    for step, indices_N, draws in drawing.steps(state.epoch, state.step):
        # For noise and dropout, the trial's and the model's own: efficientnet, swin and others drop whole layers.
        torch.manual_seed(seed_of(trial, state.epoch, step))
        advance(indices_N, draws, lr_of(trial, state.epoch, step, num_steps))
        state.step = step + 1
        state.epoch_seconds = seconds_before + time.perf_counter() - started
        stopped = should_stop(state.step, num_steps)
        if stopped:
            break
    # Reading the sum waits for the device, so the clock covers the work and not only the launch of the kernels.
    state.loss_sum.item()
    state.epoch_seconds = seconds_before + time.perf_counter() - started
    return not stopped


def training_loss(logits_NK: Tensor, labels_N: Tensor, weights_K: Tensor | None, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of a batch, each image multiplied by the weight of its class.

    The sum is divided by the number of images, not by the sum of the batch's weights as torch does. So a rare class
    weighs the same in small and in large batches, and the loss of an epoch is the mean over its images.
    """
    total = functional.cross_entropy(logits_NK, labels_N, weights_K, reduction="sum", label_smoothing=smoothing)
    return total / len(labels_N)


def train_step(state: State, machine: Machine, images_NCHW: Tensor, labels_N: Tensor,
               loss_of: Callable[..., Tensor]) -> None:
    """Do one step of the optimizer on the mean loss of a batch; the running sums stay on the device."""
    with machine.autocast():
        logits_NK = state.model(images_NCHW)
    loss = loss_of(logits_NK.float(), labels_N)
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(loss).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.loss_sum += loss.detach().double() * len(labels_N)
    state.num_correct += (logits_NK.argmax(1) == labels_N).sum()


def finish_epoch(trial: Trial, state: State, batches: Batches, machine: Machine) -> Epoch:
    """Validate, record the epoch, keep its weights if it is the best so far, and reset the sums for the next epoch."""
    num_train = len(batches.indices["train"])
    num_steps = count_steps(num_train, trial.batch_size)
    started = time.perf_counter()
    val = evaluate(state.model, batches, "val", machine)
    epoch = Epoch(
        epoch=state.epoch + 1, train_loss=float(state.loss_sum.item() / num_train),
        train_acc=float(state.num_correct.item() / num_train), val_loss=val.loss, val_acc=val.acc,
        # Without the last digits of its arithmetic, 0.00030000000000000003 is 0.0003.
        lr=float(f"{lr_of(trial, state.epoch, num_steps - 1, num_steps):.12g}"),
        images_per_second=num_train / state.epoch_seconds,
        train_seconds=state.epoch_seconds, val_seconds=time.perf_counter() - started)
    state.history.append(epoch)
    if not epoch.diverged and is_better(trial, epoch, state.best):
        state.best, state.best_weights, state.best_evaluations = epoch, state_copy(state.model), {"val": val}
    state.epoch, state.step, state.epoch_seconds = state.epoch + 1, 0, 0.0
    state.loss_sum.zero_()
    state.num_correct.zero_()
    return epoch
