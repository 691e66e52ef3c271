"""The page's curves of accuracy and loss: which trials are drawn, and how to read them."""

from collections.abc import Iterator

import pandas as pd

from job.record import FIGURES
from job.results.raced import raced_lines
from job.results.report.charts import MOST_LINES, MOST_POINTS, Chart, chart, epoch_lines
from job.results.summary import Summary


def drawn(summary: Summary) -> list[str]:
    """Return the trials whose curves are drawn: the recommended one and the first others, of those with an epoch."""
    names = [name for name in summary.table["trial"] if len(summary.epochs.get(name, ()))]
    return sorted(names, key=lambda name: name != summary.recommendation.trial)[:MOST_LINES]


def curves(summary: Summary) -> Iterator[Chart]:
    """Yield the charts of validation accuracy and loss over the epochs."""
    names, table = drawn(summary), summary.table
    best_epochs = {name: float(epoch) for name, epoch in zip(table["trial"], table["best_epoch"], strict=True)
                   if pd.notna(epoch)}
    for figure, words in (("val_acc", "Validation accuracy"), ("val_loss", "Validation loss")):
        assert figure in FIGURES
        lines = epoch_lines(summary.epochs, names, figure, summary.recommendation.trial, best_epochs)
        text = f"{words} after each epoch, one line per trial, for {len(names)} trials; the table below has the values."
        found = chart(figure, (words, "epoch", words.lower()), lines, text=text)
        if found:
            yield found


def curves_note(summary: Summary) -> str:
    """Return how to read the curves, and which are not drawn."""
    names = drawn(summary)
    note = "One line per trial, named at its end; the ring is the best epoch, whose weights are kept."
    if len(raced_lines(summary.table)):
        note += " The line of a raced trial ends where the race stopped it; its weights are not kept."
    if summary.recommendation.trial:
        note += " The thick line is the recommended trial."
    num = sum(len(found) > 0 for found in summary.epochs.values())
    if num > len(names):
        note += f" Drawn are {len(names)} of {num} trials, the best ones; the workbook has all."
    longest = max((len(summary.epochs[name]) for name in names), default=0)
    if longest > MOST_POINTS:
        note += f" Of {longest:,} epochs about {MOST_POINTS} are drawn, the best one always."
    return note
