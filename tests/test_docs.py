"""The documents are true: links, commands, paths, tables and examples are those of the code."""

import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

from job.data.pack import Passport
from job.data.table import Packed
from job.errors import JobError
from job.folder.grid import parse_grid
from job.models import LEAST
from job.record import FIGURES, Epoch, Row
from job.training.exact import mcnemar, mcnemar_better, share
from job.trial import Trial
from pages import COMMANDS, NAMES, anchors, blocks, commands_in, in_code, modules_drawn, prose, section, table_under
from pages import text_of as text
from pages import wrong_with as why_wrong
from support import ROOT, Grid, environment, job, shared

GRID, FOLDER, OPERATIONS = "docs/grid.md", "docs/sweep-folder.md", "docs/operations.md"
# What we said once; the field has names for it.
OLD_WORDS = ["nets?", "whom", "ere", "heeds?", "in vain", "of ours", "cannot be told from", "goes? on where",
             "that which", "what it is to be", "half a sweep", "as often as", "do(?:es)? not look at",
             "(?:images?|epochs?|seconds?|requests|lines?|rows?|Jobs?|process|kB|MB) an? "
             "(?:trial|image|epoch|step|second|minute|class|split|seed|GPU|core|pod|trajectory|file)"]
TYPES = {"str": "text", "int": "integer", "int | None": "integer or null", "float | None": "number or null",
         "list[list[int]] | None": "matrix or null", "list[str]": "list of text", "dict[str, str]": "object",
         "dict[str, typing.Any]": "object",
         "Literal['done', 'diverged', 'raced', 'failed']": "`done`, `diverged`, `raced` or `failed`"}
COLUMNS = re.compile(r"(?<=<!-- columns: TRIALGRID_WRITE_DOCS=1 writes them -->\n).*?(?=<!-- /columns -->)", re.DOTALL)
ENVIRONMENT = re.compile(r'environ(?:\.get\(|\.setdefault\(|\[)"(\w+)"|"(\w+)" (?:not )?in os\.environ')


@pytest.mark.parametrize("page", NAMES)
def test_links_and_anchors_resolve(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page)) + re.findall(r'(?:src|href)="([^"]+)"', text(page))
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    assert not broken, f"{page} links to what is not there: {broken}"


@pytest.mark.parametrize("page", NAMES)
def test_command_lines_are_ones_that_job_takes(page: str) -> None:
    checked = [(args, why_wrong(args, whole)) for args, whole in commands_in(page)]
    wrong = [f"job {shlex.join(args)}: {why}" for args, why in checked if why]
    assert not wrong, f"{page}:\n" + "\n".join(wrong)


def test_command_lines_of_the_pages_are_found() -> None:
    counts = {page: len([args for args, whole in commands_in(page) if whole]) for page in NAMES}
    assert counts[GRID] >= 4 and counts["k8s/README.md"] >= 6 and counts["docker/README.md"] >= 4, counts
    assert why_wrong(["grid", "--lr", "high"], True) and why_wrong(["grid", "--rate", "1"], False)


@pytest.mark.parametrize("page", NAMES)
def test_paths_of_the_repository_exist(page: str) -> None:
    named = set(re.findall(r"(?<![\w/.:@-])((?:scripts|tests|job|docker|k8s)/[\w./-]*\w)", text(page)))
    absent = {path for path in named if not (ROOT / path).exists() and path != "job/prepare" and "/mine" not in path}
    assert not absent, f"{page} names {sorted(absent)}"


@pytest.mark.parametrize("page", NAMES)
def test_words_are_those_of_the_field(page: str) -> None:
    words = re.compile(rf"\b(?:{'|'.join(OLD_WORDS)})\b", re.IGNORECASE)
    found = [hit[0] for hit in words.finditer(prose(page))]
    assert not found, f"{page} says {found}"


def test_readme_is_read_in_one_sitting() -> None:
    assert len(text("README.md").splitlines()) <= 120


def test_grid_table_has_every_column_with_its_default_and_meaning() -> None:
    shown = {True: "yes", False: "no"}
    defaults = {spec.name: shown.get(spec.default, spec.default) if isinstance(spec.default, bool) else spec.default
                for spec in fields(Trial)} | {"trial": "1, 2, ..."}
    lines = [f"| `{spec.name}` | {defaults[spec.name]} | {spec.metadata['help']} |" for spec in fields(Trial)]
    wanted = "\n".join(["", "| column | default | meaning |", "| --- | --- | --- |", *lines, "", ""])
    if os.environ.get("TRIALGRID_WRITE_DOCS"):
        (ROOT / GRID).write_text(COLUMNS.sub(lambda _: wanted, text(GRID)))
    have = COLUMNS.search(text(GRID))
    assert have and have[0] == wanted, f"{GRID}: TRIALGRID_WRITE_DOCS=1 writes this table into it:\n{wanted}"


def test_table_of_models_has_all_of_them_with_their_least_sizes() -> None:
    lines = [(in_code(names), size) for names, size in table_under(GRID, "Models")]
    assert {name: int(re.search(r"\d+", size)[0]) for names, size in lines for name in names} == LEAST  # type: ignore[index]


def test_examples_of_grids_are_grids_and_job_grid_prints_what_is_shown() -> None:
    shown = [block for kind, block in blocks(GRID) if kind == "csv"]
    assert len(shown) >= 3 and all(parse_grid(block) for block in shown)
    printed = [job(*args).out for args, whole in commands_in(GRID) if whole and args[0] == "grid"]
    assert len(printed) >= 4 and all(parse_grid(block) for block in printed)
    assert set(shown[:2]) <= set(printed)


def test_commands_are_those_of_help() -> None:
    assert {in_code(line[0])[0].split()[1] for line in table_under(OPERATIONS, "Commands")} == set(COMMANDS)


def test_help_of_grid_offers_every_column() -> None:
    help = job("grid", "--help").out
    assert all(f"--{spec.name.replace('_', '-')}" in help for spec in fields(Trial) if spec.name != "trial")


def test_exit_codes_are_those_of_the_errors() -> None:
    codes = {int(line[0]) for line in table_under(OPERATIONS, "Exit codes")}
    kinds: list[type[JobError]] = [JobError, *JobError.__subclasses__()]
    assert codes == {0, 2} | {kind.exit_code for kind in kinds}


def test_environment_variables_are_those_that_the_code_reads() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "job").rglob("*.py"))
    listed = {name for line in table_under(OPERATIONS, "Environment variables") for name in in_code(line[0])}
    assert listed == {first or second for first, second in ENVIRONMENT.findall(code)}


def test_keys_of_a_row_are_those_of_the_code_with_their_types() -> None:
    found = {name: kind for keys, kind, _ in table_under(FOLDER, "row.json") for name in in_code(keys)}
    kinds = {spec.name: TYPES[inspect.formatannotation(spec.type)] for spec in fields(Row)[1:]}
    assert fields(Row)[0].name == "settings" and found == kinds


def test_columns_of_tables_and_keys_of_the_passport_are_those_of_the_code() -> None:
    for heading, kind in (("epochs.csv", Epoch), ("The pack", Passport)):
        listed = [in_code(line[0])[0] for line in table_under(FOLDER, heading)]
        assert listed == [spec.name for spec in fields(kind)]
    assert ", ".join(f"`{spec.name}`" for spec in fields(Packed)) in section(FOLDER, "The pack")


def test_a_trained_sweep_has_the_listed_files_and_the_python_example_reads_it(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "demo" / "sweep"
    grid = make_grid(trial=["8"], epochs=[1], lr=[0.01])
    assert job("sweep", "--images", shapes, "--grid", grid, sweep).code == 0
    made = {path.relative_to(sweep).as_posix() for path in sweep.rglob("*") if path.is_file()}
    listed = [name for line in table_under(FOLDER, "Files") for name in in_code(line[0])]
    patterns = {name: re.escape(name).replace(r"\*", ".*").replace("NAME", "8") for name in listed}
    found = {file: [name for name, pattern in patterns.items() if re.match(pattern, file)] for file in made}
    assert all(found.values()), f"not listed: {[file for file, names in found.items() if not names]}"
    absent = {name for name in listed if not any(name in names for names in found.values())}
    # tests/training/test_features.py is about features/.
    absent = {name for name in absent if not name.startswith("features/KEY/")}
    assert absent == {"race.json", "trials/NAME/rungs/0003.json", "trials/NAME/raced-1.json",
                      "trials/NAME/failed-1.json", "next-grid.csv", "label-issues.csv", "summary-edited-*.xlsx"}
    header = [*pd.read_csv(sweep / "trials" / "8" / "predictions.csv").columns]
    assert header == [*in_code(section(FOLDER, "predictions.csv"))[:5], "p_bar", "p_disc"]
    code = "\n".join(block for kind, block in blocks(FOLDER) if kind == "python")
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; assert 'torch' not in sys.modules"],
                          capture_output=True, text=True, check=False, cwd=tmp_path,
                          env=environment(PYTHONPATH=str(ROOT)))
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("best_val_acc", "val_loss", "predicted"))


def test_rooms_are_drawn_with_every_module_in_the_order_of_the_floors() -> None:
    drawn = modules_drawn(next(block for kind, block in blocks("docs/development.md") if kind == "text"))
    layers = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]["layers"]
    assert [*drawn] == [*(layer.removeprefix("job.") for layer in layers[:-2]), "job"]
    for room, modules in drawn.items():
        folder = ROOT / "job" / room if room != "job" else ROOT / "job"
        files = folder.rglob("*.py") if room != "job" else folder.glob("*.py")
        there = {path.relative_to(folder).with_suffix("").as_posix() for path in files if path.name[:2] != "__"}
        assert modules == there, f"{room}: not drawn {sorted(there - modules)}, not there {sorted(modules - there)}"


def test_figures_of_the_examples_are_right() -> None:
    example = section("docs/choosing.md", "Is it better than the others?")
    for first, second, p in ((7, 3, "0.34"), (9, 1, "0.02"), (5, 0, "0.06")):
        assert f"{mcnemar(first, second):.2f}" == p and re.search(rf"p = {p}\b", example)
    example = section("docs/choosing.md", "Is it better than nothing?")
    for first, second, p in ((8, 1, "0.02"), (4, 0, "0.06")):
        assert f"{mcnemar_better(first, second):.2f}" == p and f"{first} to {second} gives p = {p}" in example
    example = section("docs/choosing.md", "The recommendation").replace("\n> ", " ")
    assert all(str(share(*counts)) in example for counts in ((43, 45), (23, 25)))
    assert share(34, 45).count in example and share(19, 25).count in example


def test_figures_of_the_first_study_are_the_published_ones() -> None:
    published = pd.read_csv(shared("seed", "trials.csv"))
    columns = ["trial", "lr", "epochs", "time_seconds", *(f"median_{name}" for name in FIGURES)]
    found = pd.DataFrame(table_under("docs/studies.md", "Phones")).astype(float)
    assert (abs(found.to_numpy() - published[columns].to_numpy()) < 6e-5).all()
