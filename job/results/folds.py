"""The folds of a setting, pooled: one line per setting, figures over all validation images, and whose model to use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from job.results.compare import commonest_label, named, validation
from job.results.ranking import as_trial, in_order
from job.training.exact import share
from job.trial import Trial

# What a setting's line gets of the tests, and each of its trials from it.
SHARED = ("rank", "p_vs_baseline", "p_vs_baseline_holm", "beats_baseline", "p_vs_best", "p_vs_best_holm", "verdict")


@dataclass
class Setting:
    """Trials that differ in name and fold alone. trials: fold -> the name of its usable trial.

    setting: a trial of it on the plain split. others: the names of its trials without usable figures. alike: those of
    them that validated on images of another fold in `trials`. plain: the name of its trial on the plain split, or '';
    it has the first place where there is one. model: whose weights stand for the setting: those of `plain`, else of its
    best fold; '' while folds are missing. raced: fold -> its trial, of those in `missing`
    that the race stopped early.
    """

    setting: Trial
    num_folds: int
    trials: dict[int, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    alike: list[str] = field(default_factory=list)
    plain: str = ""
    model: str = ""
    raced: dict[int, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[int]:
        """The folds that have no usable trial."""
        return [fold for fold in range(1, self.num_folds + 1) if fold not in self.trials]

    @property
    def names(self) -> list[str]:
        """Its usable trials, that on the plain split first, then by fold."""
        return [name for name in (self.plain, *(self.trials[fold] for fold in sorted(self.trials))) if name]


@dataclass(frozen=True)
class Pooled:
    """A sweep's trials as they are compared: by folds where a setting has all of its folds, else on the plain split.

    lines: ranked; one line per setting with all its folds, where there is one, whose best_val_acc and best_val_loss are
    pooled, and whose seconds are the mean over the folds; then the trials of no such setting, unranked. Without such a
    setting: one line per trial. predictions: of each ranked line, the validation images of all its folds and the test
    images of its model. settings: those that have folds.
    """

    lines: pd.DataFrame
    predictions: Mapping[str, pd.DataFrame]
    settings: list[Setting] = field(default_factory=list)

    @property
    def commonest(self) -> str:
        """The commonest class of the validation images that are compared; '' where there are none."""
        return commonest_label(next(iter(self.predictions.values()))) if self.predictions else ""

    @property
    def whole(self) -> dict[str, Setting]:
        """The settings with all their folds, by the name of their model."""
        return {found.model: found for found in self.settings if found.model}

    def notes(self) -> list[str]:
        """Return in words what is compared, and what is not."""
        found = []
        if self.whole:
            num = len(validation(next(iter(self.predictions.values()))))
            found.append(f"settings are compared by their folds, on all {num} training and validation images; val acc "
                         "and val loss are pooled over the folds, and seconds are their mean")
            left = self.lines[self.lines["rank"].isna() & ~self.lines["status"].isin(["raced", "failed"])
                              & (self.lines["fold"] == 0)]
            if len(left):
                found.append("not ranked, because only the plain split of their settings has figures, on fewer images: "
                             f"trials {named(list(left['trial']))}")
        found += [f"trial {name} validated on images of another fold of its setting, so the pack was made again with "
                  "another --near between them; delete the folders of the setting's trials to train them again"
                  for item in self.settings for name in item.alike]
        found += [f"not compared: the setting of trial {(item.names + item.others)[0]} has {len(item.trials)} of "
                  f"{item.num_folds} folds with usable figures; missing: {', '.join(map(str, item.missing))}"
                  for item in self.settings if set(item.missing) - item.raced.keys()]
        raced = [name for item in self.settings for name in item.raced.values()]
        return found + ([f"not compared, because a fold is missing that the race stopped: the settings of trials "
                         f"{named(raced)}"] if raced else [])


def pool(table: pd.DataFrame, predictions: Mapping[str, pd.DataFrame], monitor: str, highest: bool) -> Pooled:
    """Return how the trials of a ranked table (`rank`) are compared; predictions: of its ranked trials."""
    if "fold" not in table or not (table["fold"] > 0).any():
        return Pooled(table, predictions)
    table = table.assign(fold=table["fold"].fillna(0).astype(int))
    settings = settings_of_folds(table, predictions)
    if not any(found.model for found in settings):
        lines = in_order(table, table["rank"].notna() & (table["fold"] == 0), monitor, highest)
        ranked = set(lines["trial"][lines["rank"].notna()])
        return Pooled(lines, {name: found for name, found in predictions.items() if name in ranked}, settings)
    by_name = {line["trial"]: line for _, line in table.iterrows()}
    whole = [found for found in settings if found.model]
    pooled = {found.model: together(found, predictions) for found in whole}
    lines = pd.DataFrame([line_of(found, by_name, predictions, pooled[found.model]) for found in whole]).infer_objects()
    rest = table[~table["trial"].isin({name for found in whole for name in found.names + found.others})]
    lines = in_order(pd.concat([lines, rest], ignore_index=True),
                     pd.Series([True] * len(lines) + [False] * len(rest)), monitor, highest)
    return Pooled(lines, {name: pooled[name] for name in lines["trial"] if name in pooled}, settings)


def settings_of_folds(table: pd.DataFrame, predictions: Mapping[str, pd.DataFrame]) -> list[Setting]:
    """Return the settings that have folds, in the order of the table; predictions: of trials that can be compared."""
    found: dict[tuple[Trial, int], Setting] = {}
    plain: dict[Trial, str] = {}
    for _, line in table.iterrows():
        trial = as_trial(line)
        key = replace(trial, trial="1", fold=0, folds=Trial.folds)
        is_usable = pd.notna(line["rank"]) and trial.trial in predictions
        if not trial.fold:
            if is_usable:
                plain.setdefault(key, trial.trial)
            continue
        setting = found.setdefault((key, trial.folds), Setting(key, trial.folds))
        # Two trials of a fold with the same settings are the same run.
        if is_usable and trial.fold not in setting.trials and not shares_images(trial.trial, setting, predictions):
            setting.trials[trial.fold] = trial.trial
            continue
        setting.others.append(trial.trial)
        if line["status"] == "raced":
            setting.raced[trial.fold] = trial.trial
        if is_usable and trial.fold not in setting.trials:
            setting.alike.append(trial.trial)
    for (key, _), setting in found.items():
        # The table is ranked, so the fold that came first is the best one.
        setting.plain = plain.pop(key, "")
        setting.raced = {fold: name for fold, name in setting.raced.items() if fold in setting.missing}
        setting.model = "" if setting.missing else setting.plain or next(iter(setting.trials.values()))
    return list(found.values())


def shares_images(trial: str, setting: Setting, predictions: Mapping[str, pd.DataFrame]) -> bool:
    """Return whether a trial has a validation image that a fold of the setting has: folds were drawn differently."""
    own = validation(predictions[trial]).index
    return any(own.isin(validation(predictions[name]).index).any() for name in setting.trials.values())


def together(setting: Setting, predictions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the predictions of a setting: each validation image by the fold that held it out, test by its model."""
    parts = [found[found["split"] == "val"] for fold in sorted(setting.trials)
             for found in [predictions[setting.trials[fold]]]]
    of_model = predictions[setting.model]
    return pd.concat([*parts, of_model[of_model["split"] == "test"]], ignore_index=True)


def line_of(setting: Setting, by_name: Mapping[str, pd.Series], predictions: Mapping[str, pd.DataFrame],
            pooled: pd.DataFrame) -> pd.Series:
    """Return the line of a setting: that of its model, with pooled figures of validation and mean seconds."""
    folds = [by_name[name] for name in setting.trials.values()]
    nums = [len(validation(predictions[name])) for name in setting.trials.values()]
    line = by_name[setting.model].copy()
    line["best_val_acc"] = validation(pooled)["correct"].mean()
    # A loss is the mean over a fold's images.
    line["best_val_loss"] = sum(num * of["best_val_loss"] for num, of in zip(nums, folds, strict=True)) / sum(nums)
    line["std_best_val_acc"] = pd.Series([of["best_val_acc"] for of in folds]).std()
    line["seconds"] = pd.Series([of["seconds"] for of in folds]).mean()
    return line


def spread(table: pd.DataFrame, pooled: Pooled) -> pd.DataFrame:
    """Return the table of all trials, those of a setting one after another, with rank and tests of the setting's line.

    table: that of `rank`; pooled.lines: judged. Its figures stay each trial's own.
    """
    if not pooled.whole:
        return pooled.lines
    lines = {line["trial"]: line for _, line in pooled.lines.iterrows()}
    of_trial = {name: lines[model] for model, found in pooled.whole.items() for name in found.names}
    order = [name for model in lines if model in pooled.whole for name in pooled.whole[model].names]
    table = table.set_index("trial", drop=False).loc[list(dict.fromkeys([*order, *table["trial"]]))]
    table = table.reset_index(drop=True)
    for name in SHARED:
        nothing: Any = "" if name == "verdict" else None if name == "beats_baseline" else float("nan")
        values = [of_trial[trial][name] if trial in of_trial else nothing for trial in table["trial"]]
        table[name] = pd.Series(values, dtype=object if name in ("verdict", "beats_baseline") else float)
    return table


def folds_table(table: pd.DataFrame, pooled: Pooled, varied: Sequence[str]) -> pd.DataFrame:
    """Return a line per setting that has folds: its pooled figures, then mean and standard deviation over the folds.

    table: all trials, with their own figures. varied: settings to show. A setting without all its folds has no pooled
    figures, and `missing_folds` says which it lacks. Empty where no trial has a fold.
    """
    own, lines = table.set_index("trial"), {line["trial"]: line for _, line in pooled.lines.iterrows()}
    rows = []
    for item in pooled.settings:
        row: dict[str, Any] = {"rank": float("nan"), "trials": ", ".join(item.names + item.others),
                               "model_of": item.model, "num_folds": item.num_folds,
                               "missing_folds": ", ".join(map(str, item.missing)),
                               **{name: getattr(item.setting, name) for name in ("lr", "epochs", *varied)}}
        line = lines.get(item.model)
        if line is not None and item.model:
            found = validation(pooled.predictions[item.model])["correct"]
            acc = share(int(found.sum()), len(found))
            row |= {"num_images": acc.num, "num_right": acc.num_right, "pooled_val_acc": acc.value,
                    "pooled_val_acc_low": acc.low, "pooled_val_acc_high": acc.high,
                    "pooled_val_loss": line["best_val_loss"], **{name: line[name] for name in SHARED}}
            folds = own.loc[list(item.trials.values())]
            for name in ("best_val_acc", "best_val_loss", "test_acc", "seconds"):
                values = pd.to_numeric(folds[name]) if name in folds else pd.Series(dtype=float)
                row |= {f"mean_{name}": values.mean(), f"std_{name}": values.std()}
        rows.append(row)
    found = pd.DataFrame(rows)
    return found.sort_values("rank", kind="stable", ignore_index=True) if rows else found
