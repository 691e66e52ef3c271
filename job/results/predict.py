"""Images -> class, confidence and prediction set, by the best weights of the trial that a sweep recommends."""

import functools
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from job.data.augment import normalise
from job.data.batches import crop_centers
from job.data.image_file.decode import Rejected
from job.data.load import shrink
from job.data.named import Named
from job.data.sizes import resize_side
from job.data.stream import Pixels, decoded
from job.errors import BadConfig, JobError, MissingInput
from job.folder.layout import read_parsed, trial_file, trials_with
from job.folder.storage import Folder, join
from job.record import Row
from job.results.intact import Damage, intact_row
from job.results.predictions import whole_predictions
from job.results.raced import refuse_raced
from job.results.sets import COVERAGE, Sets, check_coverage, in_set, sets_of
from job.results.summary import collect
from job.training.backbone import WithoutWeights
from job.training.device import wanted_gpu
from job.training.machine import Machine, choose_machine
from job.training.model import build_model, new_model
from job.training.weights import About, parse_weights, read_about

# Images of 96 pixels per batch; a batch holds fewer larger ones, at least 8.
BATCH, BATCH_SIDE, LEAST_BATCH = {"cpu": 64, "cuda": 512}, 96, 8


@dataclass(frozen=True)
class Prediction:
    """An image's class, the calibrated probabilities of all classes, and its set; or the reason why there is none.

    members: the classes of its prediction set, the most probable first; None if the trial has no sets.
    """

    image: str
    label: str = ""
    confidence: float = 0.0
    probabilities: Sequence[float] = ()
    members: list[str] | None = None
    error: JobError | Rejected | None = None

    @property
    def is_unsure(self) -> bool:
        """Whether the set says something else than the class alone: none, or several."""
        return self.members is not None and self.members != [self.label]


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
    temperature: float | None = None
    sets: Sets | None = None
    # Why this trial: the recommendation's sentences, none where the user named it.
    why: Sequence[str] = ()
    # The files because of which trials were left out of the choice.
    damaged: Sequence[Damage] = ()

    @property
    def batch_size(self) -> int:
        """How many images are evaluated together."""
        most = BATCH[self.machine.device.type]
        return max(LEAST_BATCH, min(most, most * BATCH_SIDE**2 // self.image_size**2))

    def predict(self, images: Sequence[Named]) -> Iterator[Prediction]:
        """Yield one Prediction per image, in order; each image is processed exactly as the validation images were."""
        batch: list[tuple[str, Pixels]] = []
        for image, found in decoded(images, self.short_side):
            batch.append((image.shown, self.small(found) if isinstance(found, np.ndarray) else found))
            if len(batch) == self.batch_size:
                yield from self.answers(batch)
                batch = []
        if batch:
            yield from self.answers(batch)

    def small(self, pixels_HWC: np.ndarray) -> np.ndarray:
        """Return the centre crop of an image, at the size that the model takes."""
        image_HWC = torch.from_numpy(pixels_HWC)
        if resize_side(self.image_size) < self.short_side:
            image_HWC = shrink(image_HWC, resize_side(self.image_size))
        return crop_centers([image_HWC], self.image_size)[0].permute(1, 2, 0).contiguous().numpy()

    def answers(self, batch: Sequence[tuple[str, Pixels]]) -> Iterator[Prediction]:
        """Yield the predictions of a batch of crops, in order."""
        crops = [torch.from_numpy(found) for _, found in batch if isinstance(found, np.ndarray)]
        logits = iter(self.logits_of(crops) if crops else ())
        for image, found in batch:
            if isinstance(found, np.ndarray):
                yield self.decide(image, next(logits))
            else:
                yield Prediction(image, error=found)

    @torch.inference_mode()
    def logits_of(self, crops: Sequence[Tensor]) -> Tensor:
        """Return logits_NK, float64, of at most batch_size crops_HWC.

        The batch is always as large, filled up with black images: a convolution of another size may add its numbers in
        another order, and then the same image would get another answer in other company.
        """
        images_NHWC = torch.zeros(self.batch_size, self.image_size, self.image_size, 3, dtype=torch.uint8)
        images_NHWC[:len(crops)] = torch.stack(list(crops))
        images_NCHW = normalise(images_NHWC.to(self.machine.device).permute(0, 3, 1, 2))
        with self.machine.autocast():
            logits_NK: Tensor = self.model(images_NCHW)[:len(crops)]
        return logits_NK.double().cpu()

    def decide(self, image: str, logits_K: Tensor) -> Prediction:
        """Return the prediction of one image: the likeliest class, or by the threshold if the trial chose one."""
        probabilities = (logits_K / (self.temperature or 1.0)).softmax(0).tolist()
        if self.threshold_margin is None:
            index = int(logits_K.argmax())
        else:
            index = int(logits_K[1] - logits_K[0] >= self.threshold_margin)
        members = None
        if self.sets and self.sets.limit is not None:
            members = [self.classes[place] for place in in_set(probabilities, self.sets.limit)]
        return Prediction(image, self.classes[index], probabilities[index], probabilities, members)


def load_predictor(sweep: Folder, trial: str = "", coverage: float = COVERAGE) -> Predictor:
    """Return the predictor of a trial, by default of the recommended one, with its sets of this coverage.

    Raises MissingInput if no trial is recommended, with the reason, and if the trial has no weights.
    """
    check_coverage(coverage)
    damaged: list[Damage] = []
    why: list[str] = []
    if not trial:
        found = collect(sweep)
        damaged, trial, why = found.damaged, found.recommendation.trial, found.recommendation.sentences
        if not trial:
            hint = ("`--trial NAME` takes a trial of your choice all the same"
                    if found.table["rank"].notna().any() else
                    f"see the states of the trials: job status {shlex.quote(sweep.uri)}")
            raise MissingInput(f"{sweep.uri}: {' '.join(why)} So no trial is taken; {hint}")
    name = trial_file(trial, "best.safetensors")
    try:
        data = sweep.read(name)
    except MissingInput:
        refuse_raced(sweep, trial)
        with_weights = sorted(trials_with(sweep, "best.safetensors"))
        raise MissingInput(f"{sweep.uri}: trial {trial!r} has no best weights; the trials that have them: "
                           f"{', '.join(with_weights) or 'none'}") from None
    where = join(sweep.uri, name)
    about = read_about(data, where)
    weights = parse_weights(data, where)
    check_weights(weights, about, where)
    # What a GPU trained in fp16 a CPU computes in fp32.
    machine = choose_machine("fp32" if about.precision == "fp16" and not wanted_gpu() else about.precision)
    model = build_model(about.trial, len(about.classes), weights, machine).eval()
    return Predictor(trial, model, machine, about.classes, about.trial.image_size, about.short_side, about.threshold,
                     about.threshold_margin, about.val_recall, about.temperature,
                     read_sets(sweep, trial, about.classes, coverage), why, damaged)


def read_sets(sweep: Folder, trial: str, classes: Sequence[str], coverage: float) -> Sets:
    """Return the trial's sets by its predictions.csv; without one, or where it is damaged, the reason why not."""
    name, row = trial_file(trial, "predictions.csv"), intact_row(sweep, trial)
    parse = functools.partial(whole_predictions, classes=classes, row=row if isinstance(row, Row) else None)
    try:
        table = read_parsed(sweep, name, parse)
    except MissingInput:
        return Sets(coverage, None, f"the trial has no {join(sweep.uri, name)}")
    except ValueError as error:
        return Sets(coverage, None, f"{join(sweep.uri, name)}: {error}; restore the file")
    return sets_of(table, classes, coverage)


def check_weights(weights: dict[str, torch.Tensor], about: About, where: str) -> None:
    """Raise BadConfig unless the weights are those of the trial's model, head included, and its images large enough."""
    with WithoutWeights():
        expected = new_model(about.trial, len(about.classes)).state_dict()
    fit = {key: value.shape for key, value in weights.items()} == {key: item.shape for key, item in expected.items()}
    if not fit or resize_side(about.trial.image_size) > about.short_side:
        raise BadConfig(f"{where}: its weights do not fit the settings and classes in its header; delete this file and "
                        "the trial's row.json, then train the trial again")
