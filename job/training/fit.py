"""The training loop: a generator that yields one `Epoch` after another and never prints, uploads or writes.

All randomness follows from the trial's seed, the epoch and the step, so a state that is saved after any step and
restored continues as if it had never stopped.
"""

import functools
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from job.data.augment import Draws, draw
from job.data.batches import Batches
from job.record import Epoch
from job.training.evaluate import evaluate
from job.training.gpu import GpuSteps
from job.training.machine import Machine
from job.training.model import set_training, state_copy
from job.training.schedule import lr_of
from job.training.state import State, generator_for, seed_of
from job.training.stopping import is_better, why_ended
from job.trial import Trial

BLOCK = 64


def class_weights(trial: Trial, batches: Batches) -> Tensor | None:
    """weights_K, float32: n / (K n_k), as scikit-learn's 'balanced', of the training images; None where all count alike."""
    if trial.class_weights == "none":
        return None
    counts_K = torch.bincount(batches.labels(batches.indices["train"]))
    return counts_K.sum() / (len(counts_K) * counts_K.float())


def fit(trial: Trial, state: State, batches: Batches, machine: Machine, should_stop: Callable[[int, int], bool],
        say: Callable[[str], None] = lambda text: None) -> Iterator[Epoch]:
    """Train from `state` to the trial's last epoch and yield each finished Epoch, with `state` up to date.

    Ends early for the reasons of `why_ended`, and where `should_stop(steps done, steps in all)`, asked after each step,
    answers True: then `state` stands within an epoch. `say` is told of what makes it slower than it should be.
    """
    advance = stepper(trial, state, batches, machine, say)
    while state.epoch < trial.epochs and not why_ended(trial, state.history):
        if not train_epoch(trial, state, batches, advance, should_stop):
            return
        yield finish_epoch(trial, state, batches, machine)


Advance = Callable[[Tensor, Draws, float], None]


def stepper(trial: Trial, state: State, batches: Batches, machine: Machine, say: Callable[[str], None]) -> Advance:
    """What does one step on the images of these indices, augmented as drawn, at this learning rate."""
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


def train_epoch(trial: Trial, state: State, batches: Batches, advance: Advance, should_stop: Callable[[int, int], bool]) -> bool:
    """The rest of one epoch's steps; whether it was finished."""
    indices = batches.indices["train"]
    order_N = indices[torch.randperm(len(indices), generator=generator_for(trial, state.epoch, "order"))]
    num_steps = count_steps(len(order_N), trial.batch_size)
    set_training(state.model, trial)
    started, begun, stopped = time.perf_counter(), state.epoch_seconds, False
    for step, here_N, draws in steps_of(trial, state, batches, order_N):
        if trial.noise or trial.dropout:
            torch.manual_seed(seed_of(trial, state.epoch, step))
        advance(here_N, draws, lr_of(trial, state.epoch, step, num_steps))
        state.step = step + 1
        state.epoch_seconds = begun + time.perf_counter() - started
        stopped = should_stop(state.step, num_steps)
        if stopped:
            break
    # Reading the sum waits for the device, so that the clock below covers the work and not only its launch.
    state.loss_sum.item()
    state.epoch_seconds = begun + time.perf_counter() - started
    return not stopped


def steps_of(trial: Trial, state: State, batches: Batches, order_N: Tensor) -> Iterator[tuple[int, Tensor, Draws]]:
    """The epoch's steps from the state's on: number, indices and draws, the draws made a block of steps at a time."""
    size, num_steps = trial.batch_size, count_steps(len(order_N), trial.batch_size)
    for block in range(state.step // BLOCK * BLOCK, num_steps, BLOCK):
        end = min(block + BLOCK, num_steps)
        here_N = order_N[block * size:len(order_N) if end == num_steps else end * size]
        draws = draw(batches.sizes_N2[here_N], trial, generator_for(trial, state.epoch, "draws", block))
        for step in range(max(block, state.step), end):
            of_step = slice((step - block) * size, None if step == num_steps - 1 else (step - block + 1) * size)
            yield step, here_N[of_step], draws.part(of_step)


def count_steps(num_images: int, batch_size: int) -> int:
    """The steps of an epoch.

    A single image that would be left over joins the last batch: batch normalisation has no deviation of one.
    """
    whole, rest = divmod(num_images, batch_size)
    return whole + (rest > 1 or whole == 0)


def training_loss(logits_NK: Tensor, labels_N: Tensor, weights_K: Tensor | None, smoothing: float) -> Tensor:
    """The mean cross-entropy of a batch, each image times the weight of its class.

    Divided by the number of images, not by the sum of the batch's weights as torch would: so small batches weigh a rare
    class as much as large ones, and the epoch's mean is the mean over its images.
    """
    total = functional.cross_entropy(logits_NK, labels_N, weights_K, reduction="sum", label_smoothing=smoothing)
    return total / len(labels_N)


def train_step(state: State, machine: Machine, images_NCHW: Tensor, labels_N: Tensor, loss_of: Callable[..., Tensor]) -> None:
    """One step of the optimizer on the mean loss of a batch; the sums stay on the device."""
    with machine.autocast():
        logits_NK = state.model(images_NCHW)
    loss = loss_of(logits_NK.float(), labels_N)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    state.loss_sum += loss.detach().double() * len(labels_N)
    state.num_correct += (logits_NK.argmax(1) == labels_N).sum()


def finish_epoch(trial: Trial, state: State, batches: Batches, machine: Machine) -> Epoch:
    """Validate, record the epoch, keep its weights if it is the best, and make the state ready for the next one."""
    num_train = len(batches.indices["train"])
    num_steps = count_steps(num_train, trial.batch_size)
    started = time.perf_counter()
    val = evaluate(state.model, batches, "val", machine)
    epoch = Epoch(
        epoch=state.epoch + 1, train_loss=float(state.loss_sum.item() / num_train),
        train_acc=float(state.num_correct.item() / num_train), val_loss=val.loss, val_acc=val.acc,
        lr=lr_of(trial, state.epoch, num_steps - 1, num_steps), images_per_second=num_train / state.epoch_seconds,
        train_seconds=state.epoch_seconds, val_seconds=time.perf_counter() - started)
    state.history.append(epoch)
    if not epoch.diverged and is_better(trial, epoch, state.best):
        state.best, state.best_weights, state.best_evaluations = epoch, state_copy(state.model), {"val": val}
    state.epoch, state.step, state.epoch_seconds = state.epoch + 1, 0, 0.0
    state.loss_sum.zero_()
    state.num_correct.zero_()
    return epoch
