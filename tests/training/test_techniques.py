"""The settings of a training step, each as torch or scikit-learn defines it, and exact over a resume."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from job.data.augment import Draws
from job.data.batches import Batches
from job.training.drawing import count_steps
from job.training.fit import class_weights, fit
from job.training.machine import choose_machine
from job.training.model import build_model
from job.training.state import new_state
from job.trial import Trial
from loops import MLP, never, train


@pytest.mark.parametrize("trial", [
    replace(MLP, image_size=40, dropout=0.3, batch_norm=True, optimizer="adam", noise=0.2, blur=1.0, rotation=20.0,
            shift=0.1),
    replace(MLP, image_size=40, lr=1e-9, epochs=30, stop_monitor="val_loss", stop_min_delta=0.5, stop_patience=3,
            class_weights="balanced", label_smoothing=0.1),
    Trial(trial="1", weights="given.pt", image_size=40, batch_size=8, epochs=2, freeze=True, class_weights="balanced"),
    Trial(trial="1", weights="none", image_size=40, batch_size=8, epochs=2, dropout=0.3, schedule="cosine",
          warmup=0.5)])
def test_every_technique_resumes_exactly_within_an_epoch(batches: Batches, trial: Trial) -> None:
    from job.training.checkpoint import read_checkpoint, restore, state_to_bytes

    machine = choose_machine("auto")
    states = [new_state(trial, build_model(trial, 2, None, machine), machine, "then") for _ in range(3)]
    list(fit(trial, states[0], batches, machine, never))
    list(fit(trial, states[1], batches, machine, lambda step, steps: states[1].epoch == 1 and step == 2))
    assert (states[1].epoch, states[1].step) == (1, 2)
    assert count_steps(len(batches.indices["train"]), trial.batch_size) > 2
    restore(states[2], read_checkpoint(state_to_bytes(states[1], trial, "p", "fp32"), trial, "p", "x"))
    list(fit(trial, states[2], batches, machine, never))
    whole, resumed = states[0].model.state_dict(), states[2].model.state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert [e.val_loss for e in states[0].history] == [e.val_loss for e in states[2].history]


def test_balanced_class_weights_are_scikit_learns(batches: Batches) -> None:
    labels = batches.labels(batches.indices["train"])
    counts = torch.bincount(labels).double()
    found = class_weights(replace(MLP, class_weights="balanced"), batches)
    assert found is not None and torch.allclose(found.double(), len(labels) / (2 * counts))
    assert class_weights(MLP, batches) is None


def one_step_by_hand(trial: Trial, batches: Batches, loss_of: Callable[[Tensor, Tensor], Tensor],
                     optimizer_of: Callable[[Iterable[Tensor]], torch.optim.Optimizer]) -> tuple[Tensor, Tensor]:
    """The head's weights after one step of `fit` and after the same step by torch alone."""
    machine = choose_machine("fp32")
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(Batches):
        def augmented(self, indices: Tensor, draws: Draws) -> Tensor:
            images = super().augmented(indices, draws)
            seen.append((images, self.labels(indices)))
            return images

    model = build_model(trial, 2, None, machine)
    list(fit(trial, new_state(trial, model, machine, "then"), Spy(**vars(batches)), machine, lambda step, steps: True))
    reference = build_model(trial, 2, None, machine)
    optimizer = optimizer_of(reference.parameters())
    reference.train()
    loss_of(reference(seen[0][0]), seen[0][1]).backward()
    optimizer.step()
    return model.get_submodule("fc").weight, reference.get_submodule("fc").weight  # type: ignore[return-value]


def test_each_optimizer_setting_is_torchs_own(batches: Batches) -> None:
    plain = replace(MLP, image_size=40, lr=0.05)
    sgd, adam = replace(plain, weight_decay=0.3), replace(plain, optimizer="adam", weight_decay=0.1)
    for trial, optimizer in ((sgd, lambda w: torch.optim.SGD(w, 0.05, 0.9, weight_decay=0.3)),
                             (adam, lambda w: torch.optim.Adam(w, 0.05, weight_decay=0.1))):
        found, expected = one_step_by_hand(trial, batches, functional.cross_entropy, optimizer)
        assert torch.allclose(found, expected, atol=1e-7)


def test_label_smoothing_and_class_weights_are_in_the_loss(batches: Batches) -> None:
    plain = replace(MLP, image_size=40, lr=0.05)
    weights = class_weights(replace(plain, class_weights="balanced"), batches)

    def weighted(logits: Tensor, labels: Tensor) -> Tensor:
        assert weights is not None
        return (functional.cross_entropy(logits, labels, reduction="none") * weights[labels]).mean()

    def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        return -(0.8 * log_p.gather(1, labels[:, None])[:, 0] + 0.1 * log_p.sum(1)).mean()

    def sgd(w: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(w, 0.05, 0.9)

    for trial, loss in ((replace(plain, class_weights="balanced"), weighted),
                        (replace(plain, label_smoothing=0.2), smoothed)):
        found, expected = one_step_by_hand(trial, batches, loss, sgd)
        plain_step, _ = one_step_by_hand(plain, batches, loss, sgd)
        assert torch.allclose(found, expected, atol=1e-7) and not torch.allclose(found, plain_step, atol=1e-7)


@pytest.mark.parametrize(("images", "size", "steps"), [
    (29, 28, 1), (29, 7, 4), (28, 7, 4), (3, 8, 1), (1, 8, 1), (5, 1, 5), (30, 7, 5)])
def test_lone_last_image_joins_the_batch_before(images: int, size: int, steps: int) -> None:
    assert count_steps(images, size) == steps


def test_batch_normalisation_survives_a_lone_last_image(batches: Batches) -> None:
    trial = replace(MLP, image_size=40, batch_norm=True, batch_size=len(batches.indices["train"]) - 1)
    assert len(train(trial, batches)[2]) == 2
