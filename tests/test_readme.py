"""The README says what the program does."""

import re
from dataclasses import fields

from conftest import ROOT, job
from job.errors import JobError
from job.trial import Trial

README = (ROOT / "README.md").read_text()


def table_under(heading: str) -> list[list[str]]:
    """The lines of the first table below a heading, without its own heading."""
    text = README.split(f"## {heading}\n")[1]
    lines = [line for line in text.split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_readme_lists_every_grid_column_with_its_default_and_meaning() -> None:
    found = {name: (default, meaning) for name, default, meaning in table_under("The grid")}
    shown = {True: "yes", False: "no"}
    expected = {spec.name: (shown[spec.default] if isinstance(spec.default, bool) else str(spec.default), spec.metadata["help"])
                for spec in fields(Trial)}
    expected["trial"] = ("1, 2, ...", expected["trial"][1])
    assert found == expected


def test_readme_lists_every_exit_code() -> None:
    codes = {int(code) for code, _ in table_under("Exit codes")}
    kinds: list[type[JobError]] = [JobError, *JobError.__subclasses__()]
    assert codes == {0, 2} | {kind.exit_code for kind in kinds}


def test_readme_and_help_name_the_same_commands() -> None:
    named = {re.match(r"job (\w+)", line[0]).group(1) for line in table_under("Your own images")}  # type: ignore[union-attr]
    listed = set(re.findall(r"^  (\w+)  ", job("--help").out.split("Commands:")[1], re.MULTILINE))
    assert named == listed


def test_help_of_grid_offers_every_column() -> None:
    text = job("grid", "--help").out
    assert all(f"--{spec.name.replace('_', '-')}" in text for spec in fields(Trial) if spec.name != "trial")
