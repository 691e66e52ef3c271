"""The sheets of whole tables: Summary (a line per trial), Repeats, Mistakes and Per class."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from job.record import FIGURES
from job.results.figures import confusion_of, mistakes, per_class
from job.results.label_issues import LabelIssues
from job.results.reliability import FIGURES as CALIBRATION
from job.results.summary import Summary, has_values, settings_of
from job.results.workbook.spreadsheet import Page, header, kind_of, write_table
from job.results.workbook.trial_sheet import TrialSheet

OF_TEST = ("test_acc", "test_loss", "test_precision", "test_recall", "test_f1", "test_false_negatives", "test_errors",
           "test_confusion", "test_roc_auc", "test_average_precision", "last_test_acc", "last_test_false_negatives",
           "last_test_errors")
AT_THRESHOLD = ("threshold", "val_recall_at_threshold", "test_acc_at_threshold", "test_precision_at_threshold",
                "test_recall_at_threshold", "test_f1_at_threshold", "test_false_negatives_at_threshold",
                "test_confusion_at_threshold")
FIRST = ("best_val_acc", "best_val_loss", "verdict", "beats_baseline", "best_epoch", "p_vs_baseline",
         "p_vs_baseline_holm", "p_vs_best", "p_vs_best_holm", "p_race", "best_train_acc", "best_train_loss", *OF_TEST,
         *AT_THRESHOLD, "temperature", *(f"{split}_{name}" for split in ("val", "test") for name in CALIBRATION),
         "calibration_note")
# Each group is folded; the column after it, which carries the button that unfolds it, is not.
FOLDED = (tuple(f"median_{name}" for name in FIGURES), tuple(f"last_{name}" for name in FIGURES),
          ("num_train", "num_val", "num_test", "device", "precision_used", "host", "image", "versions", "git_commit",
           "pack_hash", "started_at", "finished_at", "best_reason", "trained_by",
           "continued_from"))
AFTER_GROUPS = ("seconds", "images_per_second", "epochs_run", "cause")
MOST_MISTAKES = 5000


def write_summary(page: Page, summary: Summary, sheets: dict[str, TrialSheet]) -> None:
    """Write one line per trial, by rank; the recommended one is green, and names are links to the trials' sheets."""
    table = summary.table

    def present(names: Sequence[str]) -> list[str]:
        return [name for name in names if name in table and has_values(table[name])]

    columns = ["rank", "trial", "status", *settings_of(table), *present(FIRST), *present(AFTER_GROUPS[:1])]
    folded: set[int] = set()
    for group, after in zip(FOLDED, AFTER_GROUPS[1:], strict=True):
        names = present(group)
        folded |= set(range(len(columns), len(columns) + len(names)))
        columns += [*names, *([after] if after in present(AFTER_GROUPS) else [])]
    for column, name in enumerate(columns):
        text = isinstance(table[name].iloc[0], (str, list, bool))
        page.put(0, column, name, "head" if text else "head right")
    for number, (_, line) in enumerate(table.iterrows(), 1):
        mark = "best " if line["trial"] == summary.recommendation.trial else ""
        for column, name in enumerate(columns):
            value = str(line[name])[:12] if name in ("pack_hash", "git_commit") else line[name]
            page.put(number, column, value, f"{mark}{kind_of(name)}")
        if line["trial"] in sheets:
            page.link(number, 1, sheets[line["trial"]].page, line["trial"], mark)
    header(page, columns, len(table))
    page.close(1, 2, folded)


def write_repeats(page: Page, repeats: pd.DataFrame) -> None:
    """Write mean and spread over seeds, one line per setting."""
    write_table(page, list(repeats.columns), repeats.to_dict("records"))
    page.close(1, 0)


def write_folds(page: Page, folds: pd.DataFrame) -> None:
    """Write the settings that have folds, one per line: pooled figures, mean and spread, and the folds they lack."""
    write_table(page, list(folds.columns), folds.to_dict("records"))
    page.close(1, 2)


def write_issues(page: Page, issues: LabelIssues) -> None:
    """Write the images whose labels are likely wrong."""
    write_table(page, list(issues.table.columns), issues.table.head(MOST_MISTAKES).to_dict("records"))
    beside(page, len(issues.table.columns) + 1, issues.notes()[0])


def confusions(summary: Summary, trial: str) -> dict[str, list[list[int]]]:
    """Return a trial's confusion matrices by split, test first: from its predictions, else from its row."""
    found = summary.images_of(trial)
    if found is not None:
        return {split: confusion_of(found, summary.classes, split) for split in ("test", "val")
                if (found["split"] == split).any()}
    num_classes = len(summary.classes)
    for of_row in summary.table[summary.table["trial"] == trial].get("test_confusion", ()):
        if isinstance(of_row, list) and [len(counts) for counts in of_row] == [num_classes] * num_classes:
            return {"test": of_row}
    return {}


def write_mistakes(page: Page, summary: Summary, trial: str) -> None:
    """Write the images that the trial's best epoch predicts wrongly, the most confident first."""
    columns = ("image", "split", "label", "predicted", "probability")
    predictions = summary.images_of(trial)
    found = pd.DataFrame(columns=columns) if predictions is None else mistakes(predictions)
    write_table(page, columns, [*found.head(MOST_MISTAKES).to_dict("records")])
    if predictions is None:
        text = "no trial has predictions that can be read"
    else:
        text = (f"{summary.whose}, best epoch: {len(found)} of {len(predictions)} validation and test images are "
                "wrong, the most confident mistake first: it may be a wrong label")
    if len(found) > MOST_MISTAKES:
        text += f"; the first {MOST_MISTAKES:,} are shown, all are in trials/{trial}/predictions.csv"
    beside(page, len(columns) + 1, text)


def write_classes(page: Page, summary: Summary, trial: str) -> None:
    """Write precision, recall and F1 of each class with exact intervals, on test and on validation."""
    lines: list[dict[str, Any]] = []
    for split, confusion in confusions(summary, trial).items():
        lines += [{"split": split, **line} for line in per_class(confusion, summary.classes).to_dict("records")]
    columns = list(lines[0]) if lines else ["split", "label", "images", "precision", "recall", "f1"]
    write_table(page, columns, lines)
    beside(page, len(columns) + 1, f"{summary.whose}, best epoch" if lines else "no trial has predictions that can be "
                                                                                "read")


def beside(page: Page, column: int, text: str) -> None:
    """Write what a table shows to the right of its header, and finish the sheet."""
    page.sheet.write_string(0, column, text, page.book.formats["beside"])
    page.close(1, 0)
