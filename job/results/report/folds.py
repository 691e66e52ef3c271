"""The page's table of settings that have folds."""

from job.results.summary import Summary
from job.training.exact import share


def folds_facts(summary: Summary) -> list[tuple[str, str]]:
    """Return a setting per line: its trials, and what its folds reach together, or which of them are missing."""
    found = []
    for line in summary.folds.to_dict("records"):
        text = f"not compared; of {line['num_folds']} folds these are missing: {line['missing_folds']}"
        if not line["missing_folds"]:
            acc = share(int(line["num_right"]), int(line["num_images"]))
            text = (f"{acc}; mean {line['mean_best_val_acc']:.4f}, standard deviation {line['std_best_val_acc']:.4f}; "
                    f"model of trial {line['model_of']}")
        found.append((line["trials"], text))
    return found
