"""What each column of the workbook means, and its unit: from here, and from the help of the settings."""

from collections.abc import Sequence
from dataclasses import fields

from job.record import FIGURES
from job.results.workbook.spreadsheet import HEADER_PIXELS, SHARES_OF_BINS, Page
from job.trial import Trial

OF_IMAGES = {
    "image": "name of the image in the source", "split": "val or test", "label": "true class",
    "predicted": "class that the trial's best epoch predicts",
    "probability": "probability that it gives to the predicted class",
    "rank": "1: its label is the likeliest to be wrong", "likely_label": "class that the image more likely is of",
    "label_probability": "probability of its label, by a model that has not trained on it",
    "likely_probability": "probability of its likely class",
    "images": "images of the class in the split",
    "precision": "share of the images predicted as this class that are of it",
    "recall": "share of the class's images that are predicted as it", "f1": "harmonic mean of precision and recall",
    **{f"{name}_{end}": f"{end}er end of the exact 95% interval (Clopper-Pearson) of {name}"
       for name in ("precision", "recall") for end in ("low", "high")}}
OF_BINS = {
    "split": "val or test", "images": "images of the bin: all bins of a split have as many, to within one",
    "lowest": "least probability of the predicted class in the bin", "highest": "greatest one in the bin",
    "confidence": "mean probability of the predicted class in the bin",
    "accuracy": "share of the bin's images that are right: as large as confidence, if that means what it says",
    **{f"accuracy_{end}": f"{end}er end of the exact 95% interval (Clopper-Pearson) of accuracy"
       for end in ("low", "high")}}
OF_CALIBRATION = {
    "nll": "negative log-likelihood of the raw probabilities",
    "nll_calibrated": "negative log-likelihood of the calibrated probabilities",
    "brier": "Brier score of the calibrated probabilities: mean over images of the classes' squared errors",
    "ece": "calibration error: mean gap between confidence and accuracy in bins of equally many images",
    "ece_low": "lower end of the 95% bootstrap interval of the calibration error",
    "ece_high": "upper end of the 95% bootstrap interval of the calibration error"}
OF_EPOCHS = {
    "epoch": "number of the pass over the training images",
    "train_loss": "mean loss over the epoch's training images as augmented, class weights and label smoothing included",
    "train_acc": "share of the epoch's training images that the model had right",
    "val_loss": "mean cross-entropy on the validation images",
    "val_acc": "share of the validation images that are right", "lr": "learning rate of the epoch's last step",
    "images_per_second": "training images per second", "train_seconds": "time of training",
    "val_seconds": "time of validation"}
PARTS = {"best": "of the best epoch, whose weights are kept", "median": "median over the epochs with finite losses",
         "last": "of the last epoch"}
OF_TEST = {
    "acc": "accuracy on the test split", "loss": "mean cross-entropy on the test split",
    "precision": "precision on the test split: of the positive class of two, else the mean over the classes",
    "recall": "recall on the test split: of the positive class of two, else the mean over the classes",
    "f1": "F1 on the test split: of the positive class of two, else the mean over the classes",
    "false_negatives": "images of the positive class that were missed on the test split",
    "errors": "images of the test split that are predicted wrongly",
    "confusion": "confusion matrix on the test split: a row per true class, a column per predicted class",
    "roc_auc": "area under the ROC curve of the positive class on the test split",
    "average_precision": "average precision of the positive class on the test split"}
OF_ROWS = {
    "rank": "1: the best by the figure that the trials are sorted by; empty: not ranked",
    "status": "done, diverged (a loss was not finite), raced (the race stopped it early, so it has neither weights of "
              "its own nor figures of test) or failed",
    "beats_baseline": "whether it is more accurate on validation than always saying the commonest class (p at most "
                      "0.05 after Holm's correction)",
    "p_vs_baseline": "one-sided p-value of McNemar's exact test against always saying the commonest class",
    "p_vs_best": "two-sided p-value of McNemar's exact test against the recommended trial, on validation",
    "p_vs_baseline_holm": "p_vs_baseline after Holm's correction for the number of trials",
    "p_vs_best_holm": "p_vs_best after Holm's correction for the number of trials",
    "p_race": "of a raced trial: two-sided p-value of McNemar's exact test against the last of the best at its rung, "
              "on validation; above 0.05 the race does not show that it is worse",
    "verdict": "compared with the recommended trial, by p_vs_best_holm: best (it is that trial), not distinguishable, "
               "worse, or more accurate",
    "cause": "why it failed, diverged or stopped early, or what put it out of the race",
    "trained_by": "longer trial of the trajectory that passed through this one; empty: trained alone",
    "continued_from": "shorter trial whose last checkpoint this training began from; empty: from initial weights",
    "epochs_run": "epochs trained",
    "best_epoch": "the epoch whose weights are kept", "best_reason": "why it is the best",
    **{f"test_{name}": f"{meaning}, by the best epoch's weights" for name, meaning in OF_TEST.items()},
    **{f"last_test_{name}": f"{meaning}, by the last epoch's weights" for name, meaning in OF_TEST.items()},
    **{f"test_{name}_at_threshold": f"{meaning}, at the threshold" for name, meaning in OF_TEST.items()},
    **{f"{split}_{name}": f"{meaning}, on {words}" for split, words in (("val", "validation"), ("test", "test"))
       for name, meaning in OF_CALIBRATION.items()},
    "temperature": "logits are divided by it before the softmax, so that probabilities mean what they say; fitted on "
                   "validation",
    "calibration_note": "why a figure of calibration is missing, or the temperature is 1",
    "threshold": "calibrated probability from which an image counts as positive, for the wanted recall",
    "threshold_margin": "the threshold as a difference of logits",
    "val_recall_at_threshold": "recall of the positive class that the threshold reached on validation",
    "classes": "class names, in the order of the confusion matrix",
    **{f"num_{split}": f"images in the split {split}" for split in ("train", "val", "test")},
    "seconds": "time of training and validation", "train_seconds": "time of training, all epochs",
    "val_seconds": "time of validation, all epochs",
    "images_per_second": "training images per second, median of epochs",
    "device": "GPU, or processor and threads", "precision_used": "number format of training: bf16 or fp32",
    "race": "of a raced trial: the decision of the race, as row.json has it",
    "features": "name of the features that the head was trained on; empty: images",
    "host": "host, or Kubernetes node and pod", "versions": "of trialgrid, Python, torch and torchvision",
    "git_commit": "commit of this program", "image": "container image, where one was used",
    "pack_hash": "beginning of the pack's SHA-256", "started_at": "begin, UTC", "finished_at": "end, UTC",
    "trials": "trials with the same settings and different seeds", "num_seeds": "number of different seeds"}
UNITS = {"rotation": "degrees", "image_size": "pixels", "train_size": "pixels", "blur": "pixels",
         "images_per_second": "images/s", "epochs": "epochs", "step_size": "epochs", "warmup": "epochs",
         "stop_patience": "epochs", "epochs_run": "epochs", "batch_size": "images", "images": "images",
         "num_images": "images", "num_right": "images"}
SHARES = ("_acc", "_precision", "_recall", "f1", "_auc", "_low", "_high", "_ece", "probability", "threshold")
SHARES_OF_CLASS = ("precision", "recall")
OF_FOLDS = {
    "trials": "trials with the same settings: on the plain split, if there is one, then by fold",
    "model_of": "trial whose weights stand for the setting: on the plain split, else the best fold",
    "num_folds": "folds of the training and validation images", "missing_folds": "folds without usable figures",
    "num_images": "validation images of all folds together", "num_right": "how many of them are right",
    "pooled_val_acc": "share of them that is right", "pooled_val_loss": "mean cross-entropy on them",
    **{f"pooled_val_acc_{end}": f"{end}er end of its exact 95% interval (Clopper-Pearson)" for end in ("low", "high")}}
SHEETS_OF_IMAGES = ("Mistakes", "Per class", "Label issues")
SHEET_OF_FOLDS = "Folds"
SHEET_OF_BINS = "Confidence"


def meaning_of(sheet: str, name: str) -> str:
    """Return what a column of a sheet means; raises KeyError for a name that is described nowhere."""
    if sheet in SHEETS_OF_IMAGES:
        return OF_IMAGES[name]
    if sheet == SHEET_OF_BINS:
        return OF_BINS[name]
    if sheet == SHEET_OF_FOLDS and name in OF_FOLDS:
        return OF_FOLDS[name]
    if sheet.startswith("Trial"):
        return OF_EPOCHS[name]
    for part, text in PARTS.items():
        if (figure := name.removeprefix(f"{part}_")) in FIGURES and figure != name:
            return f"{OF_EPOCHS[figure]}, {text}"
    repeated = "folds" if sheet == SHEET_OF_FOLDS else "seeds"
    for prefix, text in (("mean_", "mean"), ("std_", "standard deviation")):
        if name.startswith(prefix):
            return f"{text} over the {repeated}: {meaning_of(sheet, name.removeprefix(prefix))}"
    settings = {spec.name: str(spec.metadata["help"]) for spec in fields(Trial)}
    return settings[name] if name in settings else OF_ROWS[name]


def unit_of(sheet: str, name: str) -> str:
    """Return the unit of a column: empty for text, and for numbers without a unit."""
    plain = name.removesuffix("_at_threshold").removeprefix("mean_").removeprefix("std_")
    if plain in UNITS:
        return UNITS[plain]
    if "confusion" in plain or plain.endswith(("_false_negatives", "_errors")):
        return "images"
    if plain.startswith(("p_vs_", "p_race")) or plain.endswith(SHARES) or (
            sheet in SHEETS_OF_IMAGES and plain in SHARES_OF_CLASS):
        return "0 to 1"
    if plain in SHARES_OF_BINS:
        return "0 to 1"
    if plain.endswith("_brier"):
        return "0 to 2"
    return "s" if plain.endswith("seconds") else "nats" if plain.endswith(("_loss", "_nll", "_nll_calibrated")) else ""


def write_columns(page: Page, columns: Sequence[tuple[str, str, str]]) -> None:
    """Write a line for each column of the other sheets: (sheet, title, name of the figure or setting)."""
    for column, title in enumerate(("column", "unit", "meaning", "sheets")):
        page.put(0, column, title, "head")
    sheets: dict[tuple[str, str, str], list[str]] = {}
    for sheet, title, name in dict.fromkeys(columns):
        sheets.setdefault((title, unit_of(sheet, name), meaning_of(sheet, name)), []).append(sheet)
    for number, (texts, names) in enumerate(sheets.items(), 1):
        for column, text in enumerate((*texts, ", ".join(names))):
            page.put(number, column, text)
    page.sheet.autofilter(0, 0, max(1, len(sheets)), 3)
    page.close(1, 0)
    page.sheet.set_row_pixels(0, HEADER_PIXELS)
    page.sheet.set_column(2, 2, 110)
