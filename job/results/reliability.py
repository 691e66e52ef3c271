"""The reliability diagram of a trial: how often it is right, by how sure it is; needs no torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from job.results.sets import Sets
from job.training.bins import num_bins
from job.training.exact import share

COLUMNS = ("split", "images", "lowest", "highest", "confidence", "accuracy", "accuracy_low", "accuracy_high")
# The Row's figures of calibration, each `SPLIT_NAME`.
FIGURES = ("nll", "nll_calibrated", "brier", "ece", "ece_low", "ece_high")


def reliability(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the bins of the diagram, those of test first: equally many images in each, the least confident first.

    predictions: a table of `Summary.predictions`. Columns: split, images, lowest, highest and mean confidence (the
    probability of the predicted class), and the accuracy with its exact 95% interval.
    """
    lines = [line for split in ("test", "val") for line in bins_of(predictions[predictions["split"] == split], split)]
    return pd.DataFrame(lines, columns=COLUMNS)


def bins_of(predictions: pd.DataFrame, split: str) -> list[dict[str, Any]]:
    """Return the bins of one split's predictions, as the calibration error has them."""
    if predictions.empty:
        return []
    found = predictions.sort_values("probability", kind="stable")
    confidence_N, right_N = found["probability"].to_numpy(), found["correct"].to_numpy()
    parts = np.array_split(np.arange(len(found)), num_bins(len(found)))
    lines = []
    for part in parts:
        accuracy = share(int(right_N[part].sum()), len(part))
        lines.append({"split": split, "images": len(part), "lowest": float(confidence_N[part[0]]),
                      "highest": float(confidence_N[part[-1]]), "confidence": float(confidence_N[part].mean()),
                      "accuracy": accuracy.value, "accuracy_low": accuracy.low, "accuracy_high": accuracy.high})
    return lines


def confidence_notes(trial: str, line: pd.Series, sets: Sets | None) -> list[str]:
    """Return how far a trial's probabilities can be trusted, in sentences; line: its line of the table."""
    found = []
    temperature = line.get("temperature")
    for split, words in (("test", "test"), ("val", "validation")):
        before, after = (line.get(f"{split}_{name}") for name in ("nll", "nll_calibrated"))
        if pd.notna(temperature) and pd.notna(before) and pd.notna(after):
            text = (f"trial {trial}: its probabilities are calibrated by temperature {temperature:.3g}; on {words} "
                    f"their negative log-likelihood is {after:.4f} ({before:.4f} before)")
            error, low, high = (line.get(f"{split}_{name}") for name in ("ece", "ece_low", "ece_high"))
            if pd.notna(error):
                text += f", and their calibration error {error:.4f} (95% interval {low:.3f} to {high:.3f})"
            found.append(text)
            break
    if note := line.get("calibration_note"):
        found.append(f"trial {trial}: calibration: {note}")
    return found + ([f"trial {trial}: {sets}"] if sets else [])


def calibration_facts(line: pd.Series, splits: Sequence[str] = ("val", "test")) -> list[tuple[str, str]]:
    """Return the figures of calibration of a trial's line as names and texts; [] for a row without them."""
    names = ["temperature", *(f"{split}_{name}" for split in splits for name in FIGURES)]
    found = [(name, f"{line[name]:.4f}") for name in names if name in line and pd.notna(line[name])]
    return found + ([("calibration_note", str(line["calibration_note"]))] if line.get("calibration_note") else [])
