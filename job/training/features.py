"""Features once: what a frozen backbone makes of the images, computed once for all trials that share it.

With `freeze` and without augmentation the backbone gives the same features of an image in each epoch of each trial that
has its weights, image size and precision. The first of these trials computes them, under a lease as the pack's, and
leaves them in the sweep folder; each trial then trains the head alone.
"""

import functools
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from job.data.batches import Batches
from job.data.features import as_features
from job.data.pack import Passport
from job.errors import BadConfig, BadData, MissingInput
from job.folder.layout import FEATURES, read_parsed
from job.folder.lease import claim, held
from job.folder.patience import patiently
from job.folder.storage import Folder, join
from job.folder.untrusted import bounded_json, check_types, in_range
from job.training.backbone import head_of
from job.training.evaluate import logits_of
from job.training.faults import named_faults
from job.training.machine import Machine
from job.training.state import State
from job.trial import AUGMENTATION, Trial

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
# The features of the last trial of this process: the next trial most often needs the same.
known: dict[tuple[str, str], Tensor] = {}


@dataclass(frozen=True)
class Made:
    """What features/KEY/made.json says of the file of features beside it."""

    name: str
    sha256: str
    num_images: int
    width: int
    dtype: Literal["F32", "BF16", "F16"]


def with_features(sweep: Folder, passport: Passport, trial: Trial, state: State, batches: Batches, machine: Machine,
                  say: Callable[[str], None], pause: Callable[[float], None]) -> Batches:
    """Return the images as features, where the trial can train on them, and turn its model into the head alone.

    A trial resumes on what it began with, images or features. Raises BadData for damaged features, and what `claim`
    raises where another process computes them.
    """
    has_begun = state.epoch > 0 or state.step > 0
    if not can_use_features(trial, state.model) or (has_begun and not state.features):
        return batches
    key = key_of(passport.pack_hash, trial, state.model, machine)
    if has_begun and state.features != key:
        raise BadConfig(f"the checkpoint is of features {state.features}, and the weights now give {key}; delete it to "
                        "restart the trial")
    features_NF = known.get((sweep.uri, key))
    if features_NF is None:
        known.clear()
        make = functools.partial(make_features, sweep, key, state.model, batches, machine, say, pause)
        shape = len(batches.images), int(head_of(state.model).in_features)  # type: ignore[arg-type]
        features_NF = known[sweep.uri, key] = found_or_made(sweep, key, shape, make, say, pause)
    state.features = key
    return train_head(state.model, batches, features_NF)


def can_use_features(trial: Trial, model: nn.Module) -> bool:
    """Return whether each epoch shows the backbone the same images, and the model ends with its head."""
    is_constant = trial.freeze and trial.train_size in (0, trial.image_size) and not any(
        getattr(trial, name) for name in AUGMENTATION)
    return is_constant and isinstance(head_of(model), nn.Linear)


def train_head(model: nn.Module, batches: Batches, features_NF: Tensor) -> Batches:
    """Let the model compute its head alone; its weights keep their names. Return the batches that it reads."""
    head = head_of(model)
    # Its call, because torch would take the layer itself for another part of the model.
    model.forward = head.__call__
    return as_features(batches, features_NF)


def key_of(pack_hash: str, trial: Trial, model: nn.Module, machine: Machine) -> str:
    """Return the name of the features: a hash of the pack, the backbone and its weights, image size and precision.

    Not of the device: a trial that began on a GPU resumes on a CPU with the features that it began with.
    """
    digest, head = hashlib.sha256(), {id(value) for value in head_of(model).state_dict(keep_vars=True).values()}
    for name, value in sorted(model.state_dict(keep_vars=True).items()):
        if id(value) not in head:
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    about = [pack_hash, trial.model, trial.image_size, machine.precision, digest.hexdigest()]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def found_or_made(sweep: Folder, key: str, shape: tuple[int, int], make: Callable[[Callable[[int], None]], None],
                  say: Callable[[str], None], pause: Callable[[float], None]) -> Tensor:
    """Return features_NF, of this shape, from the sweep folder; one process makes them by `make`, others wait."""
    work = f"{FEATURES}/{key}"
    lease = claim(sweep, work, lambda: sweep.exists(f"{work}/made.json"), say, pause=pause)
    if lease:
        with held(lease), named_faults():
            lease.check_deaths()
            if not sweep.exists(f"{work}/made.json"):
                make(lambda done: lease.progress(0, done, shape[0]))
    return patiently(lambda: read_features(sweep, key, shape), say, pause)


def make_features(sweep: Folder, key: str, model: nn.Module, batches: Batches, machine: Machine,
                  say: Callable[[str], None], pause: Callable[[float], None], note: Callable[[int], None]) -> None:
    """Compute the features of all images and write them, the record last, so that whoever finds it finds them whole.

    Raises BadData for features that are not finite.
    """
    num_images, work = len(batches.images), f"{FEATURES}/{key}"
    say(f"the frozen backbone computes the features of {num_images:,} images, once for all trials that share it")
    features_NF = compute_features(model, batches, machine, pause, note)
    if not features_NF.isfinite().all():
        raise BadData(f"the frozen backbone gives features that are not finite in {machine.precision}, so its weights "
                      "hold such numbers, or numbers too large; give other weights, or set precision to fp32")
    data = safetensors.torch.save({"features": features_NF})
    sha256 = hashlib.sha256(data).hexdigest()
    dtype = next(name for name, dtype in DTYPES.items() if dtype == features_NF.dtype)
    made = Made(f"{sha256[:16]}.safetensors", sha256, num_images, features_NF.shape[1], dtype)  # type: ignore[arg-type]
    patiently(lambda: sweep.write(f"{work}/{made.name}", data), say, pause)
    record = (json.dumps(asdict(made), indent=1) + "\n").encode()
    patiently(lambda: sweep.write_once(f"{work}/made.json", record), say, pause)


@torch.inference_mode()
def compute_features(model: nn.Module, batches: Batches, machine: Machine, pause: Callable[[float], None],
                     note: Callable[[int], None]) -> Tensor:
    """Return features_NF of all images, in host memory: what the head reads, in the type in which it reads it."""
    model.eval()
    head, num_done = head_of(model), 0
    taken: list[Tensor] = []
    dtypes: set[torch.dtype] = set()
    hook = head.register_forward_pre_hook(lambda head, inputs: taken.append(inputs[0]))

    def backbone(images_NCHW: Tensor) -> Tensor:
        nonlocal num_done
        pause(0)
        taken.clear()
        logits_NK = model(images_NCHW)
        assert torch.equal(*(found.nan_to_num() for found in (head(taken[0]), logits_NK))), "no head ends the model"
        dtypes.add(taken[0].dtype)
        num_done += len(images_NCHW)
        note(num_done)
        return taken[0]

    try:
        features_NF = logits_of(backbone, batches, torch.arange(len(batches.images)), machine)
    finally:
        hook.remove()
    return features_NF.to(dtypes.pop())


def read_features(sweep: Folder, key: str, shape: tuple[int, int]) -> Tensor:
    """Return features_NF as they lie in the sweep folder; raises BadData unless they have this shape and are whole."""
    record = f"{FEATURES}/{key}/made.json"
    again = f"delete {join(sweep.uri, record)} to compute the features again"
    try:
        made = read_parsed(sweep, record, parse_made)
        name = f"{FEATURES}/{key}/{made.name}"
        features_NF: Tensor = read_parsed(sweep, name, lambda data: parse_features(data, made, shape))
    except ValueError as error:
        raise BadData(f"{join(sweep.uri, f'{FEATURES}/{key}')}: damaged features ({error}); {again}") from None
    except MissingInput as error:
        raise MissingInput(f"{error}; {again}") from None
    return features_NF


def parse_made(data: bytes) -> Made:
    """Return the record of features; raises ValueError, naming the key."""
    found = bounded_json(data)
    if not isinstance(found, dict) or found.keys() != {spec.name for spec in fields(Made)}:
        raise ValueError(f"its keys are not {', '.join(spec.name for spec in fields(Made))}")
    check_types(Made, found)
    made = Made(**found)
    if made.name != f"{made.sha256[:16]}.safetensors" or not made.sha256.isalnum():
        raise ValueError("name is not that of the hash")
    in_range("num_images", made.num_images, 1)
    in_range("width", made.width, 1, 1 << 20)
    return made


def parse_features(data: bytes, made: Made, shape: tuple[int, int]) -> Tensor:
    """Return the features in a file; raises ValueError unless they are those of the record, and of this shape."""
    if hashlib.sha256(data).hexdigest() != made.sha256:
        raise ValueError(f"{made.name} does not have the hash that made.json names")
    try:
        features_NF: Tensor = safetensors.torch.load(data)["features"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{made.name}: {error}") from None
    form = DTYPES[made.dtype], shape
    if (made.num_images, made.width) != shape or (features_NF.dtype, tuple(features_NF.shape)) != form:
        raise ValueError(f"{made.name} holds {features_NF.dtype} {list(features_NF.shape)} for {shape[0]} images of "
                         f"{shape[1]} features")
    if not math.isfinite(features_NF.float().sum().item()):
        raise ValueError(f"{made.name} holds a number that is not finite")
    return features_NF
