"""Images -> class and confidence, by the best weights of the trial that a sweep recommends."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from job.data.augment import normalise
from job.data.batches import crop_centers
from job.data.decode import Rejected, decode
from job.data.load import shrink
from job.data.sizes import resize_side
from job.errors import BadConfig, JobError, MissingInput
from job.folder.layout import trial_file, trials_with
from job.folder.storage import Folder, join, read_uri
from job.results.intact import Damage
from job.results.summary import collect
from job.training.machine import Machine, choose_machine
from job.training.model import build_mlp, build_model, build_resnet18
from job.training.weights import About, parse_weights, read_about


@dataclass(frozen=True)
class Prediction:
    """An image's class and the probability that the model gives it, or the reason why there is none."""

    image: str
    label: str = ""
    confidence: float = 0.0
    error: JobError | Rejected | None = None


@dataclass(frozen=True)
class Predictor:
    """The best weights of one trial, ready to classify images."""

    trial: str
    model: torch.nn.Module
    machine: Machine
    classes: list[str]
    image_size: int
    short_side: int
    threshold: float | None = None
    threshold_margin: float | None = None
    val_recall: float | None = None
    # Why this trial: the recommendation's sentences, none where the user named it.
    why: Sequence[str] = ()
    # The files because of which trials were left out of the choice.
    damaged: Sequence[Damage] = ()

    @torch.inference_mode()
    def predict(self, images: Sequence[str]) -> Iterator[Prediction]:
        """Yield one Prediction per image, in order; each image is processed exactly as the validation images were."""
        for uri in images:
            try:
                pixels_HWC = decode(read_uri(uri), self.short_side)
            except JobError as error:
                yield Prediction(uri, error=error)
                continue
            if isinstance(pixels_HWC, Rejected):
                yield Prediction(uri, error=pixels_HWC)
                continue
            image_HWC = torch.from_numpy(pixels_HWC.copy())
            if resize_side(self.image_size) < self.short_side:
                image_HWC = shrink(image_HWC, resize_side(self.image_size))
            images_NCHW = normalise(crop_centers([image_HWC], self.image_size).to(self.machine.device))
            with self.machine.autocast():
                logits_NK = self.model(images_NCHW)
            yield Prediction(uri, *self.decide(logits_NK[0].double()))

    def decide(self, logits_K: torch.Tensor) -> tuple[str, float]:
        """Return the class and its probability: the likeliest class, or by the threshold if the trial chose one."""
        if self.threshold_margin is None:
            index = int(logits_K.argmax())
        else:
            index = int(logits_K[1] - logits_K[0] >= self.threshold_margin)
        return self.classes[index], float(logits_K.softmax(0)[index])


def load_predictor(sweep: Folder, trial: str = "") -> Predictor:
    """Return the predictor of a trial, by default of the recommended one.

    Raises MissingInput if no trial is recommended, with the reason, and if the trial has no weights.
    """
    damaged: list[Damage] = []
    why: list[str] = []
    if not trial:
        found = collect(sweep)
        damaged, trial, why = found.damaged, found.recommendation.trial, found.recommendation.sentences
        if not trial:
            hint = ("`--trial NAME` classifies by a trial of your choice all the same"
                    if found.table["rank"].notna().any() else
                    f"see the states of the trials: job status {shlex.quote(sweep.uri)}")
            raise MissingInput(f"{sweep.uri}: {' '.join(why)} Nothing is classified; {hint}")
    name = trial_file(trial, "best.safetensors")
    try:
        data = sweep.read(name)
    except MissingInput:
        with_weights = sorted(trials_with(sweep, "best.safetensors"))
        raise MissingInput(f"{sweep.uri}: trial {trial!r} has no best weights; the trials that have them: "
                           f"{', '.join(with_weights) or 'none'}") from None
    where = join(sweep.uri, name)
    about = read_about(data, where)
    weights = parse_weights(data, where)
    check_weights(weights, about, where)
    machine = choose_machine(about.precision)
    model = build_model(about.trial, len(about.classes), weights, machine).eval()
    return Predictor(trial, model, machine, about.classes, about.trial.image_size, about.short_side, about.threshold,
                     about.threshold_margin, about.val_recall, why, damaged)


def check_weights(weights: dict[str, torch.Tensor], about: About, where: str) -> None:
    """Raise BadConfig unless the weights are those of the trial's model, head included, and its images large enough."""
    # On this device a model of any size takes no memory.
    with torch.device("meta"):
        build = build_mlp if about.trial.model == "mlp" else build_resnet18
        expected = build(about.trial, len(about.classes)).state_dict()
    fit = {key: value.shape for key, value in weights.items()} == {key: item.shape for key, item in expected.items()}
    if not fit or resize_side(about.trial.image_size) > about.short_side:
        raise BadConfig(f"{where}: its weights do not fit the settings and classes in its header; delete this file and "
                        "the trial's row.json, then train the trial again")
