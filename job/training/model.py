"""The model that a trial trains: a classifier of torchvision or a fully connected network."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from job.models import MLP
from job.training.backbone import build_backbone, head_of
from job.training.convolution import speed_up_convolutions
from job.training.machine import Machine
from job.training.weights import load_weights
from job.trial import Trial


def build_model(trial: Trial, num_classes: int, weights: dict[str, Tensor] | None, machine: Machine) -> nn.Module:
    """Return the trial's model, seeded, on the device; all but an mlp are in channels_last order.

    `weights` replace the random initial weights, except those of a head of another size. Raises BadData, naming the
    keys, if they do not fit the model.
    """
    torch.manual_seed(trial.seed)
    model = new_model(trial, num_classes)
    if weights is not None:
        load_weights(model, weights, trial)
    if machine.device.type == "cpu" and machine.precision == "bf16":
        speed_up_convolutions(model)
    order = torch.preserve_format if trial.model == MLP else torch.channels_last
    return model.to(machine.device, memory_format=order)  # type: ignore[call-overload, no-any-return]


def new_model(trial: Trial, num_classes: int) -> nn.Module:
    """Return the trial's model with random weights, dropout before its head, and its backbone frozen if asked for."""
    if trial.model == MLP:
        return build_mlp(trial, num_classes)
    model = build_backbone(trial, num_classes)
    head = head_of(model)
    if trial.freeze:
        model.requires_grad_(False)
        head.requires_grad_(True)
    if trial.dropout:
        # A hook leaves the head's name unchanged, so published state dicts still fit.
        head.register_forward_pre_hook(
            lambda head, inputs: (functional.dropout(inputs[0], trial.dropout, training=head.training), *inputs[1:]))
    return model


def build_mlp(trial: Trial, num_classes: int) -> nn.Sequential:
    """Return the second study's model: per hidden layer linear, activation, batch normalisation and dropout."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = 3 * trial.image_size**2
    for size in map(int, trial.hidden.split("-")):
        layers += [nn.Linear(width, size), nn.ReLU() if trial.activation == "relu" else nn.Sigmoid()]
        layers += [nn.BatchNorm1d(size)] if trial.batch_norm else []
        layers += [nn.Dropout(trial.dropout)] if trial.dropout else []
        width = size
    named_layers = [(str(number), layer) for number, layer in enumerate(layers)]
    return nn.Sequential(OrderedDict([*named_layers, ("fc", nn.Linear(width, num_classes))]))


def set_training(model: nn.Module, trial: Trial) -> None:
    """Put the model into training mode; a frozen backbone keeps its statistics and drops nothing."""
    model.train(not trial.freeze)
    if trial.freeze:
        head_of(model).train()


def state_copy(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's weights and statistics, on its device: a copy in host memory would wait for it."""
    return {key: value.detach().clone(memory_format=torch.contiguous_format)
            for key, value in model.state_dict().items()}
