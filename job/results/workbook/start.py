"""The sheet Start here: the recommendation, and the table, curves and confusion matrix behind it."""

from collections.abc import Sequence

import pandas as pd

from job.folder.escape import for_workbook
from job.results.compare import is_raced
from job.results.figures import heat_map, varied_in
from job.results.summary import Summary
from job.results.workbook.cells import add_scale, write_confusion, write_heat_map
from job.results.workbook.curves import add_curves
from job.results.workbook.spreadsheet import LINE_PIXELS, Page, kind_of
from job.results.workbook.tables import confusions
from job.results.workbook.trial_sheet import TrialSheet

# The whole table is in Summary; here are the trials ranked highest.
MOST_LINES = 20
MOST_SETTINGS = 4
CHART_COLUMNS = 9
WIDTHS = {"rank": 6, "trial": 9, "lr": 9, "epochs": 8, "seconds": 9, "verdict": 25}
OTHER_WIDTH = 11.5
DEFAULT_WIDTH = 8.43
# Of text that is as wide as so many digits of 11 points, by its size: 12 and 11 points.
CHARACTERS = {"sentence": 0.95, "note": 1.05}


def write_start(page: Page, summary: Summary, sheets: dict[str, TrialSheet], others: Sequence[Page],
                cuts: Sequence[str]) -> None:
    """Write the sheet. others: the sheets to link to. cuts: what the workbook leaves out, in words."""
    columns = columns_of(summary)
    last = len(columns) + CHART_COLUMNS - 1
    width = CHART_COLUMNS * DEFAULT_WIDTH + sum(WIDTHS.get(name, OTHER_WIDTH) for name in columns)
    row = write_sentences(page, summary, last, int(CHARACTERS["sentence"] * width))
    for column, other in enumerate(others, 1):
        page.link(row, column, other, other.name)
    top = row + 2
    below = write_trials(page, summary, sheets, columns, top)
    under = top + 1 + add_curves(page, summary, sheets, (top, len(columns)))
    trial = summary.shown_trial
    values = heat_map(summary.lines, f"best_{summary.monitor}")
    if values is not None:
        wide = len(values.columns) + 2 > len(columns)
        below = write_heat_map(page, values, summary, max(below, under) if wide else below)
    for split, confusion in list(confusions(summary, trial).items())[:1]:
        wide = min(len(confusion), 12) + 2 > len(columns)
        start = max(below, under) if wide else below
        below = write_confusion(page, confusion, summary, trial, split, start)
    write_notes(page, [*summary.notes(), *cuts], last, int(CHARACTERS["note"] * width), max(below, under))
    for column, name in enumerate(columns):
        page.sheet.set_column(column, column, WIDTHS.get(name, OTHER_WIDTH))
    page.sheet.hide_gridlines(2)
    page.sheet.set_selection(row, 1, row, 1)
    page.sheet.set_landscape()
    page.sheet.fit_to_pages(1, 0)
    page.sheet.activate()


def columns_of(summary: Summary) -> list[str]:
    """Return the columns of the narrow table: lr, epochs, a few other settings that vary, and the main figures."""
    table = summary.lines
    shown = table[table["rank"].notna() | is_raced(table)]
    varied = [name for name in varied_in(shown) if name not in ("lr", "epochs")][:MOST_SETTINGS]
    figures = [f"best_{summary.monitor}", "test_acc", "test_recall", "p_race"]
    present = [name for name in dict.fromkeys(figures) if name in table and table[name].notna().any()]
    return ["rank", "trial", "lr", "epochs", *varied, *present, "seconds", "verdict"]


def write_sentences(page: Page, summary: Summary, last: int, most_characters: int) -> int:
    """Write the sentences of the recommendation, the first large; return the first free row."""
    sentences = [for_workbook(text) for text in summary.recommendation.sentences]
    formats = page.book.formats
    for row, text in enumerate(sentences):
        page.across(row, last, text, "sentence", most_characters)
        head, colon, rest = text.partition("): ")
        if row == 0 and summary.recommendation.trial and colon:
            # Over a merged cell, its first cell can be written again.
            page.sheet.write_rich_string(0, 0, formats["headline"], f"{head})", formats["rest"], f": {rest}",
                                         formats["sentence"])
            # The headline's letters are a third wider.
            num_lines = 1 + (len(text) + len(head) // 3) // most_characters
            page.sheet.set_row_pixels(0, LINE_PIXELS * num_lines + 10)
        elif row == 0:
            page.sheet.write_string(0, 0, text, formats["title"])
    return len(sentences) + 1


def write_trials(page: Page, summary: Summary, sheets: dict[str, TrialSheet], columns: Sequence[str], top: int) -> int:
    """Write the narrow table, by rank, with colour scales and the baseline below; return the first free row."""
    table = summary.lines
    shown = table[(table.index < MOST_LINES) | (table["trial"] == summary.recommendation.trial)]
    for column, name in enumerate(columns):
        page.put(top, column, name, "head centre")
    page.sheet.set_row_pixels(top, 28)
    for row, (_, line) in enumerate(shown.iterrows(), top + 1):
        mark = "best " if line["trial"] == summary.recommendation.trial else ""
        for column, name in enumerate(columns):
            value = verdict_of(summary, line) if name == "verdict" else line[name]
            page.put(row, column, value, f"{mark}{'' if name == 'verdict' else 'centre '}{kind_of(name)}")
        if line["trial"] in sheets:
            page.link(row, 1, sheets[line["trial"]].page, line["trial"], mark)
    end = top + len(shown)
    for column, name in enumerate(columns):
        add_scale(page, summary, name, shown[name], (top + 1, column, end, column))
    page.book.columns += [(page.name, name, name) for name in columns]
    return write_below(page, summary, columns, end + 1, len(table) - len(shown))


def verdict_of(summary: Summary, line: pd.Series) -> str:
    """Return the verdict in the words of Start here, or why a trial has none."""
    if line["trial"] == summary.recommendation.trial:
        return "RECOMMENDED"
    if line["trial"] in summary.recommendation.cheaper:
        return f"{line['verdict']}, cheaper"
    if line["status"] == "raced":
        return f"raced after epoch {line['epochs_run']}"
    if pd.isna(line["rank"]):
        return str(line["status"]) if line["status"] != "done" else "not ranked"
    if not summary.recommendation.trial and line.get("beats_baseline") is not None:
        return "not shown to beat baseline"
    return str(line["verdict"])


def write_below(page: Page, summary: Summary, columns: Sequence[str], row: int, num_left: int) -> int:
    """Write the baseline as the table's last line, and what the table does not show; return the first free row."""
    found = summary.recommendation
    shares = {"best_val_acc": found.baseline_val, "test_acc": found.baseline_test}
    if found.baseline_val:
        page.put(row, 1, f"baseline: always {found.commonest!r}", "italic")
        for column, name in enumerate(columns):
            if share := shares.get(name):
                page.put(row, column, share.value, "centre figure")
        row += 1
    lines = [f"sorted by {summary.monitor} of each trial's best epoch"]
    if found.num_folds:
        lines.append("a line with folds: best_val_acc is over all its folds, seconds are their mean (sheet Folds)")
    if any(shares.values()):
        lines.append("accuracy below the baseline is orange")
    if summary.positive and "test_recall" in columns:
        lines.append(f"test_recall is that of {summary.positive!r}")
    if num_left:
        lines.append(f"Summary has {num_left} more trial{'s' * (num_left != 1)}")
    for number, text in enumerate(lines, row):
        page.sheet.write_string(number, 1, for_workbook(text), page.book.formats["small"])
    return row + len(lines) + 1


def write_notes(page: Page, notes: Sequence[str], last: int, most_characters: int, row: int) -> None:
    """Write the notes, one per line, across the sheet."""
    if notes:
        page.sheet.write_string(row, 0, "Notes", page.book.formats["title"])
    for number, note in enumerate(notes, row + 1):
        page.across(number, last, note, "note", most_characters)
