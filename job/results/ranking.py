"""Rows -> one table, the best trial first."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import pandas as pd

from job.record import FIGURES, Row
from job.trial import Trial, is_max

# What job grid calls the folds of a setting.
FOLD_NAME = re.compile(r"([0-9]{1,15})(?:-f([0-9]{1,3}))?", re.ASCII)


def natural(name: str) -> tuple[float, int, str]:
    """Return a sort key for trial names: numbers first and by value, so that 10 follows 9, and 10-f2 follows 10-f1."""
    found = FOLD_NAME.fullmatch(name)
    return (int(found[1]), int(found[2] or 0), name) if found else (math.inf, 0, name)


def rank(rows: Sequence[Row], pack_hash: str) -> tuple[pd.DataFrame, str, bool]:
    """Return the table, best trial first, the figure it is sorted by, and whether a higher one is better.

    That figure is the validation figure that all trials monitor, or val_acc if they differ. Where a trial is raced, the
    column `p_race` is the p-value of the race's test (`job.training.race.Place`), NaN where there was none.
    """
    lines = [row.settings | {key: value for key, value in asdict(row).items() if key != "settings"} for row in rows]
    table = pd.DataFrame(lines)
    monitored = {(str(row.settings.get("best_monitor", "val_acc")), str(row.settings.get("best_mode", "auto")))
                 for row in rows if row.pack_hash == pack_hash and row.status != "failed"}
    # Figures on the training images do not show which trial generalises best.
    monitor, mode = next(iter(monitored)) if len(monitored) == 1 else ("val_acc", "auto")
    monitor, mode = (monitor, mode) if monitor.startswith("val_") else ("val_acc", "auto")
    table["seed"] = table.get("seed", 0)
    for name in {"epochs", "seconds", *(f"{part}_{figure}" for part in ("best", "median", "last")
                                        for figure in FIGURES)}:
        table[name] = pd.to_numeric(table[name]) if name in table else float("nan")
    if (table["status"] == "raced").any():
        table["p_race"] = [p_race(row) for row in rows]
    usable = ((table["pack_hash"] == pack_hash) & ~table["status"].isin(["raced", "failed"])
              & table[f"best_{monitor}"].notna())
    return in_order(table, usable, monitor, is_max(monitor, mode)), monitor, is_max(monitor, mode)


def in_order(table: pd.DataFrame, usable: pd.Series, monitor: str, highest: bool) -> pd.DataFrame:
    """Return the table with `rank`, best line first; lines that are not usable come last and have rank NaN.

    Of these, raced ones come after the others that have figures, and those without figures last. Ties: lower validation
    loss first, then fewer epochs.
    """
    tier = (~usable).astype(int) + (table["status"] == "raced") + 2 * table[f"best_{monitor}"].isna()
    order = table.assign(tier=tier).sort_values(
        ["tier", f"best_{monitor}", "best_val_loss", "epochs"], ascending=[True, not highest, True, True],
        kind="stable").index
    table = table.loc[order].reset_index(drop=True)
    return table.assign(rank=[number + 1.0 if number < usable.sum() else float("nan") for number in range(len(table))])


def p_race(row: Row) -> float:
    """Return the p-value of the decision that stopped a raced trial; NaN where the row has none."""
    p = row.race.get("p")
    return float(p) if isinstance(p, int | float) and 0 <= p <= 1 else math.nan


def as_trial(line: pd.Series) -> Trial:
    """Return the Trial of a line of the table."""
    values: dict[str, Any] = {}
    for spec in fields(Trial):
        if spec.name in line and pd.notna(line[spec.name]):
            kind: Any = type(spec.default)
            values[spec.name] = kind(line[spec.name])
    return Trial(**values)
