"""The proof of a bundle: onnxruntime on model.onnx answers as `job predict` does, image for image."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from job.data.cores import num_cores
from job.data.image_file.decode import Rejected, decode
from job.errors import JobError
from job.folder.escape import for_terminal
from job.folder.storage import Folder
from job.results.bundle.images import NUM_PROVEN, Proof, proofs, spread
from job.results.bundle.predict import UNREADABLE, pixels
from job.results.bundle.winner import Winner

# Of any probability. In fp32 the two differ by the order of sums in the convolutions, about 1e-6.
TOLERANCE = 1e-3
NUM_SAMPLES = 32
MOST_SAMPLE_BYTES = 16 << 20
ENDINGS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp", b"RI": "webp"}


class NotTheSame(JobError):
    """The exported model does not answer as `job predict` does: a bug here, or in the exporter or the runtime."""


@dataclass(frozen=True)
class Answer:
    """The answer of model.onnx to one image, and how far that of `job predict` is from it.

    difference: the largest of a probability. as_trained: the same for `job predict` in the precision of training, None
    where that is fp32. size: width and height.
    """

    proof: Proof
    size: tuple[int, int]
    index: int
    probabilities_K: NDArray[np.float32]
    difference: float
    as_trained: float | None
    is_same_as_trained: bool


@dataclass
class Parity:
    """What was proven. unread: images that predict.py cannot read, though `job predict` can."""

    answers: list[Answer] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    num_val: int = 0

    @property
    def difference(self) -> float:
        """The largest difference of a probability."""
        return max(item.difference for item in self.answers)

    def told(self) -> str:
        """Return the proof in a sentence."""
        num, unread = len(self.answers), f", {len(self.unread)} not read by its predict.py" if self.unread else ""
        from_pack = sum(not item.proof.is_from_source for item in self.answers)
        pack = f" ({from_pack} from the pack, because the source does not have them as they were)" if from_pack else ""
        return (f"it answers {num} validation images{pack} as job predict does in fp32, with probabilities that differ "
                f"by at most {self.difference:.1e}{unread}")

    def samples(self) -> dict[str, Answer]:
        """Return file -> answer of the images that travel in the bundle: at most 32, of all shapes."""
        light = [item for item in self.answers if len(item.proof.data) <= MOST_SAMPLE_BYTES]
        return {f"samples/{number:02d}.{ENDINGS.get(item.proof.data[:2], 'tif')}": item
                for number, item in enumerate(spread(light, NUM_SAMPLES), 1)}


def prove(winner: Winner, sweep: Folder, model: bytes) -> Parity:
    """Compare model.onnx with `job predict` on validation images; raises NotTheSame (70) beyond the tolerance."""
    session = open_session(model)
    found = Parity(num_val=sum(winner.passport.counts["val"].values()))
    for proof in proofs(sweep, winner.passport):
        name = for_terminal(proof.line.image)
        pixels_HWC = decode(proof.data, winner.about.short_side)
        try:
            image_HWC = pixels(io.BytesIO(proof.data))
        except UNREADABLE as error:
            found.unread.append(f"{name}: {for_terminal(str(error))}")
            continue
        # Another version of Pillow than the pack's may say so.
        if isinstance(pixels_HWC, Rejected):
            found.unread.append(f"{name}: {pixels_HWC.reason}")
            continue
        found.answers.append(compare(winner, session, proof, image_HWC, torch.from_numpy(pixels_HWC.copy())))
        if NUM_PROVEN in (len(found.answers), len(found.unread)):
            break
    if not found.answers:
        raise NotTheSame(f"none of {len(found.unread)} validation images can be read by the bundle's predict.py, the "
                         f"first: {found.unread[0]}; no bundle was written")
    return found


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """Return onnxruntime's session of a model, on the cores of this process."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = num_cores(), 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def compare(winner: Winner, session: onnxruntime.InferenceSession, proof: Proof, image_HWC: NDArray[np.uint8],
            pixels_HWC: torch.Tensor) -> Answer:
    """Return the answer to one image; raises NotTheSame if `job predict` in fp32 gives another one.

    image_HWC: as predict.py reads the file; pixels_HWC: as `job predict` does, with the pack's short side.
    """
    probabilities_K, logits_K = session.run(["probabilities", "logits"], {"image": image_HWC})
    index = winner.decide(torch.from_numpy(logits_K).double())
    expected_K = winner.logits(pixels_HWC)
    difference = far(winner, expected_K, probabilities_K)
    if winner.decide(expected_K) != index or not difference <= TOLERANCE:
        classes = winner.about.classes
        raise NotTheSame(f"{for_terminal(proof.line.image)}: model.onnx says {for_terminal(classes[index])!r}, job "
                         f"predict says {for_terminal(classes[winner.decide(expected_K)])!r}, and their probabilities "
                         f"differ by {difference:.2g} (at most {TOLERANCE:g} is right), with torch "
                         f"{torch.__version__} and onnxruntime {version('onnxruntime')}; no bundle was written")
    machine = winner.predictor.machine
    is_exact = machine.precision == "fp32" and machine.device.type == "cpu"
    trained_K = expected_K if is_exact else winner.logits(pixels_HWC, as_trained=True)
    return Answer(proof, (image_HWC.shape[1], image_HWC.shape[0]), index, probabilities_K, difference,
                  None if is_exact else far(winner, trained_K, probabilities_K), winner.decide(trained_K) == index)


def far(winner: Winner, logits_K: torch.Tensor, probabilities_K: NDArray[np.float32]) -> float:
    """Return the largest difference between calibrated probabilities and those of model.onnx."""
    expected_K = (logits_K / winner.temperature).softmax(0).numpy()
    return float(np.abs(expected_K - probabilities_K).max())


def about_parity(winner: Winner, found: Parity, samples: dict[str, Answer]) -> dict[str, Any]:
    """Return what parity.json holds; `predict.py --check` repeats its samples."""
    answers, machine = found.answers, winner.predictor.machine
    sizes = [item.size for item in answers]
    trained = [item.as_trained for item in answers if item.as_trained is not None]
    as_trained = {"precision": machine.precision, "device": machine.name, "largest_difference": max(trained),
                  "other_classes": sum(not item.is_same_as_trained for item in answers)} if trained else None
    return {
        "compared_with": f"job predict in fp32 on a CPU, torch {torch.__version__}",
        "runtime": f"onnxruntime {version('onnxruntime')}, CPU", "tolerance": TOLERANCE,
        "largest_difference": found.difference, "images": len(answers), "same_class": len(answers),
        "validation_images": found.num_val, "wanted": NUM_PROVEN,
        "from_source": sum(item.proof.is_from_source for item in answers),
        "from_pack": sum(not item.proof.is_from_source for item in answers),
        "wide": sum(width > height for width, height in sizes), "tall": sum(height > width for width, height in sizes),
        "square": sum(width == height for width, height in sizes), "different_sizes": len(set(sizes)),
        "not_read_by_predict_py": found.unread, "as_trained": as_trained,
        "labels": [for_terminal(name) for name in winner.about.classes],
        "threshold_margin": winner.about.threshold_margin, "samples": list(about_samples(winner, samples))}


def about_samples(winner: Winner, samples: dict[str, Answer]) -> Iterator[dict[str, Any]]:
    """Yield what parity.json says of each image in the bundle: where it came from, and the answer to it."""
    for file, item in samples.items():
        yield {"file": file, "image": for_terminal(item.proof.line.image), "width": item.size[0],
               "height": item.size[1], "from": "source" if item.proof.is_from_source else "pack",
               "truth": for_terminal(item.proof.line.label), "index": item.index,
               "label": for_terminal(winner.about.classes[item.index]),
               "shares": [float(value) for value in item.probabilities_K]}
