"""What the race stopped early is told apart from what finished, alike on screen, page, workbook and in files."""

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import job as package
from html_tables import Reader
from job.errors import MissingInput
from job.folder.local import LocalFolder
from sheets import column, read
from support import EASY, job, row, tint

NUM_TRIALS = 8
LRS = [word for lr in ("0.02", "0.005", "0.001", "0.0001", "0.00001", "0.000001", "0.0000001") for word in ("--lr", lr)]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished race: of 8 trials of 9 epochs 3 are trained to their ends. No test may change it."""
    top = tmp_path_factory.mktemp("race")
    for number in range(60):
        for label in ("warm", "cold"):
            tint(top / "images" / label / f"{label}{number}.png", label, number)
    (top / "grid.csv").write_text(job("grid", *EASY, *LRS, "--epochs", 9).out)
    done = job("sweep", "--images", top / "images", "--grid", top / "grid.csv", "--race", top / "sweep")
    assert done.code == 0, done.err
    return top / "sweep"


@pytest.fixture(scope="module")
def gathered(sweep: Path) -> dict[str, Any]:
    """What `job gather --json` prints of it."""
    return dict(json.loads(job("gather", "--json", sweep).out))


@pytest.fixture(scope="module")
def page(sweep: Path) -> Reader:
    return Reader((sweep / "summary.html").read_text())


def raced_of(gathered: dict[str, Any]) -> list[dict[str, Any]]:
    return [trial for trial in gathered["trials"] if trial["state"] == "raced"]


def test_raced_trials_are_below_those_that_finished_unranked_and_in_the_same_order_everywhere(
        sweep: Path, gathered: dict[str, Any], page: Reader) -> None:
    trials = gathered["trials"]
    assert [trial["state"] for trial in trials] == ["done"] * 3 + ["raced"] * 5
    assert [trial["rank"] for trial in trials] == [1, 2, 3] + [None] * 5
    accs = [trial["best_val_acc"] for trial in raced_of(gathered)]
    assert accs == sorted(accs, reverse=True)
    for trial in raced_of(gathered):
        assert (trial["verdict"], trial["beats_baseline"], trial["p_vs_baseline"], trial["test_acc"]) == (
            "", None, None, None)
    assert gathered["best"] in [trial["trial"] for trial in trials[:3]]
    assert gathered["raced"] == [trial["trial"] for trial in raced_of(gathered)]
    order = [trial["trial"] for trial in trials]
    assert [line["trial"] for line in csv.DictReader(io.StringIO((sweep / "summary.csv").read_text()))] == order
    assert [line["data-trial"] for line in page.table(id="table-trials").row_attributes[1:]] == order
    sheet = read(LocalFolder(str(sweep)))["Summary"]
    assert [sheet.cell(place, 2).value for place in range(2, NUM_TRIALS + 2)] == order
    screen = job("gather", sweep).out
    assert re.findall(r"^ (\d)[ *]+(?:done|raced) ", screen, re.MULTILINE) == order
    assert "8 trials, 5 of them raced" in screen and "p in the race" in screen


def test_p_of_the_race_is_that_of_the_row_everywhere(sweep: Path, gathered: dict[str, Any], page: Reader) -> None:
    wanted = {name: row(sweep, name)["race"]["p"] for name in gathered["raced"]}
    assert {trial["trial"]: trial["p_race"] for trial in raced_of(gathered)} == wanted
    assert all(trial["p_race"] is None for trial in gathered["trials"][:3])
    lines = csv.DictReader(io.StringIO((sweep / "summary.csv").read_text()))
    assert {line["trial"]: float(line["p_race"]) for line in lines if line["p_race"]} == wanted
    table = page.table(id="table-trials")
    shown = {about["data-trial"]: cell.attributes["data-value"] for cells, about in zip(
        table.rows, table.row_attributes, strict=True) for cell in cells
        if cell.attributes.get("data-figure") == "p_race"}
    assert {name: float(p) for name, p in shown.items() if p} == wanted
    sheet = read(LocalFolder(str(sweep)))["Summary"]
    p = column(sheet, "p_race")
    assert {sheet.cell(place, 2).value: sheet.cell(place, p).value
            for place in range(5, NUM_TRIALS + 2)} == pytest.approx(wanted)


def test_notes_say_what_the_race_stopped_and_saved_and_how_to_train_it_on(
        sweep: Path, gathered: dict[str, Any], page: Reader) -> None:
    taken = sum(row(sweep, name)["epochs_run"] for name in gathered["raced"])
    assert gathered["race_cost"]["epochs_taken"] == taken and gathered["race_cost"]["epochs_asked"] == 5 * 9
    assert gathered["race_cost"]["seconds_saved"] > 0
    note = next(note for note in gathered["notes"] if note.startswith("the race stopped"))
    assert note.startswith("the race stopped 5 of 8 trials early (rung 1, after epoch 2: trials ")
    assert f"they took {taken} epochs instead of up to 45" in note
    assert f"to train the raced trials to their ends: job sweep --no-race {sweep}" in gathered["notes"]
    assert all(text in page.text for text in gathered["notes"])
    spent = {cells[0]: cells[1] for table in page.tables for cells in table.texts() if len(cells) == 2}
    assert re.fullmatch(rf"about [\d.]+ s, by the pace of their epochs: raced trials took {taken} epochs instead of "
                        "up to 45", spent["saved by the race"])
    assert spent["lost in failed trials"] == spent["spent on diverged trials"] == "0.0 s"


def test_curves_of_a_raced_trial_end_where_it_was_stopped(sweep: Path, gathered: dict[str, Any], page: Reader) -> None:
    heading, *lines = page.table(data_values="val_acc").texts()
    assert len(lines) == 9 and len(heading) == 1 + NUM_TRIALS
    book = read(LocalFolder(str(sweep)))
    for name in gathered["raced"]:
        num = row(sweep, name)["epochs_run"]
        assert [bool(line[heading.index(name)]) for line in lines] == [True] * num + [False] * (9 - num)
        sheet = book[f"Trial {name}"]
        assert [sheet.cell(line, 4).value for line in range(2, 11)] == [*range(1, num + 1)] + [None] * (9 - num)
        facts = {sheet.cell(line, 1).value: sheet.cell(line, 2).value for line in range(6, 40)}
        assert facts["status"] == "raced" and facts["cause"] == row(sweep, name)["cause"]
    start = [cell for line in book["Start here"].iter_rows(values_only=True) for cell in line]
    assert sum(str(cell).startswith("raced after epoch ") for cell in start) == 5


def test_predict_export_and_notebook_say_that_a_raced_trial_has_no_weights(
        sweep: Path, gathered: dict[str, Any], tmp_path: Path) -> None:
    name = gathered["raced"][0]
    image = next((sweep.parent / "images" / "warm").iterdir())
    text = (f"the race stopped trial {name} after epoch {row(sweep, name)['epochs_run']}, so it has neither best "
            f"weights nor predictions; to train it to its end: job sweep --no-race {sweep}")
    for command in (("predict", sweep, image), ("export", sweep, tmp_path / "out")):
        done = job(*command, "--trial", name)
        assert done.code == 66 and text in done.err
    with pytest.raises(MissingInput, match="the race stopped trial"):
        package.open(str(sweep)).predictions(name)
    assert len(package.open(str(sweep)).epochs(name)) == row(sweep, name)["epochs_run"]
    assert job("predict", sweep, image).code == 0


def test_trials_that_are_trained_on_are_ranked_and_have_the_events_of_all_epochs(
        sweep: Path, gathered: dict[str, Any], tmp_path: Path) -> None:
    again = Path(shutil.copytree(sweep, tmp_path / "sweep"))
    for name in gathered["raced"]:
        assert len(list((sweep / "trials" / name / "events").iterdir())) == 1 + row(sweep, name)["epochs_run"]
    done = job("sweep", "--no-race", again)
    assert done.code == 0, done.err
    assert "raced" not in done.out.partition("Use trial")[2]
    found = json.loads(job("gather", "--json", again).out)
    assert [trial["rank"] for trial in found["trials"]] == list(range(1, NUM_TRIALS + 1))
    assert found["raced"] == [] and found["race_cost"] is None and "p_race" not in found["trials"][0]
    for name in gathered["raced"]:
        # One of the settings, one per epoch, and one of the end.
        assert len(list((again / "trials" / name / "events").iterdir())) == 1 + 9 + 1
