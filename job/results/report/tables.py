"""The page's tables: trials, what was spent, the data passport, settings and provenance."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from job.data.passport import Passport
from job.results.figures import heat_map, spent
from job.results.raced import race_cost
from job.results.summary import Summary, has_values, settings_of
from job.trial import Trial

# A figure of the row -> what heads its column. The row's own name stands below it.
FIGURES = {
    "best_val_acc": "validation accuracy", "std_best_val_acc": "deviation over folds", "verdict": "verdict",
    "p_vs_best": "p vs best", "p_vs_best_holm": "p vs best, Holm", "p_race": "p in the race",
    "test_acc": "test accuracy", "test_recall": "test recall", "test_errors": "test errors",
    "test_false_negatives": "false negatives on test", "seconds": "seconds",
    "best_epoch": "best epoch", "best_val_loss": "validation loss"}
FOUR_DIGITS = ("_acc", "_loss", "_precision", "_recall", "_f1", "_best", "_holm", "p_race")
PROVENANCE = {"device": "device", "precision_used": "precision", "host": "host", "image": "image",
              "git_commit": "commit", "pack_hash": "pack", "versions": "versions"}
MOST_VALUES = 6
MOST_LISTED = 50
NUM_SHADES = 6


@dataclass(frozen=True)
class Cell:
    """A value of a trial: `exact` as it is in the row, `text` as it is shown."""

    name: str
    exact: str
    text: str
    align: str


@dataclass(frozen=True)
class Heading:
    """The heading of a column: the row's own name, and words for it."""

    name: str
    words: str
    align: str


@dataclass(frozen=True)
class Line:
    """A trial's line of the table."""

    name: str
    cells: list[Cell]


def trials_table(summary: Summary) -> tuple[list[Heading], list[Line]]:
    """Return headings and lines of the table of trials: those settings that vary, and those figures that there are."""
    table = summary.lines
    varied = [name for name in settings_of(table) if name in ("lr", "epochs") or table[name].nunique(dropna=False) > 1]
    state = ["status"] if set(table["status"]) != {"done"} else []
    figures = [name for name in FIGURES if name in table and has_values(table[name])]
    names = ["rank", "trial", *state, *varied, *figures]
    lines = [Line(str(line["trial"]), [cell(name, line[name]) for name in names]) for _, line in table.iterrows()]
    aligns = [next((line.cells[place].align for line in lines if line.cells[place].exact), "")
              for place in range(len(names))]
    words = FIGURES | ({"test_recall": f"test recall of {summary.positive}"} if summary.positive else {})
    return [Heading(name, words.get(name, name), align) for name, align in zip(names, aligns, strict=True)], lines


def cell(name: str, value: Any) -> Cell:
    """Return a cell with the exact value, for sorting, and its text."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return Cell(name, "", "", "number" if name != "verdict" else "")
    if isinstance(value, str):
        return Cell(name, value, value, "")
    return Cell(name, str(value), shown(name, value), "number")


def shown(name: str, value: Any) -> str:
    """Return the text of a figure or a setting: four digits of a share or a loss, three of few seconds."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    if name.startswith(("p_vs_", "p_race")) and 0 <= value < 0.0001:
        return "< 0.0001"
    if name.endswith(FOUR_DIGITS):
        return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.4g}"
    if name.endswith("seconds"):
        return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"
    return f"{value:.6g}"


@dataclass(frozen=True)
class Heat:
    """A heat map: rows of (value of the first setting, cells of (text, shade))."""

    words: str
    row_name: str
    column_name: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]


def heat(summary: Summary) -> Heat | None:
    """Return the monitored figure by the two settings that the grid varies, None if it does not vary two."""
    figure = f"best_{summary.monitor}"
    found = heat_map(summary.lines, figure)
    if found is None or found.isna().all(axis=None):
        return None
    low, high = float(found.min(axis=None)), float(found.max(axis=None))

    def tinted(value: float) -> tuple[str, str]:
        if math.isnan(value):
            return "", ""
        part = (value - low) / (high - low or 1)
        part = 1 - part if figure.endswith("loss") else part
        return shown(figure, value), str(min(NUM_SHADES - 1, int(part * NUM_SHADES)))

    rows = [(shown(str(found.index.name), label), [tinted(float(value)) for value in line])
            for label, line in zip(found.index, found.to_numpy(), strict=True)]
    return Heat(FIGURES.get(figure, figure).capitalize(), str(found.index.name), str(found.columns.name),
                [shown(str(found.columns.name), label) for label in found.columns], rows)


def spent_facts(summary: Summary) -> list[tuple[str, str]]:
    """Return what all trials took, in words."""
    seconds = spent(summary)
    table = summary.table
    ran = pd.to_numeric(table["epochs_run"]).sum() if "epochs_run" in table else 0
    longest = table.loc[table["seconds"].idxmax()] if table["seconds"].notna().any() else None
    found = [("training and validation", duration(seconds["trained"])),
             ("saved by trajectories", duration(seconds["saved"])),
             *race_facts(table), ("lost in failed trials", duration(seconds["failed"])),
             ("spent on diverged trials", duration(seconds["diverged"])), ("epochs in all rows", f"{ran:g}")]
    return found + ([("longest trial", f"{longest['trial']}, {duration(longest['seconds'])}")]
                    if longest is not None else [])


def race_facts(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return what the race saved, in words, if it stopped a trial."""
    if (cost := race_cost(table)) is None:
        return []
    text = f"raced trials took {cost.epochs_taken:,} epochs instead of up to {cost.epochs_asked:,}"
    return [("saved by the race", text if cost.seconds_saved is None else
             f"about {duration(cost.seconds_saved)}, by the pace of their epochs: {text}")]


def duration(seconds: float) -> str:
    """Return seconds, and from two minutes on also hours and minutes."""
    text = f"{seconds:,.1f} s"
    minutes = round(seconds / 60)
    return text if seconds < 120 else f"{text} ({minutes // 60} h {minutes % 60:02d} min)"


def passport_parts(passport: Passport | None) -> dict[str, Any] | None:
    """Return facts, counts and lists of a passport, None if there is none."""
    if passport is None:
        return None
    options, counts = passport.options, passport.counts
    splits = [split for split in ("train", "val", "test") if any(counts[split].values())]
    sums = {split: sum(counts[split].values()) for split in splits}
    facts = [("source", passport.source), ("images", f"{passport.num_images:,}"),
             *((f"{split} images", f"{num:,}") for split, num in sums.items()),
             *([] if "test" in sums else [("test images", "none: this pack has no test split")]),
             ("classes", f"{len(passport.classes):,}"), ("positive class", passport.positive or "none"),
             *((f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if name != "positive"),
             ("hash", passport.pack_hash)]
    lists = {"Warnings": passport.warnings,
             "Rejected files": [f"{item['image']}: {item['reason']}" for item in passport.rejected],
             "Groups of byte-identical images": listed(passport.duplicates),
             "Byte-identical images with different labels": listed(passport.conflicts),
             "Groups of near-identical images": listed(passport.near_duplicates),
             "Unused images, because they are also in another split": passport.left_out}
    facts += [(words.lower(), "none") for words, items in lists.items() if not items]
    return {"facts": facts, "splits": splits,
            "counts": [(name, [counts[split][name] for split in splits]) for name in passport.classes],
            "lists": [(words, len(items), list(items[:MOST_LISTED])) for words, items in lists.items()]}


def listed(groups: Iterable[Sequence[str]]) -> list[str]:
    """Return groups of names, each as one text."""
    return [", ".join(group) for group in groups]


def settings_facts(summary: Summary) -> list[tuple[str, str]]:
    """Return each setting with its value, or with those that it takes."""
    table = summary.table
    return [(spec.name, values(spec.name, table[spec.name])) for spec in fields(Trial)
            if spec.name in table and spec.name != "trial"]


def provenance_facts(summary: Summary) -> list[tuple[str, str]]:
    """Return where the rows come from: machine, software, pack, and when they were written."""
    table = summary.table
    found = [(words, values(name, table[name].map(in_words))) for name, words in PROVENANCE.items()
             if name in table and has_values(table[name].map(in_words))]
    for name, words, end in (("started_at", "first trial started", min), ("finished_at", "last trial finished", max)):
        times = [str(time) for time in table.get(name, ()) if time]
        found += [(words, end(times))] if times else []
    return found


def in_words(value: Any) -> str:
    """Return a value of a row as text; an object as its names and values."""
    return ", ".join(f"{name} {of}" for name, of in value.items()) if isinstance(value, dict) else str(value)


def values(name: str, column: pd.Series) -> str:
    """Return the different values of a column, at most MOST_VALUES of them."""
    found = list(dict.fromkeys(column.dropna()))
    if name in ("lr", "epochs") or all(isinstance(value, (int, float)) for value in found):
        found = sorted(found)
    texts = [shown(name, value) for value in found[:MOST_VALUES]]
    more = len(found) - len(texts)
    return ", ".join(text for text in texts if text) + (f" and {more} more" if more else "")
