"""A sweep as large as a page must bear, which nobody trained."""

import random

from job.folder.grid import format_grid
from job.folder.layout import trial_file
from job.folder.storage import Folder
from job.trial import Trial
from support import leave_row, make_epochs


def leave_large_sweep(sweep: Folder, num_trials: int, num_classes: int, num_images: int) -> None:
    """Write rows of all trials, and the predictions of the best one, which has 7 of 10 images right."""
    rng = random.Random(0)
    classes = [f"class {number:04d}" for number in range(num_classes)]
    trials = [Trial(trial=str(n), lr=0.001 * (1 + n % 20), epochs=50, momentum=0.5 + 0.02 * (n // 20))
              for n in range(1, num_trials + 1)]
    sweep.write("grid.csv", format_grid(trials).encode())
    for number, trial in enumerate(trials):
        leave_row(sweep, trial, make_epochs(trial.epochs, 0.01 if number == 0 else 0.2 + 0.7 * rng.random()),
                  classes=classes, seconds=60.0 + number)
    header = ",".join(["split", "image", "label", "predicted", "correct", *(f"p_{name}" for name in classes)])
    lines = [header]
    for number in range(num_images):
        label = number % num_classes
        predicted = label if number % 10 < 7 else rng.randrange(num_classes)
        shares = ["0.0001"] * num_classes
        shares[predicted] = "0.9"
        lines.append(",".join(["val", f"image-{number:05d}.jpg", classes[label], classes[predicted],
                               str(label == predicted), *shares]))
    sweep.write(trial_file("1", "predictions.csv"), ("\n".join(lines) + "\n").encode())
