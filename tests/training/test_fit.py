"""The training loop: exact over a resume, seeded, every image once per epoch, and ended by divergence."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from job.data.augment import Draws, draw
from job.data.batches import Batches
from job.data.pack import Passport
from job.folder.storage import Folder
from job.record import Epoch
from job.training.checkpoint import read_checkpoint, restore, state_to_bytes
from job.training.fit import fit
from job.training.state import State
from loops import PACK, TRIAL, begin, never


def same_weights(one: State, other: State) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def timeless(epochs: list[Epoch]) -> list[Epoch]:
    return [replace(epoch, images_per_second=None, train_seconds=None, val_seconds=None) for epoch in epochs]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_state_saved_after_any_step_continues_as_if_never_stopped(
        packed: tuple[Folder, Passport], precision: str) -> None:
    trial = replace(TRIAL, precision=precision)
    machine, batches, whole = begin(packed, trial)
    list(fit(trial, whole, batches, machine, never))
    assert len(whole.history) == 3 and whole.best_weights
    steps = -(-len(batches.indices["train"]) // trial.batch_size)
    for stop_epoch, stop_step in ((0, 1), (1, steps), (1, 2), (2, 1)):
        _, _, first = begin(packed, trial)

        def stop(step: int, _: int, here: State = first, at: tuple[int, int] = (stop_epoch, stop_step)) -> bool:
            return (here.epoch, step) == at

        list(fit(trial, first, batches, machine, stop))
        saved = read_checkpoint(state_to_bytes(first, trial, PACK, precision), trial, PACK, "last.pt")
        _, _, second = begin(packed, trial)
        restore(second, saved)
        assert (second.epoch, second.step) == (stop_epoch, stop_step)
        list(fit(trial, second, batches, machine, never))
        assert same_weights(whole, second)
        assert timeless(second.history) == timeless(whole.history)
        assert second.best_weights
        assert all(torch.equal(whole.best_weights[key], value) for key, value in second.best_weights.items())


def test_another_seed_is_another_trial(packed: tuple[Folder, Passport]) -> None:
    losses = set()
    for seed in (0, 0, 1):
        trial = replace(TRIAL, seed=seed, epochs=1)
        machine, batches, state = begin(packed, trial)
        losses.add(next(fit(trial, state, batches, machine, never)).train_loss)
    assert len(losses) == 2


def test_every_epoch_sees_every_training_image_once_in_another_order(packed: tuple[Folder, Passport]) -> None:
    machine, batches, state = begin(packed)
    seen: list[list[int]] = [[]]

    class Spy(Batches):
        def augmented(self, indices: Tensor, draws: Draws) -> Tensor:
            seen[-1].extend(indices.tolist())
            return super().augmented(indices, draws)

        def centered(self, indices: Tensor) -> Tensor:
            seen[-1].extend(indices.tolist())
            return super().centered(indices)

    spy = Spy(**vars(batches))
    for _ in fit(replace(TRIAL, epochs=2), state, spy, machine, never):
        seen.append([])
    train, val = batches.indices["train"].tolist(), batches.indices["val"].tolist()
    first, second = seen[0][:len(train)], seen[1][:len(train)]
    assert sorted(first) == sorted(second) == train and first != second
    assert seen[0][len(train):] == val and not set(train) & set(val)


def test_training_sees_the_same_part_of_an_image_at_train_size_and_validation_sees_image_size(
        packed: tuple[Folder, Passport]) -> None:
    trial = replace(TRIAL, epochs=1, crop=0, flip=0)
    machine, batches, state = begin(packed, trial)
    batches, seen = replace(batches, train_size=32), []
    state.model.register_forward_pre_hook(lambda model, inputs: seen.append((model.training, *inputs[0].shape[2:])))
    list(fit(trial, state, batches, machine, never))
    assert set(seen) == {(True, 32, 32), (False, 40, 40)}
    indices = batches.indices["train"]
    drawn = draw(batches.sizes_N2[indices], trial, torch.manual_seed(0))
    small, whole = batches.augmented(indices, drawn), batches.centered(indices)
    expected = functional.interpolate(whole, (32, 32), mode="bilinear", align_corners=False)
    assert torch.allclose(small, expected, atol=1e-4)


def test_diverging_trial_ends_at_the_epoch_that_diverged(packed: tuple[Folder, Passport]) -> None:
    trial = replace(TRIAL, lr=1e18, epochs=6, precision="fp32")
    machine, batches, state = begin(packed, trial)
    epochs = list(fit(trial, state, batches, machine, never))
    assert epochs[-1].diverged and len(epochs) < 6
    assert not any(epoch.diverged for epoch in epochs[:-1])
