"""Early stopping is Keras', and the best epoch is chosen by its own figure."""

import random
from dataclasses import replace

import pytest

from job.data.batches import Batches
from job.record import Epoch
from job.training.stopping import is_better, stopped_early, why_best
from job.trial import Trial
from loops import MLP, train


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
    ([5, 4.95, 4.91, 4.0], 2, 0.1, 3),                   # a change within min_delta of the best does not count
    ([5, 4.95, 4.85, 4.8, 4.78], 2, 0.1, 5),             # 4.85 beats 5 by more than 0.1; nothing beats 4.85 by that
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


def test_early_stopping_ends_training(batches: Batches) -> None:
    trial = replace(MLP, image_size=40, lr=1e-9, epochs=30, stop_monitor="val_loss", stop_min_delta=0.5,
                    stop_patience=3)
    assert len(train(trial, batches)[2]) == 4


def test_best_epoch_follows_monitor_and_mode_and_ties_go_to_the_earlier() -> None:
    one, two = history([0.5, 0.4], [0.8, 0.8])
    assert not is_better(Trial(trial="1"), two, one)
    assert is_better(Trial(trial="1", best_monitor="val_loss"), two, one)
    assert not is_better(Trial(trial="1", best_monitor="val_loss", best_mode="max"), two, one)
    assert is_better(Trial(trial="1"), one, None)
