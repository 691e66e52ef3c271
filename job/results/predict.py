"""Pictures -> class and confidence, by the best weights of a sweep's best trial."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch

from job.data.augment import normalise
from job.data.batches import crop_centers, resize_side, shrink
from job.data.decode import Rejected, decode
from job.errors import BadData, JobError, MissingInput
from job.layout import trial_file, trials_with
from job.results.gather import collect
from job.storage import Folder, join, read_uri
from job.training.model import Machine, build_model, choose_machine, parse_weights, read_about
from job.trial import Trial


@dataclass(frozen=True)
class Prediction:
    """A picture's class and the probability that the net gives it, or why there is none."""

    picture: str
    label: str = ""
    confidence: float = 0.0
    error: JobError | Rejected | None = None


@dataclass(frozen=True)
class Predictor:
    """The best weights of one trial, ready for pictures."""

    trial: str
    model: torch.nn.Module
    machine: Machine
    classes: list[str]
    image_size: int
    short_side: int
    threshold: float | None = None
    threshold_margin: float | None = None
    val_recall: float | None = None

    @torch.inference_mode()
    def predict(self, pictures: Sequence[str]) -> Iterator[Prediction]:
        """One Prediction a picture, in order; a picture goes through just what the validation pictures went through."""
        for uri in pictures:
            try:
                pixels_HWC = decode(read_uri(uri), self.short_side)
            except JobError as error:
                yield Prediction(uri, error=error)
                continue
            if isinstance(pixels_HWC, Rejected):
                yield Prediction(uri, error=pixels_HWC)
                continue
            picture_HWC = torch.from_numpy(pixels_HWC.copy())
            if resize_side(self.image_size) < self.short_side:
                picture_HWC = shrink(picture_HWC, resize_side(self.image_size))
            images_NCHW = normalise(crop_centers([picture_HWC], self.image_size).to(self.machine.device))
            with self.machine.autocast():
                logits_NK = self.model(images_NCHW)
            yield Prediction(uri, *self.decide(logits_NK[0].double()))

    def decide(self, logits_K: torch.Tensor) -> tuple[str, float]:
        """The class and its probability: the likeliest, or for two classes the positive one from the threshold on."""
        least = self.threshold_margin
        index = int(logits_K.argmax() if least is None else logits_K[1] - logits_K[0] >= least)
        return self.classes[index], float(logits_K.softmax(0)[index])


def load_predictor(sweep: Folder, trial: str = "") -> Predictor:
    """The predictor of a trial, by default of the best one; raises MissingInput where there are no weights."""
    if not trial:
        best = collect(sweep).best
        if best is None:
            raise MissingInput(f"{sweep.uri}: no trial is done with usable weights; `job status` says why")
        trial = str(best["trial"])
    name = trial_file(trial, "best.safetensors")
    try:
        data = sweep.read(name)
    except MissingInput:
        have = sorted(trials_with(sweep, "best.safetensors"))
        raise MissingInput(f"{sweep.uri}: no best weights of a trial {trial!r}; there are those of "
                           f"{', '.join(have) or 'none'}") from None
    about = read_about(data, join(sweep.uri, name))
    settings, classes = about["settings"], about["classes"]
    machine = choose_machine(about.get("precision", "auto"))
    known = Trial(**{spec.name: settings[spec.name] for spec in fields(Trial) if spec.name in settings})
    model = build_model(known, len(classes), parse_weights(data, join(sweep.uri, name)), machine).eval()
    return Predictor(trial, model, machine, classes, known.image_size, about["short_side"],
                     about.get("threshold"), about.get("threshold_margin"), about.get("val_recall"))


def print_predictions(predictor: Predictor, predictions: Iterable[Prediction]) -> None:
    """By what it is decided, then a line a picture; raises BadData at the end where some could not be read."""
    rule = "" if predictor.threshold is None else (
        f"; {predictor.classes[1]} from a probability of {predictor.threshold:.6g} on, which found "
        f"{predictor.val_recall or 0:.0%} of it in validation")
    print(f"by the best weights of trial {predictor.trial}{rule}")
    bad: list[JobError] = []
    for item in predictions:
        if item.error:
            reason = item.error.reason if isinstance(item.error, Rejected) else str(item.error)
            bad.append(BadData(reason) if isinstance(item.error, Rejected) else item.error)
            print(f"{item.picture}  not read: {reason}")
        else:
            print(f"{item.picture}  {item.label}  {item.confidence:.3f}")
    if bad:
        raise type(bad[0])(f"{len(bad)} of the pictures could not be read; the first: {bad[0]}")
