"""Gather: an edited workbook is kept, and the script works without torch."""

import json
import subprocess
import sys
from pathlib import Path

import openpyxl

from job.folder.local import LocalFolder
from job.results.gather import gather
from sheets import read
from support import ROOT, environment


def test_edited_workbook_is_kept_beside_the_new_one(three_rows: LocalFolder) -> None:
    gather(three_rows)
    gather(three_rows)
    assert not list(three_rows.names("summary-edited"))
    book = openpyxl.load_workbook(three_rows.path / "summary.xlsx")
    book["Summary"]["A20"] = "my note"
    book.save(three_rows.path / "summary.xlsx")
    _, _, kept = gather(three_rows)
    assert openpyxl.load_workbook(three_rows.path / kept)["Summary"]["A20"].value == "my note"
    assert read(three_rows)["Summary"]["A20"].value is None
    assert gather(three_rows)[2] == ""


def test_gather_script_works_where_torch_is_not_installed(three_rows: LocalFolder, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    for name in ("torch", "torchvision", "tensorboard", "typer", "safetensors", "PIL"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(f"raise ImportError('{name} is not installed here')")
    command = [sys.executable, str(ROOT / "scripts" / "gather.py"), three_rows.uri]
    env = environment(PYTHONPATH=str(blocked))
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "Use trial 2 (lr 0.1" in done.stdout and "no row yet: 4" in done.stdout and "summary.xlsx" in done.stdout
    assert json.loads(three_rows.read("summary.json"))["best"] == "2"
