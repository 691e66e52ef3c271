"""The workbook says what the rows say: in the study's layout, with live medians, and without losing a person's work."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from conftest import ROOT, environment, shared
from job.errors import MissingInput
from job.folder.grid import format_grid
from job.folder.layout import trial_file
from job.folder.local import LocalFolder
from job.folder.storage import open_folder
from job.record import Epoch, Row, epochs_to_csv, row_to_json, summarise
from job.results.gather import gather
from job.results.summary import collect
from job.trial import Trial


def make_epochs(count: int, level: float) -> list[Epoch]:
    return [Epoch(epoch=n, train_loss=level / n, train_acc=1 - level / 2 / n, val_loss=1.1 * level / n, val_acc=1 - level / n / 1.5,
                  lr=0.1, images_per_second=90.0, train_seconds=2.0, val_seconds=0.5) for n in range(1, count + 1)]


def leave_row(sweep: LocalFolder, trial: Trial, epochs: list[Epoch], pack: str = "p", **more: Any) -> Row:
    best = max(epochs, key=lambda epoch: epoch.val_acc) if epochs else None
    facts = {"settings": asdict(trial), "status": "done", "pack_hash": pack, **summarise(epochs, best), **more}
    row = Row(**facts)
    sweep.write(trial_file(trial.trial, "epochs.csv"), epochs_to_csv(epochs).encode())
    sweep.write(trial_file(trial.trial, "row.json"), row_to_json(row).encode())
    return row


@pytest.fixture
def sweep(tmp_path: Path) -> LocalFolder:
    """Three trials done, of four; the second is the best."""
    folder = LocalFolder(str(tmp_path / "sweep"))
    trials = [Trial(trial=str(n), lr=lr, epochs=n + 2) for n, lr in enumerate((1.0, 0.1, 0.01, 0.001), 1)]
    folder.write("grid.csv", format_grid(trials).encode())
    for trial, level in zip(trials[:3], (0.9, 0.2, 0.5), strict=True):
        leave_row(folder, trial, make_epochs(trial.epochs, level), test_acc=0.5, test_confusion=[[3, 1], [2, 4]])
    return folder


def read(sweep: LocalFolder, values: bool = True) -> openpyxl.Workbook:
    return openpyxl.load_workbook(sweep.path / "summary.xlsx", data_only=values)


def column(sheet: Any, title: str) -> int:
    return int(next(cell.column for cell in sheet[1] if cell.value == title))


def test_summary_is_sorted_and_the_best_marked_and_the_missing_named(sweep: LocalFolder) -> None:
    summary, name, kept = gather(sweep)
    assert (name, kept, summary.missing) == ("summary.xlsx", "", ["4"])
    book = read(sweep)
    assert book.sheetnames == ["Summary", "Condensed", "Trial 1", "Trial 2", "Trial 3"]
    sheet = book["Summary"]
    trials = [sheet.cell(row, column(sheet, "trial")).value for row in (2, 3, 4)]
    assert trials == ["2", "3", "1"] and sheet["A2"].value == "1 best"
    assert sheet.cell(2, column(sheet, "best_val_acc *")).value == pytest.approx(1 - 0.2 / 4 / 1.5)
    text = [cell.value for row in sheet.iter_rows() for cell in row if isinstance(cell.value, str)]
    assert any("no row yet: 4" in value for value in text)
    assert sheet.freeze_panes == "C2" and sheet.cell(2, column(sheet, "best_val_acc *")).number_format == "0.0000"
    assert (sheet.print_title_rows, sheet.print_title_cols) == ("$1:$1", "$A:$B")
    assert all(sheet.column_dimensions[cell.column_letter].width >= len(str(cell.value)) for cell in sheet[1] if cell.value)


def test_settings_are_columns_only_where_the_grid_uses_them(sweep: LocalFolder) -> None:
    def shown() -> tuple[set[object], set[object]]:
        gather(sweep)
        book = read(sweep)
        return {cell.value for cell in book["Summary"][1]}, {row[0].value for row in book["Condensed"].iter_rows()}

    summary, condensed = shown()
    assert not {"dropout", "freeze", "threshold"} & (summary | condensed) and "batch_size" in summary & condensed
    leave_row(sweep, Trial(trial="4", lr=0.001, epochs=6, dropout=0.2, freeze=True), make_epochs(6, 0.9), threshold=0.25)
    summary, condensed = shown()
    assert {"dropout", "freeze", "threshold"} <= summary and {"dropout", "freeze"} <= condensed
    sheet = read(sweep)["Summary"]
    assert {sheet.cell(row, column(sheet, "freeze")).value for row in range(2, 6)} == {"yes", "no"}


def test_trial_sheet_has_its_epochs_live_medians_and_two_native_charts(sweep: LocalFolder) -> None:
    gather(sweep)
    formulas, values = read(sweep, values=False)["Trial 2"], read(sweep)["Trial 2"]
    assert [cell.value for cell in values[1]][3:8] == ["epoch", "Train_Loss", "Train_Acc", "Val_Loss", "Val_Acc"]
    assert [values.cell(row, 4).value for row in range(2, 6)] == [1, 2, 3, 4]
    assert formulas["B2"].value == "=MEDIAN(E2:E5)" and formulas["B5"].value == "=MEDIAN(H2:H5)"
    assert values["A2"].value == "Median_Train_Loss" and values["B2"].value == pytest.approx((0.2 / 2 + 0.2 / 3) / 2)
    assert values.freeze_panes == "A2"
    charts = formulas._charts
    assert [type(chart).__name__ for chart in charts] == ["LineChart", "LineChart"]
    assert [len(chart.series) for chart in charts] == [2, 2]
    assert charts[0].series[1].val.numRef.f == "'Trial 2'!$G$2:$G$5"


def test_study_history_gives_the_studys_medians_to_four_decimals(tmp_path: Path) -> None:
    """The whole way: the study's recorded epochs as rows, `job gather`'s code, the workbook opened again."""
    texts = [(shared("seed") / name).read_text() for name in ("epochs.csv", "trials.csv")]
    history, published = ([*csv.DictReader(io.StringIO(text))] for text in texts)
    folder = LocalFolder(str(tmp_path))
    for line in published:
        trial = Trial(trial=line["trial"], lr=float(line["lr"]), epochs=int(line["epochs"]), batch_size=int(line["batch_size"]),
                      step_size=int(line["step_size"]), gamma=float(line["gamma"]), momentum=float(line["momentum"]))
        epochs = [Epoch(epoch=int(e["epoch"]), **{k: float(e[k]) for k in ("train_loss", "train_acc", "val_loss", "val_acc")})
                  for e in history if e["trial"] == line["trial"]]
        leave_row(folder, trial, epochs, seconds=float(line["time_seconds"]))
    gather(folder)
    sheet = read(folder)["Condensed"]
    rows = {row[0].value: [cell.value for cell in row[1:]] for row in sheet.iter_rows() if row[0].value}
    assert [cell.value for cell in sheet[1]][1:] == [f"Trial {n}" for n in range(1, 9)]
    for label, name in {"lr": "lr", "Step Size": "step_size", "Gamma": "gamma", "Momentum": "momentum", "Epoch#": "epochs",
                        "Time(s)": "time_seconds", "Median_Train_Loss": "median_train_loss", "Median_Train_Acc": "median_train_acc",
                        "Median_Val_Loss": "median_val_loss", "Median_Val_Acc": "median_val_acc"}.items():
        for found, line in zip(rows[label], published, strict=True):
            assert found == pytest.approx(float(line[name]), abs=5e-5), (label, line["trial"])
    best = collect(folder).best
    assert best is not None and best["trial"] == "8"


def test_text_that_begins_like_a_formula_stays_text(sweep: LocalFolder) -> None:
    for number, cause in enumerate(("=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x")', "http://example.org"), 5):
        leave_row(sweep, Trial(trial=str(number)), [], status="failed", cause=cause)
    gather(sweep)
    sheet = read(sweep, values=False)["Summary"]
    cells = [sheet.cell(row, column(sheet, "cause")) for row in range(5, 11)]
    assert {cell.value for cell in cells} >= {"=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x")', "http://example.org"}
    assert all(cell.data_type == "s" and cell.hyperlink is None for cell in cells)


def test_edited_workbook_is_kept_beside_the_new_one(sweep: LocalFolder) -> None:
    gather(sweep)
    gather(sweep)
    assert not list(sweep.names("summary-edited"))
    book = openpyxl.load_workbook(sweep.path / "summary.xlsx")
    book["Summary"]["A20"] = "my note"
    book.save(sweep.path / "summary.xlsx")
    _, _, kept = gather(sweep)
    assert openpyxl.load_workbook(sweep.path / kept)["Summary"]["A20"].value == "my note"
    assert read(sweep)["Summary"]["A20"].value is None
    assert gather(sweep)[2] == ""


def test_rows_of_another_pack_are_shown_but_not_ranked(sweep: LocalFolder) -> None:
    leave_row(sweep, Trial(trial="4", lr=0.001, epochs=6), make_epochs(6, 0.01), pack="another")
    summary, _, _ = gather(sweep)
    assert summary.best is not None and summary.best["trial"] == "2" and summary.other_pack == ["4"]
    assert any("another pack: 4" in note for note in summary.notes())
    sheet = read(sweep)["Summary"]
    assert sheet.cell(5, column(sheet, "trial")).value == "4" and sheet["A5"].value is None


def test_diverged_and_failed_trials_are_rows(sweep: LocalFolder) -> None:
    epochs = [*make_epochs(2, 0.9), Epoch(epoch=3, train_loss=float("nan"), train_acc=0.5, val_loss=float("inf"), val_acc=0.5)]
    leave_row(sweep, Trial(trial="4", lr=9.0, epochs=6), epochs, status="diverged", cause="the loss was not finite in epoch 3")
    leave_row(sweep, Trial(trial="5", lr=9.0, epochs=6), [], status="failed", cause="weights gone")
    summary, _, _ = gather(sweep)
    assert summary.failed == ["5"]
    sheet = read(sweep)["Trial 4"]
    assert sheet["E4"].value is None and sheet["B2"].value == pytest.approx((0.9 + 0.45) / 2)
    assert read(sweep)["Trial 5"]["A2"].value is None


def test_equal_figures_rank_by_loss_then_by_fewer_epochs(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    for name, epochs, loss in (("long", 9, 0.3), ("short", 5, 0.3), ("lossy", 3, 0.4)):
        epoch = Epoch(epoch=1, train_loss=1, train_acc=1, val_loss=loss, val_acc=0.9)
        leave_row(folder, Trial(trial=name, epochs=epochs), [epoch])
    assert collect(folder).table["trial"].tolist() == ["short", "long", "lossy"]


def test_trials_that_monitor_the_loss_are_sorted_by_it(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    for name, loss, acc in (("a", 0.5, 0.9), ("b", 0.2, 0.8)):
        epoch = Epoch(epoch=1, train_loss=1, train_acc=1, val_loss=loss, val_acc=acc)
        leave_row(folder, Trial(trial=name, best_monitor="val_loss"), [epoch])
    summary = collect(folder)
    assert summary.monitor == "val_loss" and summary.table["trial"].tolist() == ["b", "a"]


def test_long_and_odd_trial_names_make_allowed_sheets(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    names = ["a" * 40, "a" * 39 + "b", "x.y_z-1", "10", "9"]
    for name in names:
        leave_row(folder, Trial(trial=name), make_epochs(2, 0.5))
    gather(folder)
    book = read(folder)
    assert len(book.sheetnames) == 7 and all(len(name) <= 31 for name in book.sheetnames)
    assert book.sheetnames[2:4] == ["Trial 9", "Trial 10"]
    sheet = book["Condensed"]
    row = next(r for r in sheet.iter_rows() if r[0].value == "Median_Val_Loss")
    assert all(cell.value == pytest.approx(1.1 * 0.5 * 0.75) for cell in row[1:])


def test_sweep_without_rows_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="is this a sweep's folder"):
        gather(open_folder(str(tmp_path)))
    (tmp_path / "grid.csv").write_text("trial,lr\n1,0.1\n")
    with pytest.raises(MissingInput, match="job status"):
        gather(open_folder(str(tmp_path)))


def test_gather_script_works_where_torch_is_not_installed(sweep: LocalFolder, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    for name in ("torch", "torchvision", "tensorboard", "typer", "safetensors", "PIL"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(f"raise ImportError('{name} is not installed here')")
    command = [sys.executable, str(ROOT / "scripts" / "gather.py"), sweep.uri]
    env = environment(PYTHONPATH=str(blocked))
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "best trial: 2" in done.stdout and "no row yet: 4" in done.stdout and "summary.xlsx" in done.stdout
    assert json.loads(sweep.read("summary.json"))["best"] == "2"
