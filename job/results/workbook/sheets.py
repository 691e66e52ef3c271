"""The summary workbook: what to use on the first sheet, then whole tables, the study's layout, a sheet per trial."""

import io

from job.results.ranking import natural
from job.results.summary import Summary, settings_of
from job.results.workbook.columns import write_columns
from job.results.workbook.condensed import CONDENSED, write_condensed
from job.results.workbook.confidence import write_confidence
from job.results.workbook.spreadsheet import Book, Page
from job.results.workbook.start import write_start
from job.results.workbook.tables import (
    write_classes,
    write_folds,
    write_issues,
    write_mistakes,
    write_repeats,
    write_summary,
)
from job.results.workbook.trial_sheet import TrialSheet, write_trial

# A workbook of more sheets opens slowly and is not leafed through; the trials ranked highest have one.
MOST_SHEETS = 60


def workbook_bytes(summary: Summary) -> bytes:
    """Return the workbook as the bytes of an xlsx file."""
    buffer = io.BytesIO()
    book = Book(buffer)
    start, table = book.page("Start here"), book.page("Summary")
    wrong, classes, confidence, condensed = (book.page(name) for name in ("Mistakes", "Per class", "Confidence",
                                                                             "Condensed"))
    repeats = [book.page("Repeats")] if len(summary.repeats) else []
    folds = [book.page("Folds")] if len(summary.folds) else []
    found = summary.label_issues if summary.label_issues and len(summary.label_issues.table) else None
    issues = [book.page("Label issues")] if found else []
    more = [*repeats, *folds, *issues]
    columns = book.page("Columns")
    sheets, cuts = write_trials(book, summary, start)
    trial = summary.shown_trial
    write_start(start, summary, sheets, [table, wrong, classes, confidence, condensed, *more, columns], cuts)
    write_summary(table, summary, sheets)
    write_mistakes(wrong, summary, trial)
    write_classes(classes, summary, trial)
    write_confidence(confidence, summary, trial)
    in_order = summary.table.iloc[sorted(range(len(summary.table)), key=lambda place: natural(
        summary.table["trial"].iloc[place]))]
    write_condensed(condensed, in_order, sheets, summary.epochs)
    for page in repeats:
        write_repeats(page, summary.repeats)
    for page in folds:
        write_folds(page, summary.folds)
    for page in issues:
        assert found
        write_issues(page, found)
    order = [page.name for page in (start, table, wrong, classes, confidence, condensed, *more)]
    write_columns(columns, sorted(book.columns, key=lambda found: (*order, found[0]).index(found[0])))
    book.workbook.close()
    return buffer.getvalue()


def write_trials(book: Book, summary: Summary, start: Page) -> tuple[dict[str, TrialSheet], list[str]]:
    """Write a sheet per trial, in the order of their names; return them by trial, and what is left out, in words."""
    names = list(summary.table["trial"])
    best = summary.recommendation.trial
    kept = set(sorted(names, key=lambda name: name != best)[:MOST_SHEETS])
    settings = ["trial", *(name for name in CONDENSED if name != "seconds"), *settings_of(summary.table)]
    lines = {line["trial"]: line for _, line in summary.table.iterrows()}
    pages = {name: book.page(f"Trial {name}") for name in sorted(kept, key=natural)}
    sheets = {name: write_trial(page, lines[name], summary.epochs[name], list(dict.fromkeys(settings)), name == best,
                                start) for name, page in pages.items()}
    cut = [f"{len(names)} trials are in Summary and Condensed; the {len(kept)} ranked highest have a sheet of their "
           "own, the epochs of the others are in trials/NAME/epochs.csv"] if len(kept) < len(names) else []
    return sheets, cut
