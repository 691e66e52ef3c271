"""MODEL_CARD.md of a bundle: its data, figures with intervals, calibration, threshold, and what was not tested."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib.metadata import version

import torch

from job.errors import redacted
from job.folder.escape import for_markdown
from job.models import MLP
from job.results.bundle.parity import Parity
from job.results.bundle.winner import Winner
from job.training.exact import share
from job.training.host import git_commit

# Parts of the names of a row's calibration figures, for those that this version has.
CALIBRATION = ("nll", "brier", "_ece", "calibration")
MOST_LISTED = 10


def table(heading: Sequence[str], lines: Sequence[Sequence[object]]) -> Iterator[str]:
    """Yield a Markdown table; its cells are escaped, its last line is empty."""
    yield f"| {' | '.join(heading)} |"
    yield f"|{' --- |' * len(heading)}"
    for cells in lines:
        yield f"| {' | '.join(for_markdown(str(cell)) for cell in cells)} |"
    yield ""


def model_card(winner: Winner, found: Parity, num_samples: int) -> bytes:
    """Return MODEL_CARD.md."""
    lines = [*head(winner), *data(winner), *figures(winner), *confidence(winner), *limits(winner),
             *proof(winner, found, num_samples), *origin(winner)]
    return ("\n".join(lines).rstrip() + "\n").encode()


def head(winner: Winner) -> Iterator[str]:
    """Yield what the model is, and how to use it."""
    about, trial = winner.about, winner.about.trial
    library = ["library_name: timm"] if winner.is_in_timm else []
    yield from ["---", "pipeline_tag: image-classification", *library, "tags: [image-classification, onnx]", "---", ""]
    yield from [f"# {trial.model} for {len(about.classes)} classes", ""]
    yield f"Classes, in the order of the outputs (`labels.txt`): {', '.join(map(for_markdown, about.classes))}"
    yield from ["", "    pip install numpy pillow onnxruntime", "    python predict.py IMAGE...", "",
                "`model.onnx` takes one image as uint8 RGB, height x width x 3, of any size, and gives the calibrated "
                "`probabilities` and the `logits`. Resize (short side "
                f"{' and then '.join(map(str, dict.fromkeys((about.short_side, winner.resize_side))))}), centre crop "
                f"of {trial.image_size} pixels, normalisation and temperature are in it."]
    if winner.is_in_timm:
        yield from ["", "In timm: `timm.create_model('local-dir:FOLDER', pretrained=True)`. It knows no temperature, "
                    "and its own transform resizes once: where `model.onnx` resizes twice, probabilities may differ by "
                    "several hundredths."]
    elif trial.model != MLP:
        yield from ["", f"`model.safetensors` fits `torchvision.models.{trial.model}` with the `arguments`, and the "
                    "`replaced_layers` if any, that `config.json` names; it takes the normalised crop."]
    else:
        yield from ["", "timm has no such network. `model.safetensors` fits a `torch.nn.Sequential` of the layers "
                    "that `config.json` names; it takes the normalised crop."]
    yield ""


def data(winner: Winner) -> Iterator[str]:
    """Yield the passport of the data, and the split."""
    passport = winner.passport
    yield from ["## Data", "", f"Source: {for_markdown(redacted(passport.source))}", ""]
    yield from table(["split", *map(for_markdown, passport.classes), "all"],
                     [[split, *(of_class[name] for name in passport.classes), sum(of_class.values())]
                      for split, of_class in passport.counts.items()])
    options = ", ".join(f"{name} {value}" for name, value in passport.options.items() if value != "")
    yield from [f"- {passport.num_images} usable images, {len(passport.rejected)} rejected; pack {passport.pack_hash}",
                f"- Made with {for_markdown(options)}",
                f"- Byte-identical images: {len(passport.duplicates)} groups, {len(passport.conflicts)} of them with "
                f"different labels; left out because they are in another split: {len(passport.left_out)}",
                f"- Near-identical images: {len(passport.near_duplicates)} groups"]
    if fold := winner.about.trial.fold:
        yield (f"- Not by this split: the trial validated on fold {fold} of {winner.about.trial.folds} of the training "
               "and validation images together, and trained on the other folds")
    yield from [f"- {for_markdown(warning)}" for warning in passport.warnings[:MOST_LISTED]]
    yield ""


def figures(winner: Winner) -> Iterator[str]:
    """Yield the figures of validation and test, shares with their intervals."""
    row = winner.row
    lines: list[list[object]] = []

    def add(name: str, num_right: int, num: int) -> None:
        if 0 <= num_right <= num and num:
            found = share(num_right, num)
            lines.append([name, f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}", num])

    for name, value, num in (("validation accuracy (it chose the epoch)", row.best_val_acc, row.num_val),
                             ("test accuracy", row.test_acc, row.num_test)):
        if value is not None:
            add(name, round(value * num), num)
    for suffix, named in (("", ""), ("_at_threshold", " at the threshold")):
        confusion = getattr(row, f"test_confusion{suffix}")
        if row.classes and len(row.classes) == 2 and is_two_by_two(confusion):
            (_, wrong), (missed, right) = confusion
            add(f"test recall{named}", right, right + missed)
            add(f"test precision{named}", right, right + wrong)
    for name in ("best_val_loss", "test_loss", "test_f1", "test_roc_auc", "test_average_precision",
                 "test_false_negatives", "test_errors"):
        if (value := getattr(row, name)) is not None:
            lines.append([name.replace("_", " "), f"{value:.3f}" if isinstance(value, float) else value, "", ""])
    positive = f" Recall and precision are those of {for_markdown(row.classes[1])}." if len(row.classes) == 2 else ""
    yield from ["## Figures", "", f"Of the weights of epoch {row.best_epoch}; exact 95% intervals (Clopper and "
                f"Pearson), of chance in these images alone.{positive}", ""]
    yield from table(["figure", "value", "95% interval", "images"], lines)


def is_two_by_two(confusion: list[list[int]] | None) -> bool:
    """Return whether this is the confusion matrix of two classes."""
    return confusion is not None and [len(line) for line in confusion] == [2, 2]


def confidence(winner: Winner) -> Iterator[str]:
    """Yield calibration and threshold."""
    row, about = winner.row, winner.about
    yield from ["## Confidence", ""]
    fitted = about.temperature is not None
    yield (f"Probabilities are the softmax of the logits divided by the temperature {winner.temperature:.6g}, fitted "
           "on validation." if fitted else "Probabilities are not calibrated: the trial has no temperature; 1 is used.")
    names = [spec.name for spec in fields(row) if any(part in spec.name for part in CALIBRATION)]
    found = [(name, getattr(row, name)) for name in names if isinstance(getattr(row, name), int | float | str)]
    yield from ["", *(table(["figure", "value"], [(name, f"{value:.4g}" if isinstance(value, float) else value)
                                                  for name, value in found if value != ""]) if found else [])]
    if about.threshold_margin is not None:
        yield (f"{for_markdown(about.classes[1])} is the answer if its logit is at least {about.threshold_margin:.6g} "
               f"above the other's: the threshold that reached the recall {about.val_recall or 0:.3f} on validation.")
    else:
        yield "The answer is the likeliest class; no threshold was chosen."
    yield ""


def limits(winner: Winner) -> Iterator[str]:
    """Yield what the model was not tested on."""
    num_test = winner.row.num_test
    yield from ["## Not tested on", "",
                "- Images of other sources, cameras or times than the data above.",
                "- Anything that is none of these classes: the model names one of them all the same.",
                f"- {num_test} test images say little about rare cases." if num_test else
                "- No test split: every figure here is of images that helped to choose the model.",
                "- Images changed on purpose to deceive it, and groups of people or places that the data do not name.",
                "- `predict.py` finds less damage than `job predict`: a JPEG whose data is overwritten, though it "
                "decodes, gets an answer.", ""]


def proof(winner: Winner, found: Parity, num_samples: int) -> Iterator[str]:
    """Yield what parity.json says."""
    trained = [item.as_trained for item in found.answers if item.as_trained is not None]
    yield from ["## The same answers", "", f"onnxruntime gave `job predict`'s class for {len(found.answers)} of "
                f"{len(found.answers)} validation images, and probabilities within {found.difference:.1e} in fp32. "
                f"`python predict.py --check` repeats {num_samples} of them (`parity.json`)."]
    if trained:
        others = sum(not item.is_same_as_trained for item in found.answers)
        yield (f"In {winner.predictor.machine.precision}, as `job predict` computes on the machine that exported, "
               f"probabilities are within {max(trained):.1e}, and {others} of these images have another class.")
    yield ""


def origin(winner: Winner) -> Iterator[str]:
    """Yield commit and versions."""
    row = winner.row
    packages = ("trialgrid", "torchvision", "onnx", "onnxscript", "onnxruntime", "pillow", "numpy")
    here = {"torch": torch.__version__, **{name: version(name) for name in packages}}
    settings = ", ".join(f"{name} {value}" for name, value in row.settings.items() if value != "")
    yield from ["## Origin", "", f"- Trial {for_markdown(winner.name)}: {for_markdown(settings)}",
                f"- Trained at commit {for_markdown(row.git_commit or 'unknown')}, finished "
                f"{for_markdown(row.finished_at)}, in {for_markdown(row.precision_used)} on "
                f"{for_markdown(row.device)}, with {for_markdown(named(row.versions))}",
                f"- Exported at commit {for_markdown(git_commit() or 'unknown')} with {named(here)}"]


def named(versions: dict[str, str]) -> str:
    """Return packages and their versions as text."""
    return ", ".join(f"{name} {value}" for name, value in versions.items())
