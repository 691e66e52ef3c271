"""Steps that a thread draws ahead are those drawn when they are needed."""

from dataclasses import replace

import pytest
import torch

from job.data.batches import Batches
from job.training import drawing
from job.training.drawing import Drawing
from job.trial import Trial

TRIAL = Trial(trial="1", lr=0.02, epochs=3, batch_size=3, image_size=40, rotation=20.0, noise=0.1, blur=1.0)


@pytest.mark.parametrize(("trial", "first"), [(TRIAL, 0), (TRIAL, 5), (replace(TRIAL, batch_size=9), 1)])
def test_steps_drawn_ahead_are_the_same(
        batches: Batches, monkeypatch: pytest.MonkeyPatch, trial: Trial, first: int) -> None:
    monkeypatch.setattr(drawing, "BLOCK", 4)
    ahead = Drawing(trial, replace(batches, device=torch.device("cuda", 0)))
    now = Drawing(trial, batches)
    assert ahead.thread and not now.thread
    for epoch in range(3):
        pairs = list(zip(ahead.steps(epoch, first), now.steps(epoch, first), strict=True))
        assert len(pairs) == now.num_steps - first > 0
        for (step, indices, draws), (number, expected, of_step) in pairs:
            assert step == number and torch.equal(indices, expected)
            assert torch.equal(draws.maps_N23, of_step.maps_N23)
            assert draws.noise_N is not None and of_step.noise_N is not None
            assert torch.equal(draws.noise_N, of_step.noise_N)
        first = 0
