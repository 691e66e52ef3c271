"""The models: the study's mlp, a frozen backbone, and dropout before the head."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from job.data.batches import Batches
from job.training.machine import choose_machine
from job.training.model import build_model, set_training
from job.trial import Trial
from loops import MLP, train


def test_mlp_is_the_studys_net_layer_by_layer() -> None:
    trial = replace(MLP, hidden="100-50-25-12-6", dropout=0.2, batch_norm=True)
    model = build_model(trial, 2, None, choose_machine("fp32"))
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (3 * 16 * 16, 100), (100, 50), (50, 25), (25, 12), (12, 6), (6, 2)]
    kinds = [type(layer).__name__ for layer in model.children()]
    assert kinds == ["Flatten", *(["Linear", "ReLU", "BatchNorm1d", "Dropout"] * 5), "Linear"]
    plain = build_model(replace(MLP, hidden="7", activation="sigmoid"), 3, None, choose_machine("fp32"))
    assert [type(layer).__name__ for layer in plain.children()] == ["Flatten", "Linear", "Sigmoid", "Linear"]


def test_frozen_backbone_keeps_weights_and_statistics_and_trains_the_head(batches: Batches) -> None:
    trial = Trial(trial="1", weights="given.pt", image_size=40, batch_size=8, epochs=1, freeze=True)
    model, before, _ = train(trial, batches)
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
    plain = build_model(replace(trial, dropout=0.0), 2, None, choose_machine("fp32"))
    assert set(model.state_dict()) == set(plain.state_dict())
