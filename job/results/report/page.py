"""summary.html: the decision of a sweep on one page, which opens without a server and without a network."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from job.folder.escape import for_page
from job.folder.storage import Folder
from job.record import PROBABILITY
from job.results.figures import per_class, pr_points, roc_points
from job.results.raced import raced_lines
from job.results.reliability import calibration_facts, reliability
from job.results.report.charts import Chart, Line, Point, chart
from job.results.report.curves import curves, curves_note
from job.results.report.folds import folds_facts
from job.results.report.images import MOST_MISTAKES, SPLIT_NAMES, Pictures, pictures
from job.results.report.tables import (
    heat,
    passport_parts,
    provenance_facts,
    settings_facts,
    spent_facts,
    trials_table,
)
from job.results.summary import Summary
from job.training.exact import Share

SECTIONS = {"trials": "Trials", "folds": "Folds", "curves": "Curves", "heat-map": "Heat map",
            "confusion": "Confusion matrix", "mistakes": "Labels to check", "classes": "Per class",
            "confidence": "Confidence", "rates": "Thresholds", "spent": "Spent", "passport": "Data",
            "settings": "Settings"}
MOST_RATE_POINTS = 200
FOLDS_NOTE = (" A line stands for a setting with all its folds: accuracy and loss are over all their validation "
              "images, seconds are their mean.")


def page_bytes(summary: Summary, sweep: Folder) -> bytes:
    """Return the page; of the pack in `sweep` the pixels of a few images are read, and damage to it is only told."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("job.results.report"), autoescape=True,
                                     trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
                                     finalize=escaped)
    css, js = (source(environment, name) for name in ("report.css", "report.js"))
    parts = {**about(summary), **of_one_trial(summary, sweep), "css": Markup(css), "js": Markup(js),  # noqa: S704
             "css_hash": hash_of(css), "js_hash": hash_of(js)}
    parts["sections"] = [(name, words) for name, words in SECTIONS.items()
                         if name not in ("heat-map", "rates", "folds") or parts[{"heat-map": "heat"}.get(name, name)]]
    return environment.get_template("report.html").render(parts).encode()


def escaped(value: Any) -> Any:
    """Return a value for the page: what would turn its text around is shown; Jinja escapes the rest."""
    return for_page(value) if type(value) is str else value


def source(environment: jinja2.Environment, name: str) -> str:
    """Return a file that stands in the page as it is."""
    assert environment.loader
    return environment.loader.get_source(environment, name)[0]


def hash_of(text: str) -> str:
    """Return the hash by which the page's policy admits this style or script, and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def about(summary: Summary) -> dict[str, Any]:
    """Return the parts of the page that are about all trials."""
    found = summary.recommendation
    headings, lines = trials_table(summary)
    sentences = found.sentences or ["No trial has a figure to recommend it by."]
    num_rows, num_ranked = len(summary.table), int(summary.table["rank"].notna().sum())
    standing = [f"{num_rows} of {num_rows + len(summary.missing)} trials have a row"]
    for num, words in ((len(raced_lines(summary.table)), "stopped early by the race"), (len(summary.failed), "failed")):
        standing += [f"{num} {words}"] if num else []
    name = summary.uri.rstrip("/").rpartition("/")[2]
    return {
        "uri": summary.uri, "title": f"{name}: {sentences[0].split(':')[0]}", "standing": ", ".join(standing),
        "sentences": sentences, "notes": [note for note in summary.notes() if note not in sentences],
        "shares": list(shares(summary)), "headings": headings, "trials": lines, "chosen": found.trial,
        "badge": "recommended",
        "sorted_by": f"Sorted by {summary.monitor} of each trial's best epoch; a heading sorts by its column."
                     f"{FOLDS_NOTE if found.num_folds else ''}" if num_ranked else "No trial is ranked.",
        "folds": folds_facts(summary), "counted": f"{len(lines)} {'line' if found.num_folds else 'trial'}"
                                                  f"{'s' * (len(lines) != 1)}",
        "charts": list(curves(summary)), "curves_note": curves_note(summary), "heat": heat(summary),
        "spent": spent_facts(summary), "passport": passport_parts(summary.passport),
        "settings": settings_facts(summary), "provenance": provenance_facts(summary)}


def shares(summary: Summary) -> Iterator[tuple[str, str, Share, bool]]:
    """Yield the accuracies to compare: images, whose answer, how many are right, and whether it is recommended."""
    found = summary.recommendation
    for images, own, baseline in (("validation", found.val, found.baseline_val),
                                  ("test", found.test, found.baseline_test)):
        if own and found.trial:
            folds = f"{found.num_folds} folds of its setting" if found.num_folds and images == "validation" else ""
            yield images, folds or f"trial {found.trial}", own, True
        if baseline:
            yield images, f"always {found.commonest}", baseline, False


def of_one_trial(summary: Summary, sweep: Folder) -> dict[str, Any]:
    """Return the parts of the page that are about the recommended trial, or about the best if none is recommended."""
    trial = summary.shown_trial
    if not trial:
        texts = dict.fromkeys(("shown_trial", "mistakes_note", "rank_note", "rates_note", "positive"), "")
        return {**texts, "pictures": Pictures([]), "per_class": [], "rates": [], "bins": [],
                "diagram": None, "calibration": [],
                "no_pictures": "No trial is ranked, so there are no predictions."}
    line = summary.table.set_index("trial").loc[trial]
    classes = [str(name) for name in line["classes"]]
    predictions = summary.predictions.get(trial)
    confusion = line["test_confusion"] if isinstance(line.get("test_confusion"), list) else None
    suspects = set(summary.label_issues.table["image"]) if summary.label_issues else set()
    found = pictures(sweep, summary.images_of(trial), classes, confusion, suspects)
    tables = [(f"{matrix.title}, {matrix.num_images} images", matrix.split,
               per_class(matrix.confusion, classes).to_dict("records")) for matrix in found.matrices]
    rates = list(rate_charts(predictions, summary.positive)) if predictions is not None else []
    bins = reliability(predictions) if predictions is not None else pd.DataFrame()
    sets = [("prediction sets", str(summary.sets[trial]))] if trial in summary.sets else []
    return {"diagram": diagram(bins), "bins": bins.to_dict("records"),
            "calibration": calibration_facts(line) + sets, "shown_trial": trial, "pictures": found,
            "per_class": tables, "rates": rates,
            "rank_note": summary.whose.removeprefix(f"trial {trial}") if summary.recommendation.trial
            else ", ranked first but not recommended",
            "mistakes_note": mistakes_note(found, summary), "rates_note": rates_note(line),
            "positive": summary.positive,
            "no_pictures": f"Trial {trial} has no predictions that can be read."}


def mistakes_note(found: Pictures, summary: Summary) -> str:
    """Return what the mistakes are good for, and how many are shown."""
    counts = " and ".join(f"{num} of {SPLIT_NAMES[split].lower()}" for split, num in found.num_mistakes.items())
    note = (f"The mistakes ({counts}) of which the trial is surest, the surest first: where the image and its label "
            "differ, the label is wrong, not the model.")
    if summary.label_issues and len(summary.label_issues.table):
        note += f" The likely wrong labels come first: {summary.label_issues.notes()[0]}."
    if any(num > MOST_MISTAKES for num in found.num_mistakes.values()):
        note += f" Shown are the first {MOST_MISTAKES} of each split; the workbook lists all."
    return note


def rate_charts(predictions: pd.DataFrame, positive: str) -> Iterator[Chart]:
    """Yield the ROC and the precision-recall curve of the positive class, a line per split."""
    lines: dict[str, list[Line]] = {"roc": [], "pr": []}
    if PROBABILITY + positive not in predictions:
        return
    for number, split in enumerate(split for split in SPLIT_NAMES if (predictions["split"] == split).any()):
        found = predictions[predictions["split"] == split]
        scores, labels = found[PROBABILITY + positive].tolist(), (found["label"] == positive).tolist()
        for name, curve in (("roc", roc_points(scores, labels)), ("pr", pr_points(scores, labels))):
            step = max(1, len(curve) // MOST_RATE_POINTS)
            kept = curve.iloc[[k for k in range(len(curve)) if k % step == 0 or k == len(curve) - 1]]
            points = [Point(float(x), float(y)) for x, y in zip(kept.iloc[:, 0], kept.iloc[:, 1], strict=True)]
            lines[name].append(Line(SPLIT_NAMES[split].lower(), points, number, number, split == "test", number))
    text = "From the strictest threshold to the most lenient, one line per split."
    for name, titles in (("roc", ("ROC curve", "false positive rate", "true positive rate")),
                         ("pr", ("Precision and recall", "recall", "precision"))):
        if found_chart := chart(name, titles, lines[name], unit=True, text=text):
            yield found_chart


def diagram(bins: pd.DataFrame) -> Chart | None:
    """Return the reliability diagram of these bins: a line per split with intervals, and the diagonal; None without."""
    if bins.empty:
        return None
    lines = [Line("ideal", [Point(0.0, 0.0), Point(1.0, 1.0)], 7, 1, order=2)]
    for number, (split, part) in enumerate(bins.groupby("split", sort=False)):
        points = [Point(line["confidence"], line["accuracy"], low=line["accuracy_low"], high=line["accuracy_high"])
                  for line in part.to_dict("records")]
        lines.append(Line(SPLIT_NAMES[str(split)].lower(), points, number, 0, split == "test", number))
    return chart("reliability", ("Reliability", "confidence", "accuracy"), lines, unit=True,
                 text="Accuracy of the images in a bin, by their mean confidence; on the diagonal both are the same.")


def rates_note(line: pd.Series) -> str:
    """Return the areas under the curves and the threshold that the row names, if it does."""
    named = {"test_roc_auc": "area under the ROC curve on test", "test_average_precision": "average precision on test",
             "threshold": "threshold for the wanted recall"}
    found = [f"{words} {line[name]:.4f}" for name, words in named.items() if name in line and pd.notna(line[name])]
    text = "; ".join(found)
    return f"{text[0].upper()}{text[1:]}." if found else "There is no test split; the curves are those of validation."
