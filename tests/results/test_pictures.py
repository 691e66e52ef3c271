"""The README's pictures show the trials of the sweep they are drawn from."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import pytest

from support import ROOT, Grid, environment, job

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = ("gather.svg", "curves.svg")


def draw(sweep: Path, out: Path) -> dict[str, ET.Element]:
    """Run the script on a sweep; its pictures, parsed."""
    command = [sys.executable, str(ROOT / "scripts" / "pictures.py"), str(sweep), "--out", str(out)]
    subprocess.run(command, check=True, env=environment(), capture_output=True, timeout=120)
    return {name: ET.parse(out / name).getroot() for name in PICTURES}


def lines_of(picture: ET.Element) -> list[str]:
    """The texts of a picture, those of the same height as one line, from left to right."""
    lines: dict[float, list[tuple[float, str]]] = defaultdict(list)
    for item in picture.iter(f"{SVG}text"):
        words = "".join(item.itertext()).replace("\N{NO-BREAK SPACE}", " ")
        lines[float(item.get("y", "0"))].append((float(item.get("x", "0")), words))
    return [" ".join(words for _, words in sorted(found)) for _, found in sorted(lines.items())]


def test_pictures_show_each_trial_with_its_best_figure_and_are_the_same_when_drawn_again(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    grid = make_grid(trial=["one", "2", "3"], lr=[0.02, 0.01, 0.01], epochs=[2, 1, 3])
    assert job("sweep", "--images", shapes, "--grid", grid, sweep).code == 0
    found = draw(sweep, tmp_path / "first")
    draw(sweep, tmp_path / "again")
    for name in PICTURES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    for trial in ("one", "2", "3"):
        best = json.loads((sweep / "trials" / trial / "row.json").read_text())["best_val_acc"]
        for name, picture in found.items():
            assert any(trial in line.split() and f"{best:.3f}" in line for line in lines_of(picture)), (name, trial)
    paths = [item.get("d", "") for item in found["curves.svg"].iter(f"{SVG}path") if "line" in item.get("class", "")]
    assert sorted(path.count("L") for path in paths if "h" not in path) == [0, 1, 2]


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_in_docs_need_nothing_from_the_web_and_fit_a_page(name: str) -> None:
    picture = ROOT / "docs" / "img" / name
    assert float(ET.parse(picture).getroot().get("width", "inf")) <= 900
    assert "http" not in picture.read_text().replace("http://www.w3.org/2000/svg", "")
