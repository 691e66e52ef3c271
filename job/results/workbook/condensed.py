"""The sheet Condensed: the first study's own layout and titles, trials as columns, settings and medians as rows."""

from collections.abc import Mapping

import pandas as pd

from job.record import FIGURES
from job.results.compare import is_raced
from job.results.summary import settings_of
from job.results.workbook.spreadsheet import Page, kind_of
from job.results.workbook.trial_sheet import TrialSheet, median

TITLES = {"train_loss": "Train_Loss", "train_acc": "Train_Acc", "val_loss": "Val_Loss", "val_acc": "Val_Acc"}
CONDENSED = {"lr": "lr", "step_size": "Step Size", "gamma": "Gamma", "momentum": "Momentum", "epochs": "Epoch#",
             "seconds": "Time(s)"}


def write_condensed(page: Page, table: pd.DataFrame, sheets: Mapping[str, TrialSheet],
                    epochs: Mapping[str, pd.DataFrame]) -> None:
    """Write the study's layout; medians link to the trials' sheets, those of trials without a sheet are values."""
    names = [*CONDENSED, *(name for name in settings_of(table) if name not in CONDENSED)]
    # The medians of a raced trial are those of a few epochs.
    names += ["status", "epochs_run"] if is_raced(table).any() else []
    page.put(0, 0, "", "head")
    medians_from = len(names) + 3
    for row, name in enumerate(names, 1):
        page.put(row, 0, CONDENSED.get(name, name), "bold")
    for row, name in enumerate(FIGURES, medians_from):
        page.put(row, 0, f"Median_{TITLES[name]}", "bold")
    for column, (_, line) in enumerate(table.iterrows(), 1):
        trial = line["trial"]
        page.put(0, column, f"Trial {trial}", "head right")
        for row, name in enumerate(names, 1):
            page.put(row, column, line.get(name), kind_of(name))
        for row, name in enumerate(FIGURES if len(epochs[trial]) else (), medians_from):
            value = median(epochs[trial][name])
            if trial in sheets:
                link = f"='{sheets[trial].page.name}'!{sheets[trial].medians[name]}"
                page.formula(row, column, link, value, kind_of(name))
            else:
                page.put(row, column, value, kind_of(name))
    page.book.columns += [(page.name, CONDENSED.get(name, name), name) for name in names]
    page.book.columns += [(page.name, f"Median_{TITLES[name]}", f"median_{name}") for name in FIGURES]
    page.close(1, 1)
