"""The machine a trial runs on, and the net that it trains."""

import contextlib
import functools
import io
import json
import os
import pickle
import platform
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import ResNet, ResNet18_Weights, resnet18

from job.errors import BadConfig, BadData, MissingInput
from job.process import keep_freed_memory
from job.training.convolution import speed_up_convolutions
from job.trial import Trial

# What torch.load raises for files that are damaged or something else; found by flipping bytes.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError)
WEIGHTS_FILE = "resnet18-f37072fd.pth"
DOWNLOAD_PAUSES_SECONDS = (1, 5)


@dataclass(frozen=True)
class Machine:
    """Where a trial computes: its device, the device's name, and 'bf16' or 'fp32'."""

    device: torch.device
    name: str
    precision: str

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def choose_machine(precision: str) -> Machine:
    """CUDA where there is a GPU, else the CPU; 'auto' is bf16 where the processor has it in hardware.

    TRIALGRID_DEVICE, cuda or cpu, decides instead; raises BadConfig where it asks for a GPU that is not to be seen.
    """
    wanted = os.environ.get("TRIALGRID_DEVICE", "")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BadConfig("TRIALGRID_DEVICE is cuda, and no GPU is to be seen: check the driver (580 or later), the container's "
                        "runtime (a runtimeClassName on some clusters) and what the pod asks for")
    if wanted != "cpu" and torch.cuda.is_available():
        device, name = torch.device("cuda", torch.cuda.current_device()), torch.cuda.get_device_name()
        leave_default_stream(device)
        has_bf16 = torch.cuda.get_device_capability() >= (8, 0)
    else:
        device, name = torch.device("cpu"), processor_name()
        has_bf16 = cpu_has_bf16()
        keep_freed_memory()
    return Machine(device, name, ("bf16" if has_bf16 else "fp32") if precision == "auto" else precision)


@functools.cache
def leave_default_stream(device: torch.device) -> None:
    """Work on a stream of this process's own from now on: a CUDA graph cannot be made of what the default one does."""
    torch.cuda.set_stream(torch.cuda.Stream(device))


def cpu_facts() -> dict[str, str]:
    """/proc/cpuinfo of the first processor, or nothing where there is none."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {}


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (x86: AVX512-BF16 or AMX; Arm: bf16)."""
    facts = cpu_facts()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set((facts.get("flags", "") + " " + facts.get("Features", "")).split()))


def processor_name() -> str:
    """The CPU's model and the number of threads that torch uses."""
    threads = torch.get_num_threads()
    return f"{cpu_facts().get('model name') or platform.machine()}, {threads} thread{'s' * (threads > 1)}"


def build_model(trial: Trial, num_classes: int, weights: dict[str, Tensor] | None, machine: Machine) -> nn.Module:
    """The trial's net, seeded, on the device, in channels_last order where it convolves.

    `weights` replace the random start, but for a head of another size. Raises BadData, naming the keys, where they are
    not the net's.
    """
    torch.manual_seed(trial.seed)
    model = build_mlp(trial, num_classes) if trial.model == "mlp" else build_resnet18(trial, num_classes)
    if weights is not None:
        load_weights(model, weights, trial)
    if machine.device.type == "cpu" and machine.precision == "bf16":
        speed_up_convolutions(model)
    order = torch.channels_last if trial.model == "resnet18" else torch.preserve_format
    return model.to(machine.device, memory_format=order)  # type: ignore[call-overload, no-any-return]


def build_resnet18(trial: Trial, num_classes: int) -> ResNet:
    """Torchvision's ResNet18, with dropout before its head where the trial wants it."""
    model: ResNet = resnet18(num_classes=num_classes)
    if trial.freeze:
        model.requires_grad_(False)
        model.fc.requires_grad_(True)
    if trial.dropout:
        # Before the head without renaming it: published state dicts still fit.
        model.fc.register_forward_pre_hook(
            lambda head, inputs: (functional.dropout(inputs[0], trial.dropout, training=head.training), *inputs[1:]))
    return model


def build_mlp(trial: Trial, num_classes: int) -> nn.Sequential:
    """The second study's net: flattened pictures, then linear, activation, batch normalisation and dropout a layer."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = 3 * trial.image_size**2
    for size in map(int, trial.hidden.split("-")):
        layers += [nn.Linear(width, size), nn.ReLU() if trial.activation == "relu" else nn.Sigmoid()]
        layers += [nn.BatchNorm1d(size)] if trial.batch_norm else []
        layers += [nn.Dropout(trial.dropout)] if trial.dropout else []
        width = size
    return nn.Sequential(OrderedDict([*((str(i), layer) for i, layer in enumerate(layers)), ("fc", nn.Linear(width, num_classes))]))


def load_weights(model: nn.Module, weights: dict[str, Tensor], trial: Trial) -> None:
    """Put weights into the model, all but a head of another size; raises BadData, naming the keys, where they do not fit."""
    own = model.state_dict()
    weights = {key: value for key, value in weights.items()
               if not (key.startswith("fc.") and key in own and own[key].shape != value.shape)}
    wrong = [key for key, value in weights.items() if key not in own or own[key].shape != value.shape]
    absent = [key for key in own if key not in weights and not key.startswith("fc.")
              and not key.endswith("num_batches_tracked")]
    if wrong or absent:
        raise BadData(f"weights {trial.weights}: not the state dict of a {trial.model}; "
                      f"unknown or of another shape: {', '.join(wrong[:5]) or 'none'}; "
                      f"missing: {', '.join(absent[:5]) or 'none'}")
    model.load_state_dict(weights, strict=False)


def set_training(model: nn.Module, trial: Trial) -> None:
    """Put the model into training mode; a frozen backbone keeps its statistics."""
    model.train()
    if trial.freeze:
        for name, part in model.named_children():
            part.train(name == "fc")


def parse_weights(data: bytes, name: str) -> dict[str, Tensor]:
    """A state dict from a safetensors file or a torch file (read with weights_only: no code is run); raises BadData."""
    try:
        if name.endswith(".safetensors"):
            return safetensors.torch.load(data)
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (*UNREADABLE, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadData(f"weights {name}: not a state dict that can be read safely ({reason})") from None
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise BadData(f"weights {name}: not a state dict; save model.state_dict(), not the model")
    return {key.removeprefix("module."): value for key, value in found.items()}


def imagenet_weights() -> dict[str, Tensor]:
    """Torchvision's ImageNet weights, from its cache (TORCH_HOME) or downloaded there.

    Raises MissingInput, with both ways out, where they cannot be downloaded.
    """
    try:
        return download_patiently()
    except (OSError, *UNREADABLE) as error:
        cache = Path(torch.hub.get_dir(), "checkpoints", WEIGHTS_FILE)
        raise MissingInput(
            f"the ImageNet weights cannot be loaded or downloaded ({error or type(error).__name__}). Either fetch "
            f"{ResNet18_Weights.IMAGENET1K_V1.url} on another machine and give it in the grid's column weights (a path or "
            f"s3:// URI; or put it at {cache}), or set weights to none to start from random weights") from None


def download_patiently() -> dict[str, Tensor]:
    """The weights; a server or a network that fails for the moment is asked again."""
    for pause in DOWNLOAD_PAUSES_SECONDS:
        # torch.hub announces every download on standard error, also one that fails.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(URLError):
            return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))
        time.sleep(pause)
    with contextlib.redirect_stderr(io.StringIO()):
        return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True))


def state_copy(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's weights and statistics, on its device: the host's memory would have to wait for it."""
    return {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in model.state_dict().items()}


def weights_to_bytes(weights: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    """A safetensors file of the weights, with what `job predict` needs to know as one JSON text in its header."""
    # One key, because safetensors writes several in an order that differs from process to process.
    weights = {key: value.cpu() for key, value in weights.items()}
    return bytes(safetensors.torch.save(weights, {"trialgrid": json.dumps(about)}))


def read_about(data: bytes, where: str) -> dict[str, Any]:
    """What `weights_to_bytes` wrote about the weights; raises BadConfig where the file is not one of its."""
    try:
        length = int.from_bytes(data[:8], "little")
        return dict(json.loads(json.loads(data[8:8 + length])["__metadata__"]["trialgrid"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BadConfig(f"{where}: not weights that a trial has left ({type(error).__name__}: {error})") from None
