"""The page shows the rows' own figures, needs nothing but itself, and takes no name for markup."""

import base64
import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from html_tables import Reader
from job.results.figures import per_class
from support import draw, job, row

GRID = "trial,lr,epochs,batch_size,image_size,weights\n1,0.02,1,8,40,none\n2,0.02,3,8,40,none\n3,0.005,3,8,40,none\n"


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three trials that vary two settings; no test may change it."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "grid.csv").write_text(GRID)
    done = job("sweep", "--images", shapes, "--positive", "disc", "--grid", folder / "grid.csv", folder / "sweep")
    assert done.code == 0, done.err
    return folder / "sweep"


@pytest.fixture(scope="module")
def page(trained: Path) -> Reader:
    return Reader((trained / "summary.html").read_text())


def summary_of(sweep: Path) -> dict[str, Any]:
    return dict(json.loads((sweep / "summary.json").read_text()))


def test_every_figure_of_the_trials_equals_the_row(trained: Path, page: Reader) -> None:
    table = page.table(id="table-trials")
    seen = 0
    for cells, attributes in zip(table.rows[1:], table.row_attributes[1:], strict=True):
        found = row(trained, attributes["data-trial"])
        for cell in cells:
            name = cell.attributes.get("data-figure", "")
            if name not in found or cell.attributes["data-value"] == "":
                continue
            assert float(cell.attributes["data-value"]) == found[name], name
            assert float(cell.text.replace(",", "")) == pytest.approx(found[name], rel=6e-3, abs=6e-5), name
            seen += 1
    assert len(table.rows) == 4 and seen >= 3 * 8


def test_curves_equal_the_epochs(trained: Path, page: Reader) -> None:
    for figure in ("val_acc", "val_loss"):
        heading, *lines = page.table(data_values=figure).texts()
        for place, trial in enumerate(heading[1:], 1):
            epochs = list(csv.DictReader(io.StringIO((trained / "trials" / trial / "epochs.csv").read_text())))
            shown = [line[place].removesuffix(" *") for line in lines if line[place]]
            assert shown == [f"{float(epoch[figure]):.4f}" for epoch in epochs]
            best = [line[0] for line in lines if line[place].endswith("*")]
            assert best == [str(row(trained, trial)["best_epoch"])]


def test_matrix_and_classes_equal_the_row_of_the_trial_shown(trained: Path, page: Reader) -> None:
    trial = re.search(r"Confusion matrix of trial (\w+)", page.text)
    assert trial
    found = row(trained, trial[1])
    counts = [[int(cell.text) for cell in cells if cell.text.isdecimal()]
              for cells in page.table(data_split="test").rows[1:]]
    assert counts == found["test_confusion"]
    wanted = per_class(found["test_confusion"], found["classes"])
    for cells, (_, line) in zip(page.table(data_classes="test").rows[1:], wanted.iterrows(), strict=True):
        values = [cell.attributes["data-value"] for cell in cells]
        assert values[0] == line["label"]
        assert [float(value) for value in values[1:]] == [*line[["images", "precision", "recall", "f1"]]]
        assert cells[2].small == f"{line['precision_low']:.3f} to {line['precision_high']:.3f}"
    if found["test_roc_auc"] is not None:
        assert f"the ROC curve on test {found['test_roc_auc']:.4f}" in page.text


def test_recommendation_is_that_of_summary_json(trained: Path, page: Reader) -> None:
    found = summary_of(trained)
    assert found["recommendation"]["sentences"]
    assert all(sentence in page.text for sentence in [*found["recommendation"]["sentences"], *found["notes"]])
    marked = [attributes["data-trial"] for attributes in page.table(id="table-trials").row_attributes
              if "chosen" in attributes.get("class", "")]
    assert marked == ([found["best"]] if found["best"] else [])


def test_page_holds_all_that_it_shows_and_admits_no_other_script(page: Reader) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        target = attributes.get("src") or attributes.get("href") or "#"
        assert target.startswith(("data:", "#")) or target == "summary.xlsx", target
    assert "url(" not in page.raw["style"] and "@import" not in page.raw["style"]
    policy = next(attributes["content"] for _, attributes in page.tags
                  if attributes.get("http-equiv") == "Content-Security-Policy")
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.raw[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_page_is_read_without_eyes(page: Reader) -> None:
    num_tables, num_captions = (len([tag for tag, _ in page.tags if tag == name]) for name in ("table", "caption"))
    assert num_tables == num_captions
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.tags if tag == "th")
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert drawings and all(found.get("aria-labelledby") or found.get("aria-hidden") for found in drawings)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    for label, count in (("<script>alert(1)", 12), ("\u202e'\"&amp;<b onload=x>", 12)):
        for number in range(count):
            draw(tmp_path / "in" / label / f'"><img src=x onerror=alert({number})>.jpg', "disc", number)
    (tmp_path / "grid.csv").write_text("trial,lr,epochs,batch_size,image_size,weights\n1,0.01,1,8,40,none\n")
    done = job("sweep", "--images", tmp_path / "in", "--grid", tmp_path / "grid.csv", tmp_path / "sweep")
    assert done.code == 0, done.err
    page = Reader((tmp_path / "sweep" / "summary.html").read_text())
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [tag for tag, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert "<script>alert(1)" in page.text and "\\u202e" in page.text and "\u202e" not in page.text
    assert all(attributes["src"].startswith("data:image/webp;base64,") for tag, attributes in page.tags if tag == "img")
