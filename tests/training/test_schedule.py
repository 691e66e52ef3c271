"""The learning rate of each epoch and step is the one that torch's schedulers give."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from job.training.schedule import lr_of
from job.trial import Trial


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


def test_learning_rate_is_torchs_step_lr() -> None:
    trial = Trial(trial="1", lr=0.3, step_size=3, gamma=0.2)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], trial.lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, trial.step_size, trial.gamma)
    for epoch in range(11):
        assert lr_of(trial, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()
