"""The documents as tests read them: sections, tables, code blocks, and the `job` command lines in them."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import typer

from job.cli.main import app
from support import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), ROOT / "k8s" / "README.md", ROOT / "docker" / "README.md",
         ROOT / "CHANGELOG.md", ROOT / "benchmarks.md"]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
COMMAND = typer.main.get_command(app)
COMMANDS = COMMAND.commands  # type: ignore[attr-defined]
# typer's own UsageError, or click's, whichever this version of typer has.
WRONG_USAGE = cast(type[Exception], typer.BadParameter.__mro__[1])
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
BETWEEN_COMMANDS = ("|", "&&", ";", "&")


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one."""
    parts = re.split(rf"(?m)^#+ {re.escape(heading)}\n", text_of(page))
    assert len(parts) == 2, f"{page} has no heading {heading!r}, or two"
    return re.split(r"(?m)^#+ ", parts[1])[0]


def table_under(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its own heading."""
    lines = [line for line in section(page, heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def in_code(cell: str) -> list[str]:
    """The code spans of a cell."""
    return re.findall(r"`([^`]+)`", cell)


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """The code blocks of a page, as kind and text; an indented one is of kind ''."""
    text = text_of(page)
    yield from ((kind, re.sub(r"(?m)^ {3}(?=\S)", "", block)) for kind, block in FENCE.findall(text))
    for block in re.findall(r"\n\n((?: {4}.*\n)+)", FENCE.sub("", text)):
        yield "", re.sub(r"(?m)^ {4,7}(?=\S)", "", block)


def prose(page: str) -> str:
    """A page without its code blocks; `code` stands for each code span."""
    text = re.sub(r"(?m)^ {4}.*$", "", FENCE.sub("", text_of(page)))
    return re.sub(r"`[^`]*`", "`code`", text)


def commands_in(page: str) -> Iterator[tuple[list[str], bool]]:
    """The arguments of each `job` command line, and whether it stands in a code block, where it must be whole."""
    for kind, block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines() if kind in ("", "sh") else ():
            words = [] if line.startswith(("job/", "#")) else split_words(line)
            for is_between, part in itertools.groupby(words, BETWEEN_COMMANDS.__contains__):
                if not is_between and (args := job_arguments(list(part))):
                    yield args, True
    for span in re.findall(r"`((?:job|docker run) [^`]+)`", FENCE.sub("", text_of(page))):
        if args := job_arguments(split_words(span)):
            yield args, False


def split_words(line: str) -> list[str]:
    """A line as the shell splits it; nothing for what is not a line of the shell."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def job_arguments(words: list[str]) -> list[str]:
    """What `job` gets in a command that is `job`, or that runs the container image, whose entry point it is."""
    words = list(itertools.takewhile(lambda word: word != ">", words))
    if words[:1] == ["job"]:
        return words[1:]
    image = [i for i, word in enumerate(words) if word.rpartition("/")[2] == "trialgrid"]
    return words[image[0] + 1:] if words[:2] == ["docker", "run"] and image else []


def wrong_with(args: list[str], whole: bool) -> str:
    """Why these are no arguments of `job`; '' where they are. Only option names count where they need not be whole."""
    known = {"-h", "--help", *(name for param in COMMAND.params for name in param.opts)}
    options = list(itertools.takewhile(lambda word: word.startswith("-"), args))
    if unknown := set(options) - known:
        return f"job has no option {', '.join(unknown)}"
    if not (args := args[len(options):]):
        return ""
    name, *rest = args
    if name not in COMMANDS:
        return f"there is no command {name}"
    known = {"-h", "--help", *(word for param in COMMANDS[name].params for word in param.opts + param.secondary_opts)}
    if unknown := {word for word in rest if word.startswith("-")} - known:
        return f"{name} has no option {', '.join(unknown)}"
    if whole and rest[-1:] != ["..."] and not {"-h", "--help"} & set(rest):
        try:
            COMMANDS[name].make_context(name, rest)
        except WRONG_USAGE as error:
            return str(error)
    return ""


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"(?m)^#+ (.+)$", FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def modules_drawn(drawing: str) -> dict[str, set[str]]:
    """Room -> the modules that a drawing of the floors names in it, after `room/` and before three spaces.

    A line that begins with `inner/` names modules of a room within the room, which are returned as `inner/module`.
    """
    drawn: dict[str, set[str]] = {}
    for line in drawing.splitlines():
        room, rest = re.match(r"(\w+)?/? *\|? *(.*)", line).groups()  # type: ignore[union-attr]
        if room:
            drawn[room] = set()
        inner, *others = re.split(r" {3,}", rest)[0].split() or [""]
        drawn[[*drawn][-1]] |= {inner + name for name in others} if inner.endswith("/") else {*others, inner} - {""}
    return drawn
