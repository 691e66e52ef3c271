"""The house rules: short files and functions, the vocabulary alone at job/'s root, and tests in the rooms they test."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT

MOST_LINES_OF_A_FILE = 220
MOST_LINES_OF_A_FUNCTION = 40
VOCABULARY = {"trial", "models", "record", "errors", "process"}
SOURCES = [path for room in ("job", "scripts", "tests") for path in sorted((ROOT / room).rglob("*.py"))]
ROOMS = {path.parent.name for path in (ROOT / "job").glob("*/__init__.py")}


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of lines of each function, decorators aside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_file_is_short_says_what_it_holds_and_its_functions_are_short(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MOST_LINES_OF_A_FILE
    assert {name: lines for name, lines in functions(tree) if lines > MOST_LINES_OF_A_FUNCTION} == {}
    assert ast.get_docstring(tree)


def test_only_the_vocabulary_lies_at_the_root_of_job() -> None:
    assert {path.stem for path in (ROOT / "job").glob("*.py")} == VOCABULARY | {"__init__", "__main__"}


def test_each_room_of_tests_is_named_after_a_room_of_job_but_the_campaign() -> None:
    rooms = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert rooms == ROOMS | {"campaign"}


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest and mypy know them by name alone, without their rooms."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py")]
    assert sorted(set(names)) == sorted(names)
