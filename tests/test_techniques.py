"""The second study's techniques, each as its source defines it: early stopping, the mlp, schedules, thresholds, weights."""

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor, nn
from torch.nn import functional

from job.data.augment import Draws
from job.data.batches import Batches, resize_side
from job.data.load import load_batches
from job.data.prepare import ensure_pack
from job.folder.grid import GridError, parse_grid
from job.folder.storage import open_folder
from job.record import Epoch
from job.training.evaluate import Evaluation, average_precision, choose_threshold, figures_at_threshold, roc_auc
from job.training.fit import class_weights, count_steps, fit
from job.training.machine import choose_machine
from job.training.model import build_model, set_training
from job.training.schedule import lr_of
from job.training.state import new_state
from job.training.stopping import is_better, stopped_early, why_best
from job.trial import Trial

MLP = Trial(trial="1", model="mlp", weights="none", image_size=16, batch_size=8, epochs=2)


def history(losses: list[float], accs: list[float] | None = None) -> list[Epoch]:
    return [Epoch(epoch=n, train_loss=1.0, train_acc=0.5, val_loss=loss, val_acc=accs[n - 1] if accs else 0.5)
            for n, loss in enumerate(losses, 1)]


def stop_epoch(trial: Trial, curve: list[Epoch]) -> int | None:
    return next((n for n in range(1, len(curve) + 1) if stopped_early(trial, curve[:n])), None)


@pytest.mark.parametrize(("losses", "patience", "min_delta", "stops"), [
    ([5, 4, 3, 2, 1], 1, 0.0, None),                     # improves all the time
    ([5, 4, 4.1, 4.2, 3], 1, 0.0, 3),                    # the first epoch that does not improve
    ([5, 4, 4.1, 4.2, 3], 2, 0.0, 4),                    # the second in a row
    ([5, 4, 4.1, 3.9, 4.0, 4.1, 1], 2, 0.0, 6),          # an improvement starts the count again
    ([5, 4, 4, 4, 1], 3, 0.0, None),                     # equal is no improvement, but patience outlasts it
    ([5, 4, 4, 4, 4], 3, 0.0, 5),
    ([5, 4.95, 4.91, 4.0], 2, 0.1, 3),                   # changes within min_delta do not count, against the best, not the last
    ([5, 4.95, 4.85, 4.8, 4.78], 2, 0.1, 5),             # 4.85 beats 5 by more than 0.1; 4.8 and 4.78 do not beat 4.85 so
    ([5, 6], 0, 0.0, 2), ([5, 4, 4], 0, 0.0, 3),         # patience 0 stops at once, never after the first epoch
])
def test_early_stopping_is_keras_on_hand_made_curves(losses: list[float], patience: int, min_delta: float,
                                                     stops: int | None) -> None:
    trial = Trial(trial="1", stop_monitor="val_loss", stop_patience=patience, stop_min_delta=min_delta)
    assert stop_epoch(trial, history(losses)) == stops
    rising = Trial(trial="1", stop_monitor="val_acc", stop_patience=patience, stop_min_delta=min_delta)
    assert stop_epoch(rising, history([1.0] * len(losses), [-loss for loss in losses])) == stops


class KerasEarlyStopping:
    """Keras' callback written out from its documentation, with a counter as state."""

    def __init__(self, patience: int, min_delta: float) -> None:
        self.patience, self.min_delta, self.wait, self.best = patience, min_delta, 0, float("inf")

    def stops(self, epoch: int, loss: float) -> bool:
        self.wait += 1
        if loss + self.min_delta < self.best:
            self.best, self.wait = loss, 0
            return False
        return self.wait >= self.patience and epoch > 0


def test_early_stopping_is_keras_on_random_curves() -> None:
    rng = random.Random(0)
    stopped = 0
    for _ in range(300):
        losses = [round(rng.uniform(0, 1), 1) for _ in range(20)]
        patience, min_delta = rng.randint(0, 6), rng.choice([0.0, 0.05, 0.2])
        keras = KerasEarlyStopping(patience, min_delta)
        expected = next((n for n, loss in enumerate(losses, 1) if keras.stops(n - 1, loss)), None)
        trial = Trial(trial="1", stop_monitor="val_loss", stop_patience=patience, stop_min_delta=min_delta)
        assert stop_epoch(trial, history(losses)) == expected
        stopped += expected is not None
    assert stopped > 100


def test_best_checkpoint_goes_its_own_way_and_names_ties() -> None:
    curve = history([0.5, 0.4, 0.3, 0.45], [0.7, 0.9, 0.8, 0.9])
    best = None
    for epoch in curve:
        best = epoch if is_better(Trial(trial="1"), epoch, best) else best
    assert best is curve[1]
    assert why_best(Trial(trial="1"), curve, best) == "highest val_acc, 0.9000; epoch 4 the same, the earlier is kept"
    assert why_best(Trial(trial="1", best_monitor="val_loss"), curve, curve[2]) == "lowest val_loss, 0.3000"


@pytest.fixture(scope="module")
def packed(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Batches:
    sweep = open_folder(str(tmp_path_factory.mktemp("sweep")))
    passport = ensure_pack(sweep, str(shapes), {"short_side": resize_side(40)}, lambda done, total: None)
    return load_batches(sweep, passport, replace(MLP, image_size=40), torch.device("cpu"))


def train(trial: Trial, batches: Batches) -> tuple[nn.Module, dict[str, Tensor], list[Epoch]]:
    machine = choose_machine("fp32")
    model = build_model(trial, 2, None, machine)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = new_state(trial, model, machine, "then")
    return model, before, list(fit(trial, state, batches, machine, lambda step, steps: False))


def test_early_stopping_ends_training(packed: Batches) -> None:
    trial = replace(MLP, image_size=40, lr=1e-9, epochs=30, stop_monitor="val_loss", stop_min_delta=0.5, stop_patience=3)
    assert len(train(trial, packed)[2]) == 4


def test_mlp_is_the_studys_net_layer_by_layer() -> None:
    model = build_model(replace(MLP, hidden="100-50-25-12-6", dropout=0.2, batch_norm=True), 2, None, choose_machine("fp32"))
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (3 * 16 * 16, 100), (100, 50), (50, 25), (25, 12), (12, 6), (6, 2)]
    kinds = [type(layer).__name__ for layer in model.children()]
    assert kinds == ["Flatten", *(["Linear", "ReLU", "BatchNorm1d", "Dropout"] * 5), "Linear"]
    plain = build_model(replace(MLP, hidden="7", activation="sigmoid"), 3, None, choose_machine("fp32"))
    assert [type(layer).__name__ for layer in plain.children()] == ["Flatten", "Linear", "Sigmoid", "Linear"]


def test_frozen_backbone_keeps_weights_and_statistics_and_trains_the_head(packed: Batches) -> None:
    trial = Trial(trial="1", weights="given.pt", image_size=40, batch_size=8, epochs=1, freeze=True)
    model, before, _ = train(trial, packed)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"fc.weight", "fc.bias"}


def test_dropout_before_resnets_head_drops_that_share_in_training_only() -> None:
    trial = Trial(trial="1", weights="none", image_size=40, dropout=0.5)
    model = build_model(trial, 2, None, choose_machine("fp32"))
    seen: list[Tensor] = []
    model.get_submodule("fc").register_forward_hook(lambda head, inputs, output: seen.append(inputs[0]))
    images = torch.rand(8, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    set_training(model, trial)
    model(images)
    model.eval()
    model(images)
    assert 0.4 < float((seen[0] == 0).float().mean()) < 0.65 and float((seen[1] == 0).float().mean()) < 0.05
    assert set(model.state_dict()) == set(build_model(replace(trial, dropout=0.0), 2, None, choose_machine("fp32")).state_dict())


@pytest.mark.parametrize("trial", [
    replace(MLP, image_size=40, dropout=0.3, batch_norm=True, optimizer="adam", noise=0.2, blur=1.0, rotation=20.0, shift=0.1),
    replace(MLP, image_size=40, lr=1e-9, epochs=30, stop_monitor="val_loss", stop_min_delta=0.5, stop_patience=3,
            class_weights="balanced", label_smoothing=0.1),
    Trial(trial="1", weights="given.pt", image_size=40, batch_size=8, epochs=2, freeze=True, class_weights="balanced"),
    Trial(trial="1", weights="none", image_size=40, batch_size=8, epochs=2, dropout=0.3, schedule="cosine", warmup=0.5)])
def test_every_technique_resumes_exactly_within_an_epoch(packed: Batches, trial: Trial) -> None:
    from job.training.checkpoint import read_checkpoint, restore, state_to_bytes

    machine = choose_machine("auto")
    states = [new_state(trial, build_model(trial, 2, None, machine), machine, "then") for _ in range(3)]
    list(fit(trial, states[0], packed, machine, lambda step, steps: False))
    list(fit(trial, states[1], packed, machine, lambda step, steps: states[1].epoch == 1 and step == 2))
    assert (states[1].epoch, states[1].step) == (1, 2) and count_steps(len(packed.indices["train"]), trial.batch_size) > 2
    restore(states[2], read_checkpoint(state_to_bytes(states[1], trial, "p", "fp32"), trial, "p", "x"))
    list(fit(trial, states[2], packed, machine, lambda step, steps: False))
    whole, resumed = states[0].model.state_dict(), states[2].model.state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert [e.val_loss for e in states[0].history] == [e.val_loss for e in states[2].history]


def test_cosine_is_torchs_after_a_linear_warm_up() -> None:
    trial = Trial(trial="1", lr=0.4, epochs=12, schedule="cosine")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], trial.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, trial.epochs)
    for epoch in range(12):
        assert lr_of(trial, epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    warm = replace(trial, warmup=2.0)
    assert [lr_of(warm, 0, step, 4) for step in range(4)] == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert [lr_of(warm, 1, 3, 4), lr_of(warm, 2, 0, 4), lr_of(warm, 7, 0, 4)] == pytest.approx([0.4, 0.4, 0.2])
    assert lr_of(replace(trial, schedule="constant"), 11) == 0.4


def test_balanced_class_weights_are_scikit_learns(packed: Batches) -> None:
    labels = packed.labels(packed.indices["train"])
    counts = torch.bincount(labels).double()
    found = class_weights(replace(MLP, class_weights="balanced"), packed)
    assert found is not None and torch.allclose(found.double(), len(labels) / (2 * counts))
    assert class_weights(MLP, packed) is None


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


def test_each_optimizer_setting_is_torchs_own(packed: Batches) -> None:
    plain = replace(MLP, image_size=40, lr=0.05)
    adam = replace(plain, optimizer="adam", weight_decay=0.1)
    for trial, optimizer in ((replace(plain, weight_decay=0.3), lambda w: torch.optim.SGD(w, 0.05, 0.9, weight_decay=0.3)),
                             (adam, lambda w: torch.optim.Adam(w, 0.05, weight_decay=0.1))):
        found, expected = one_step_by_hand(trial, packed, functional.cross_entropy, optimizer)
        assert torch.allclose(found, expected, atol=1e-7)


def test_label_smoothing_and_class_weights_are_in_the_loss(packed: Batches) -> None:
    plain = replace(MLP, image_size=40, lr=0.05)
    weights = class_weights(replace(plain, class_weights="balanced"), packed)

    def weighted(logits: Tensor, labels: Tensor) -> Tensor:
        assert weights is not None
        return (functional.cross_entropy(logits, labels, reduction="none") * weights[labels]).mean()

    def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        return -(0.8 * log_p.gather(1, labels[:, None])[:, 0] + 0.1 * log_p.sum(1)).mean()

    def sgd(w: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(w, 0.05, 0.9)

    for trial, loss in ((replace(plain, class_weights="balanced"), weighted), (replace(plain, label_smoothing=0.2), smoothed)):
        found, expected = one_step_by_hand(trial, packed, loss, sgd)
        plain_step, _ = one_step_by_hand(plain, packed, loss, sgd)
        assert torch.allclose(found, expected, atol=1e-7) and not torch.allclose(found, plain_step, atol=1e-7)


@pytest.mark.parametrize(("images", "size", "steps"), [
    (29, 28, 1), (29, 7, 4), (28, 7, 4), (3, 8, 1), (1, 8, 1), (5, 1, 5), (30, 7, 5)])
def test_lone_last_image_joins_the_batch_before(images: int, size: int, steps: int) -> None:
    assert count_steps(images, size) == steps


def test_batch_normalisation_survives_a_lone_last_image(packed: Batches) -> None:
    trial = replace(MLP, image_size=40, batch_norm=True, batch_size=len(packed.indices["train"]) - 1)
    assert len(train(trial, packed)[2]) == 2


def evaluation(scores: list[float], positive: list[int]) -> Evaluation:
    p = torch.tensor(scores, dtype=torch.float64)
    return Evaluation(0.0, 0.0, torch.stack([(1 - p).log(), p.log()], 1), torch.tensor(positive))


def test_threshold_gives_the_wanted_recall_on_validation_and_lies_between_images() -> None:
    val = evaluation([0.9, 0.8, 0.6, 0.4, 0.3, 0.7, 0.2, 0.1], [1, 1, 1, 1, 1, 0, 0, 0])
    test = evaluation([0.5, 0.35, 0.2, 0.39, 0.6, 0.1], [1, 1, 1, 0, 0, 0])
    for recall, below, above in ((0.2, 0.8, 0.9), (0.21, 0.7, 0.8), (0.8, 0.3, 0.4), (0.81, 0.2, 0.3), (1.0, 0.2, 0.3)):
        found = figures_at_threshold(val, test, recall)
        assert below < found["threshold"] < above and found["val_recall_at_threshold"] >= recall - 1e-9
        assert torch.tensor(found["threshold_margin"]).sigmoid() == pytest.approx(found["threshold"])
    assert found["test_confusion_at_threshold"] == [[1, 2], [1, 2]] and found["test_false_negatives_at_threshold"] == 1


def test_threshold_is_the_best_of_all_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = torch.from_numpy(rng.integers(0, 12, 40) / 12)
        positive = torch.from_numpy(rng.random(40) < 0.4)
        recall = float(rng.choice([0.5, 0.8, 0.95, 1.0]))
        good = max(t for t in scores.tolist() if (scores[positive] >= t).double().mean() >= recall - 1e-9)
        found = choose_threshold(scores, positive, recall)
        assert torch.equal(scores >= found, scores >= good) and (scores - found).abs().min() > 1e-3


def test_roc_auc_is_mann_whitney_and_average_precision_its_definition_with_ties() -> None:
    rng = np.random.default_rng(0)
    for size, levels in itertools.product((5, 30, 200), (3, 1000)):
        scores = rng.integers(0, levels, size) / levels
        positive = rng.random(size) < 0.4
        positive[:2] = True, False
        statistic = mannwhitneyu(scores[positive], scores[~positive]).statistic
        found = roc_auc(torch.from_numpy(scores), torch.from_numpy(positive))
        assert found == pytest.approx(statistic / positive.sum() / (~positive).sum())
        total, recall_before = 0.0, 0.0
        for threshold in sorted(set(scores), reverse=True):
            chosen = scores >= threshold
            recall = (chosen & positive).sum() / positive.sum()
            total += (recall - recall_before) * (chosen & positive).sum() / chosen.sum()
            recall_before = recall
        assert average_precision(torch.from_numpy(scores), torch.from_numpy(positive)) == pytest.approx(total)
    assert roc_auc(torch.tensor([0.5]), torch.tensor([True])) is None


@pytest.mark.parametrize(("line", "message"), [
    ("model,weights\nmlp,imagenet", "column weights: weights is imagenet, which model mlp has not; set weights to none"),
    ("model\nmlp", "column weights: weights is imagenet, which model mlp has not"),
    ("image_size\n16", "column image_size: image_size is 16; 40 is the least for model resnet18"),
    ("batch_norm\nyes", "column batch_norm: batch_norm has no effect where model is resnet18"),
    ("model,weights,freeze\nmlp,w.pt,yes", "column freeze: freeze has no effect where model is mlp"),
    ("weights,freeze\nnone,yes", "column freeze: freeze keeps the weights that the net begins with, and weights is none"),
    ("stop_patience\n5", "column stop_patience: stop_patience has no effect where stop_monitor is none"),
    ("optimizer,momentum\nadam,0.5", "column momentum: momentum has no effect where optimizer is adam"),
    ("schedule,gamma\ncosine,0.5", "column gamma: gamma has no effect where schedule is cosine"),
    ("hidden\n10-5", "column hidden: hidden has no effect where model is resnet18"),
    ("epochs,warmup\n3,3", "column warmup: warmup is 3; it must be less than epochs"),
    ("model,weights,batch_norm,batch_size\nmlp,none,yes,1", "column batch_size: batch_size is 1; batch_norm needs 2"),
    ("model,weights,hidden\nmlp,none,100x50", "column hidden: hidden is '100x50'"),
    ("freeze\nmaybe", "column freeze: freeze is 'maybe'; yes or no is needed"),
    ("stop_monitor\naccuracy", "column stop_monitor: stop_monitor is 'accuracy'; one of none, val_loss"),
])
def test_settings_that_do_not_go_together_name_their_column(line: str, message: str) -> None:
    with pytest.raises(GridError) as caught:
        parse_grid(line + "\n")
    assert message in str(caught.value)
