"""The trial that a bundle is made of: its weights, row and pack, read from the sweep and checked against each other."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from job.data.augment import normalise
from job.data.batches import crop_centers
from job.data.load import shrink
from job.data.pack import Passport, read_passport
from job.data.sizes import resize_side
from job.errors import BadConfig, MissingInput
from job.folder.layout import read_row, trial_file
from job.folder.storage import Folder, join
from job.models import RESNETS
from job.record import Row
from job.results.predict import Predictor, check_weights, load_predictor
from job.training.machine import Machine
from job.training.model import build_model
from job.training.weights import About, parse_weights, read_about


@dataclass(frozen=True)
class Winner:
    """A trial with what its bundle needs. predictor: that of `job predict`; model: its weights in fp32 on a CPU."""

    predictor: Predictor
    about: About
    row: Row
    passport: Passport
    weights: dict[str, Tensor]
    model: nn.Module
    temperature: float

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.predictor.trial

    @property
    def is_in_timm(self) -> bool:
        """Whether timm has this model under the same names: torchvision's resnets (compared with timm 1.0.31)."""
        return self.about.trial.model in RESNETS and self.about.trial.stem == "imagenet"

    @property
    def resize_side(self) -> int:
        """The short side of the image before it is cropped."""
        return resize_side(self.about.trial.image_size)

    @torch.inference_mode()
    def logits(self, pixels_HWC: Tensor, as_trained: bool = False) -> Tensor:
        """Return logits_K, float64, of an image of the pack's short side, computed as `job predict` does, in fp32.

        as_trained: on the device and in the precision of `job predict` itself.
        """
        if self.resize_side < self.about.short_side:
            pixels_HWC = shrink(pixels_HWC, self.resize_side)
        images_NCHW = crop_centers([pixels_HWC], self.about.trial.image_size)
        if not as_trained:
            logits_NK = self.model(normalise(images_NCHW))
        else:
            machine = self.predictor.machine
            with machine.autocast():
                logits_NK = self.predictor.model(normalise(images_NCHW.to(machine.device)))
        return torch.Tensor.double(logits_NK[0].cpu())

    def decide(self, logits_K: Tensor) -> int:
        """Return the index of the class: the likeliest one, or by the threshold if the trial chose one."""
        return self.about.classes.index(self.predictor.decide("", logits_K).label)


def choose_winner(sweep: Folder, trial: str = "") -> Winner:
    """Return this trial, by default the one that `job predict` uses; raises MissingInput if it or its pack is missing.

    Raises BadConfig where weights, row and pack are not of one sweep.
    """
    predictor = load_predictor(sweep, trial)
    name = trial_file(predictor.trial, "best.safetensors")
    where, data = join(sweep.uri, name), sweep.read(name)
    about, weights = read_about(data, where), parse_weights(data, where)
    check_weights(weights, about, where)
    row, passport = read_row(sweep, predictor.trial), read_passport(sweep)
    if row is None:
        raise MissingInput(f"{sweep.uri}: trial {predictor.trial} has no row yet; finish it, or name another --trial")
    if passport is None:
        raise MissingInput(f"{sweep.uri}: there is no pack, and a bundle tells what its data were; restore pack/")
    if row.pack_hash != passport.pack_hash or about.classes != passport.classes:
        raise BadConfig(f"{where}: these weights were trained on another pack than the sweep's; name another --trial, "
                        "or restore the pack")
    machine = Machine(torch.device("cpu"), "", "fp32")
    # The exporter wants the plain order of memory.
    model = build_model(about.trial, len(about.classes), weights, machine).eval().to(
        memory_format=torch.contiguous_format)
    return Winner(predictor, about, row, passport, weights, model, about.temperature or 1.0)
