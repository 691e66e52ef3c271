"""The one recommendation of a sweep: which trial's weights to use, or that none of them is worth it."""

import itertools
from dataclasses import dataclass, field

import pandas as pd

from job.results.compare import NOT_DISTINGUISHABLE, is_raced, named, recommended_line
from job.results.folds import Pooled, Setting
from job.training.exact import LEVEL, Share, mcnemar_better, share

__all__ = ["Recommendation", "Share", "recommend", "share"]

# Training times are noisy: what takes more than 1 / 1.1 of the time is not called cheaper.
ALIKE_COST = 1.1
AT_HALF = 0.5


@dataclass(frozen=True)
class Recommendation:
    """Which trial's weights to use; the same on screen, page, workbook, in summary.json and in `job predict`.

    trial: '' where no trial is known to beat the baseline, which always says `commonest`, the commonest class of
    validation. sentences: in words, the most important first; each stands alone. cheaper: trials at least 10% cheaper
    that beat the baseline and are not distinguishable from it, the cheapest first. val, test: the accuracy of the
    trial's best epoch; baseline_val, baseline_test: that of the baseline on the same images. p_vs_baseline: one-sided,
    as it is and corrected by Holm. num_folds: 0 on the plain split; else so many folds of the trial's setting were
    compared, and val and baseline_val are of the images of all of them, p_vs_baseline too.
    """

    trial: str = ""
    sentences: list[str] = field(default_factory=list)
    cheaper: list[str] = field(default_factory=list)
    commonest: str = ""
    baseline_val: Share | None = None
    baseline_test: Share | None = None
    val: Share | None = None
    test: Share | None = None
    p_vs_baseline: float | None = None
    p_vs_baseline_holm: float | None = None
    num_folds: int = 0


def recommend(pooled: Pooled, monitor: str) -> Recommendation:
    """Return the recommendation that follows from judged lines (`judge`) and the predictions of their trials."""
    table, predictions, commonest = pooled.lines, pooled.predictions, pooled.commonest
    best = recommended_line(table)
    if best is None:
        return no_recommendation(pooled, monitor)
    found = predictions[best["trial"]]
    val, test = accuracy(found, "val"), accuracy(found, "test")
    assert val, "a trial that was compared has validation images"
    baseline_val, baseline_test = (accuracy(found, split, commonest) for split in ("val", "test"))
    cheaper = cheaper_lines(table, best)
    always = f"always saying {commonest!r} reaches {reached(baseline_val, baseline_test, brief=True)}."
    setting = pooled.whole.get(best["trial"])
    if setting:
        own = f", and the trial itself {reached(None, test)}" if test else ""
        sentences = [f"Use trial {settings_in_words(best)}: the {setting.num_folds} folds of its setting together "
                     f"reach accuracy {val} on validation{own}; {always}", model_in_words(setting)]
    else:
        sentences = [f"Use trial {settings_in_words(best)}: it reaches accuracy {reached(val, test)}; {always}"]
    sentences += cheaper_sentence(best, cheaper) + threshold_sentence(best)
    sentences += passed_over(table, best, monitor, commonest)
    return Recommendation(best["trial"], sentences, list(cheaper["trial"]), commonest, baseline_val, baseline_test, val,
                          test, float(best["p_vs_baseline"]), float(best["p_vs_baseline_holm"]),
                          setting.num_folds if setting else 0)


def model_in_words(setting: Setting) -> str:
    """Return which of a setting's models `job predict` and `job export` use."""
    if setting.plain:
        return f"Its weights are those of the setting's trial on the plain split, {setting.plain}."
    fold = next(fold for fold, name in setting.trials.items() if name == setting.model)
    return (f"Its weights are those of fold {fold}, the best of the setting's {setting.num_folds} folds: none of its "
            "trials is on the plain split.")


def accuracy(predictions: pd.DataFrame, split: str, always: str | None = None) -> Share | None:
    """Return the accuracy on a split of the predictions, or of always saying a class; None without such images."""
    found = predictions[predictions["split"] == split]
    right = found["correct"] if always is None else found["label"] == always
    return share(int(right.sum()), len(found)) if len(found) else None


def reached(val: Share | None, test: Share | None, brief: bool = False) -> str:
    """Return an accuracy on validation and on test in words."""
    parts = [f"{item.count if brief else item} on {split}" for split, item in (("validation", val), ("test", test))
             if item]
    return " and ".join(parts)


def settings_in_words(line: pd.Series) -> str:
    """Return a trial's name with its learning rate and epochs: 8 (lr 0.01, epochs 20)."""
    return f"{line['trial']} (lr {line['lr']:.6g}, epochs {line['epochs']:.0f})"


def cheaper_lines(table: pd.DataFrame, best: pd.Series) -> pd.DataFrame:
    """Return the lines of cheaper trials that beat the baseline and are not distinguishable from the best, sorted.

    Only trials of the best one's device are compared: seconds on another one say nothing about cost.
    """
    same = table[(table["verdict"] == NOT_DISTINGUISHABLE) & (table["beats_baseline"] == True)  # noqa: E712 - or None.
                 & (table["device"] == best["device"]) & (table["seconds"] * ALIKE_COST < best["seconds"])]
    return same.sort_values("seconds", kind="stable")


def cheaper_sentence(best: pd.Series, cheaper: pd.DataFrame) -> list[str]:
    """Return which cheaper settings to train again with, in a sentence, if there are any."""
    if cheaper.empty:
        return []
    first, others = cheaper.iloc[0], list(cheaper["trial"][1:])
    also = f"; the same holds for trial{'s' * (len(others) > 1)} {named(others)}" if others else ""
    return [f"To train again, the settings of trial {settings_in_words(first)} take {first['seconds']:.3g} s instead "
            f"of {best['seconds']:.3g} s, and their accuracy is not distinguishable from that of trial {best['trial']} "
            f"(p = {first['p_vs_best']:.2g}, {first['p_vs_best_holm']:.2g} after Holm's correction){also}."]


def threshold_sentence(line: pd.Series) -> list[str]:
    """Return what the trial reaches at its threshold, by which `job predict` decides, if it has one."""
    if pd.isna(line.get("threshold")) or len(line["classes"]) != 2:
        return []
    positive, confusion = line["classes"][1], line.get("test_confusion_at_threshold")
    text = (f"The accuracies above are at threshold {AT_HALF:g}; `job predict` decides by the threshold "
            f"{line['threshold']:.4g} of {positive!r}, whose recall on validation is "
            f"{line['val_recall_at_threshold']:.4f} (wanted: {line['recall']:g})")
    if isinstance(confusion, list) and [len(counts) for counts in confusion] == [2, 2]:
        (right_other, false_alarms), (missed, hit) = confusion
        text += (f", and on test its recall is {share(hit, hit + missed)} and its accuracy "
                 f"{share(right_other + hit, right_other + false_alarms + missed + hit)}")
    return [f"{text}."]


def passed_over(table: pd.DataFrame, best: pd.Series, monitor: str, commonest: str) -> list[str]:
    """Return which trials rank higher than the recommended one, and why they are not recommended."""
    higher = table[table["rank"] < best["rank"]]
    unknown = higher[higher["beats_baseline"].isna()]
    parts = [(list(higher["trial"].drop(unknown.index)), f"not shown to beat always saying {commonest!r}"),
             (list(unknown["trial"]), "without predictions.csv, so it is not known whether they beat always saying "
                                      f"{commonest!r}")]
    return [f"Ranked higher by {monitor}, but {why}: {named(trials)}." for trials, why in parts if trials]


def no_recommendation(pooled: Pooled, monitor: str) -> Recommendation:
    """Return why no trial is recommended."""
    table, predictions, commonest = pooled.lines, pooled.predictions, pooled.commonest
    ranked = table[table["rank"].notna()]
    if ranked.empty and any(setting.trials for setting in pooled.settings):
        return Recommendation(sentences=["No trial is recommended: no setting has usable figures of all its folds."])
    if ranked.empty:
        return Recommendation(sentences=["No trial is recommended: none has finished with usable figures."])
    tested = ranked[ranked["beats_baseline"].notna()]
    if tested.empty:
        first = ranked.iloc[0]
        return Recommendation(sentences=[
            "No trial is recommended: without predictions.csv it is not known whether one beats always saying the "
            "commonest class.", f"Ranked first by {monitor} is trial {settings_in_words(first)}, with validation "
            f"accuracy {first['best_val_acc']:.4f}."])
    first = tested.iloc[0]
    found = predictions[first["trial"]]
    baseline_val, baseline_test = (accuracy(found, split, commonest) for split in ("val", "test"))
    sentences = [
        f"No trial beats always saying {commonest!r}; use none of them.",
        f"Always saying {commonest!r} reaches accuracy {reached(baseline_val, baseline_test, brief=True)}; trial "
        f"{settings_in_words(first)}, ranked first by {monitor}, reaches "
        f"{reached(accuracy(found, 'val'), accuracy(found, 'test'))} "
        f"(p = {first['p_vs_baseline']:.2g}, {first['p_vs_baseline_holm']:.2g} after Holm's correction for the number "
        "of trials, by the one-sided exact McNemar test on validation)."]
    num_raced = int(is_raced(table).sum())
    raced = [f"Not tested, because the race stopped them early: {num_raced} of the trials."] if num_raced else []
    return Recommendation("", [*sentences, *raced, *too_few(found, commonest)], [], commonest, baseline_val,
                          baseline_test)


def too_few(predictions: pd.DataFrame, commonest: str) -> list[str]:
    """Return that the validation images are too few for any trial to beat the baseline, if they are."""
    labels = predictions[predictions["split"] == "val"]["label"]
    num_others = int((labels != commonest).sum())
    if mcnemar_better(num_others, 0) <= LEVEL:
        return []
    least = next(number for number in itertools.count(1) if mcnemar_better(number, 0) <= LEVEL)
    return [f"No trial could, not even without a mistake: {num_others} of the {len(labels)} validation images are of "
            f"another class, and the test needs {least} or more; use more images, or a larger share of them for "
            "validation."]
