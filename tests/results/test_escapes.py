"""Control characters in names of classes, images and hosts and in causes reach no terminal and no workbook."""

import json
import re
from pathlib import Path

import pytest

from job.folder.local import LocalFolder
from sheets import read
from support import job, on_terminal, row

RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
HOST = "node\x1b]0;owned\x07/\u202epod"


@pytest.fixture(scope="module")
def odd(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose classes, images, hosts and one weights' path hold control characters; its second trial failed."""
    folder = tmp_path_factory.mktemp("odd")
    for label, name in (("bar", "=\x1b[2Jbar"), ("disc", "disc\u202e\x9b1m")):
        for path in sorted((shapes / label).iterdir()):
            target = folder / "in" / name / f"{path.stem}\x1b[31m\u2066.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (folder / "in" / "=\x1b[2Jbar" / "\x1b[8mdamaged.jpg").write_bytes(b"no image")
    grid = folder / "g.csv"
    grid.write_text("trial,lr,epochs,batch_size,image_size,model,weights\n1,0.01,1,8,40,mlp,none\n"
                    "2,0.01,1,8,40,mlp,/no/\x1b[31msuch\u202e.pt\n")
    done = job("sweep", "--images", folder / "in", "--grid", grid, "--short-side", 48, folder / "sweep",
               NODE_NAME=HOST)
    assert done.code == 66 and r"\x1b[2Jbar" in done.out and r"\x1b[8mdamaged.jpg" in done.out, done
    assert not RAW.search(done.out + done.err), done
    return folder / "sweep"


def test_commands_show_control_characters_as_escapes(odd: Path) -> None:
    image = next((odd.parent / "in").glob("disc*/*"))
    for args, part in ((("gather", odd), r"/no/\x1b[31msuch\u202e.pt"), (("status", odd), r"node\x1b]0;owned\x07"),
                       (("predict", odd, image, f"{image}.gone", "--trial", "1"), r"\u202e"),
                       (("status", odd, "--json"), "pod")):
        done = job(*args)
        assert part in done.out and not RAW.search(done.out + done.err), (args, done)


def test_terminal_gets_no_control_but_those_of_colours_and_cursor(odd: Path) -> None:
    for command in ("gather", "status"):
        shown = on_terminal(160, command, odd)
        left = re.sub(r"\x1b\[[0-9;?]*[mhlAKJ]|\r", "", shown)
        assert not RAW.search(left) and "\x1b[31msuch" not in shown and r"\x1b[31msuch" in shown


def test_cells_of_the_workbook_are_texts_without_control_characters(odd: Path) -> None:
    job("gather", odd)
    for values in (True, False):
        cells = [cell for sheet in read(LocalFolder(str(odd)), values) for line in sheet.iter_rows() for cell in line]
        texts = [str(cell.value) for cell in cells if cell.value is not None]
        assert not any(RAW.search(text) for text in texts) and any(r"\x1b[31msuch" in text for text in texts)
        if not values:
            formulas = {str(cell.value).split("(")[0] for cell in cells if cell.data_type == "f"}
            assert all(formula == "=MEDIAN" or formula.startswith("='Trial ") for formula in formulas), formulas


def test_files_hold_the_names_as_they_are(odd: Path) -> None:
    assert row(odd, 1)["classes"] == ["=\x1b[2Jbar", "disc\u202e\x9b1m"]
    assert json.loads((odd / "pack" / "passport.json").read_text())["classes"] == row(odd, 1)["classes"]
