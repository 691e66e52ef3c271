"""Text from outside (names of images, classes and hosts, causes), escaped for the place where it is shown."""

import re
import unicodedata

# A cell of a workbook holds 32,767 characters.
MOST_CELL = 32_000
# Joiners belong to words of Persian and Hindi, and to emoji.
JOINERS = "\u200c\u200d"
# Most text needs no look at each character: these are the categories Cc, Cf, Cs, Zl and Zp, and more.
SUSPECT = re.compile(r"[^ -~\xa1-\xac\xae-\u02ff]")
# Any ASCII punctuation may be escaped in Markdown; these mean something in the middle of a line.
MARKUP = re.compile(r"[\\`*_{}\[\]<>|#&~!$]")
# A spreadsheet takes a cell for a formula if it begins so, unless it is a number. The apostrophe is our escape.
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", re.IGNORECASE)


def for_terminal(text: str) -> str:
    r"""Return one line for a terminal: what would move its cursor or turn its text around is shown as \x1b, \u202e."""
    return SUSPECT.sub(lambda found: visible(found[0]), text)


def lines_for_terminal(text: str) -> str:
    """Return a text of several lines for a terminal, each escaped."""
    return "\n".join(map(for_terminal, text.split("\n")))


def visible(character: str) -> str:
    """Return a character, or its escape if it is a control, a format or half a character."""
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in JOINERS:
        return character
    return character.encode("unicode_escape").decode()


def for_markdown(text: str) -> str:
    """Return a text for one line of a Markdown page: escaped as on a terminal, and nothing in it is markup."""
    return MARKUP.sub(r"\\\g<0>", for_terminal(text))


def for_workbook(text: str) -> str:
    """Return a text for a cell of a workbook, or for a title: escaped as on a terminal, and no longer than a cell."""
    shown = lines_for_terminal(text)
    return shown if len(shown) <= MOST_CELL else f"{shown[:MOST_CELL]}..."


def for_page(text: str) -> str:
    """Return a text for a web page, whose template escapes its markup: escaped as on a terminal."""
    return lines_for_terminal(text)


def for_csv(text: str) -> str:
    """Return a text as a cell of a CSV that a spreadsheet does not take for a formula; `from_csv` gives it back.

    A text that begins like a formula gets an apostrophe in front, and so does one that begins with apostrophes before
    that. Any other text, and any number, stays as it is.
    """
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def from_csv(cell: str) -> str:
    """Return the text of which `for_csv` made a cell."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
