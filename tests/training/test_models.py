"""The table of models is torchvision's: names, image sizes, heads, files of weights and the names in them."""

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models

from job.errors import BadData
from job.models import (
    CLASSIFIERS,
    IMAGENET_SIZES,
    LEAST,
    LEAST_OF_SMALL_STEM,
    MULTIPLES,
    WITH_AUXILIARY_HEADS,
)
from job.training.backbone import WithoutWeights, head_name, load_state
from job.training.convolution import SmallMapConv2d, speed_up_convolutions
from job.training.imagenet import weights_file, weights_url
from job.training.machine import choose_machine
from job.training.model import build_model, new_model, set_training, state_copy
from job.trial import Trial

# One model per family, the quickest to build; those of two heads or two least sizes twice.
FAMILIES = ("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "maxvit_t", "mnasnet0_5",
            "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50",
            "shufflenet_v2_x0_5", "squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn",
            "vit_b_16")
NINE = ("resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf",
        "densenet121", "vit_b_16", "swin_t")


def trial_of(model: str, size: int = 64, **settings: Any) -> Trial:
    return Trial(**{"model": model, "image_size": max(size, MULTIPLES.get(model, 0)), "weights": "none", **settings})


def shapes_of(model: str, num_classes: int) -> dict[str, torch.Size]:
    with WithoutWeights():
        return {key: value.shape for key, value in new_model(trial_of(model), num_classes).state_dict().items()}


def test_table_has_every_classifier_of_torchvision() -> None:
    assert set(list_models(module=torchvision.models)) == {*CLASSIFIERS, *WITH_AUXILIARY_HEADS}


@pytest.mark.parametrize("name", FAMILIES)
def test_head_is_all_that_depends_on_the_number_of_classes(name: str) -> None:
    seven, nine = shapes_of(name, 7), shapes_of(name, 9)
    with WithoutWeights():
        head = head_name(new_model(trial_of(name), 7))
    # The head of a maxvit has no bias.
    assert {key for key in seven if seven[key] != nine[key]} == {f"{head}.weight", f"{head}.bias"} & seven.keys()


@pytest.mark.parametrize(("name", "stem"), [(name, "imagenet") for name in FAMILIES if name not in MULTIPLES]
                         + [("resnet18", "small"), ("resnet50", "small")])
def test_least_size_is_the_smallest_that_one_image_trains_at(name: str, stem: str) -> None:
    """Shapes alone decide, so the models have no weights. A swin takes 4 pixels; the grid's least is 8."""
    with WithoutWeights():
        model = new_model(trial_of(name, 128, stem=stem), 2).to("meta")
    least = LEAST_OF_SMALL_STEM if stem == "small" else LEAST[name]
    model.train()
    assert model(torch.zeros(1, 3, least, least, device="meta")).shape == (1, 2)
    if least > 8:
        with pytest.raises((RuntimeError, ValueError), match=r"more than 1 value|too small|greater than actual input"):
            model(torch.zeros(1, 3, least - 1, least - 1, device="meta"))


@pytest.mark.parametrize("name", MULTIPLES)
def test_fixed_grids_and_the_sizes_of_imagenet_are_those_of_torchvision(name: str) -> None:
    least = MULTIPLES[name]
    with WithoutWeights():
        model = new_model(trial_of(name, 2 * least), 2)
    assert getattr(model, "patch_size", least) == least
    with pytest.raises((RuntimeError, AssertionError)):
        model.to("meta")(torch.zeros(1, 3, least, least, device="meta"))
    if name in IMAGENET_SIZES:
        assert get_model_weights(name).DEFAULT.meta["min_size"] == (IMAGENET_SIZES[name],) * 2


def test_file_names_of_all_weights_end_in_their_hash() -> None:
    assert weights_file(weights_url("resnet18")) == "resnet18-f37072fd.pth"
    assert all(re.fullmatch(r".+-[0-9a-f]{8,10}\.pth", weights_file(weights_url(name))) for name in CLASSIFIERS)


@pytest.mark.parametrize(("name", "now", "then"), [
    ("densenet121", r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2."),
    ("vit_b_16", r"(\.mlp\.)(0|3)\.", lambda found: f"{found[1]}linear_{1 + int(found[2]) // 3}."),
    ("mnasnet0_5", "^", ""), ("squeezenet1_1", "^", "")])
def test_weights_as_torchvision_publishes_them_start_the_model_and_leave_the_head(name: str, now: str,
                                                                                 then: Any) -> None:
    """Names of older versions; 1000 classes; a plain dict, as a safetensors file gives it."""
    torch.manual_seed(7)
    arguments = {"image_size": 64} if name == "vit_b_16" else {}
    source = get_model(name, **arguments).state_dict()
    published = {re.sub(now, then, key): value for key, value in source.items()}
    trial, machine = trial_of(name), choose_machine("fp32")
    found, fresh = build_model(trial, 2, published, machine), build_model(trial, 2, None, machine).state_dict()
    head = head_name(found)
    for key, value in found.state_dict().items():
        wanted = fresh[key] if key.startswith(f"{head}.") else source[key]
        assert torch.equal(value, wanted), key
    again, kept = new_model(trial, 2), state_copy(found)
    load_state(again, kept)
    assert all(torch.equal(value, kept[key]) for key, value in again.state_dict().items())


def test_state_dict_of_another_size_of_a_vit_is_refused_by_its_key() -> None:
    weights = get_model("vit_b_16", image_size=32).state_dict()
    with pytest.raises(BadData, match=r"unknown or of another shape: encoder\.pos_embedding"):
        build_model(trial_of("vit_b_16"), 2, weights, choose_machine("fp32"))


@pytest.mark.parametrize("name", ["efficientnet_b0", "squeezenet1_1", "swin_t"])
def test_frozen_backbone_is_in_evaluation_and_dropout_acts_before_the_head(name: str) -> None:
    trial = trial_of(name, weights="given.pt", freeze=True, dropout=0.5)
    model = build_model(trial, 2, None, choose_machine("fp32"))
    set_training(model, trial)
    head = head_name(model)
    assert {key for key, part in model.named_modules() if part.training} == {head}
    trained = {key for key, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {f"{head}.weight", f"{head}.bias"}
    seen: list[Tensor] = []
    model.get_submodule(head).register_forward_hook(lambda head, inputs, output: seen.append(inputs[0]))
    images = torch.rand(8, 3, 64, 64)
    model(images)
    model.eval()
    model(images)
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0][kept], 2 * seen[1][kept])
    assert 0.4 < float(kept.sum() / (seen[1] != 0).sum()) < 0.6


def test_small_stem_keeps_the_size_of_the_image() -> None:
    model = new_model(trial_of("resnet18", 32, stem="small"), 2)
    sizes: list[tuple[int, ...]] = []
    for name in ("layer1", "layer4"):
        model.get_submodule(name).register_forward_hook(lambda part, inputs, output: sizes.append((*output.shape[2:],)))
    model(torch.rand(2, 3, 32, 32))
    conv = model.get_submodule("conv1")
    assert sizes == [(32, 32), (4, 4)] and isinstance(conv, nn.Conv2d) and conv.bias is None
    usual = new_model(trial_of("resnet18"), 2).state_dict()
    assert {key for key, value in model.state_dict().items() if value.shape != usual[key].shape} == {"conv1.weight"}


@pytest.mark.parametrize("name", NINE)
def test_faster_convolutions_give_the_same_output_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    plain = new_model(trial_of(name), 2).to(memory_format=torch.channels_last).eval()
    ours = copy.deepcopy(plain)
    speed_up_convolutions(ours)
    assert any(isinstance(part, SmallMapConv2d) for part in ours.modules()) == any(
        isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3) and part.groups == 1 for part in plain.modules())
    images = torch.rand(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    logits = [model(images) for model in (plain, ours)]
    assert torch.equal(*logits)
    for found in logits:
        (found * torch.linspace(-1, 1, found.numel()).view(found.shape)).sum().backward()
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-4 * float(one.grad.abs().max()) + 1e-12)


def test_seed_alone_decides_the_weights() -> None:
    trial, machine = trial_of("mobilenet_v3_small"), choose_machine("fp32")
    first, same, other = (build_model(replace(trial, seed=seed), 2, None, machine).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["features.0.0.weight"], other["features.0.0.weight"])
