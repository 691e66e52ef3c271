"""torchvision's image classifiers, each with a head for our classes."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models import get_model

from job.trial import Trial


def build_backbone(trial: Trial, num_classes: int) -> nn.Module:
    """Return torchvision's classifier of the trial's name, with random weights and a head for so many classes."""
    model: nn.Module = get_model(trial.model, num_classes=num_classes, **size_argument(trial))
    return with_small_stem(model) if trial.stem == "small" else model


def size_argument(trial: Trial) -> dict[str, Any]:
    """Return the argument by which torchvision builds a model for one size of images; nothing for all others."""
    if trial.model.startswith("vit_"):
        return {"image_size": trial.image_size}
    return {"input_size": (trial.image_size, trial.image_size)} if trial.model.startswith("maxvit_") else {}


def with_small_stem(model: Any) -> nn.Module:
    """Return a resnet whose first layers keep the size of the image, as in He et al. 2016, section 4.2, for CIFAR."""
    model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, 1, 1, bias=False)
    # As torchvision begins every convolution of a resnet.
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model  # type: ignore[no-any-return]


def head_name(model: nn.Module) -> str:
    """Return the dotted name of a model's head: its last linear layer or convolution.

    One rule for all: each classifier of torchvision and the mlp register their layers in the order of the forward pass,
    and nothing with weights follows the head (`fc`, `classifier`, `classifier.6`, `head`, `heads.head`; squeezenet's is
    a convolution).
    """
    *_, head = (name for name, part in model.named_modules() if isinstance(part, nn.Linear | nn.Conv2d))
    return str(head)


def head_of(model: nn.Module) -> nn.Module:
    """Return the head."""
    return model.get_submodule(head_name(model))


def load_state(model: nn.Module, weights: Mapping[str, Tensor], strict: bool = True) -> None:
    """Load a state dict whose keys are those of the installed torchvision; raises RuntimeError for others if strict.

    mnasnet refuses a state dict that does not say its version, as none does that comes from a safetensors file.
    """
    state: Any = OrderedDict(weights)
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state, strict=strict)


class WithoutWeights(TorchFunctionMode):
    """A context in which a model of any size is built without memory for its weights, on the device `meta`.

    Under torch.device("meta") a regnet, which computes its widths with tensors, cannot be built.
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})})
