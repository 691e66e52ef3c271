"""Mistakes, Per class and Columns follow from the sweep's files; green means recommended; a large sweep is cut."""

import zipfile
from dataclasses import fields
from pathlib import Path

import pytest

from html_sweeps import leave_large_sweep
from job.errors import MissingInput
from job.folder.layout import trial_file
from job.folder.local import LocalFolder
from job.record import Epoch, Row
from job.results.gather import gather
from job.results.workbook.columns import meaning_of
from job.results.workbook.curves import RECOMMENDED
from job.results.workbook.spreadsheet import GREEN
from job.trial import Trial
from sheets import read
from support import leave_predictions, leave_row, make_epochs


def test_green_marks_the_recommended_trial_alone_and_nothing_where_there_is_none(
        three_rows: LocalFolder, tmp_path: Path) -> None:
    def green(folder: LocalFolder) -> dict[str, set[object]]:
        return {sheet.title: {sheet.cell(cell.row, 2).value for row in sheet.iter_rows() for cell in row
                              if cell.fill.fgColor.rgb == "FF" + GREEN[1:]} for sheet in read(folder)}

    gather(three_rows)
    found = green(three_rows)
    assert (found["Start here"], found["Summary"]) == ({"2"}, {"2"}) and found["Trial 2"] and not found["Trial 1"]
    tie = LocalFolder(str(tmp_path / "tie"))
    leave_row(tie, Trial(trial="1"), make_epochs(3, 0.6))
    # It says "no" of every image.
    leave_predictions(tie, "1", range(1, 40, 2), 40)
    summary, _, _ = gather(tie)
    assert summary.recommendation.trial == "" and not any(green(tie).values())
    with zipfile.ZipFile(tie.path / "summary.xlsx") as book:
        charts = [book.read(name).decode() for name in book.namelist() if "/charts/" in name]
    assert charts and not any(RECOMMENDED[1:] in chart for chart in charts)


def test_mistakes_are_the_wrong_predictions_of_the_recommended_trial_the_surest_first(
        three_rows: LocalFolder) -> None:
    summary, _, _ = gather(three_rows)
    predictions = summary.predictions["2"]
    wrong = predictions[predictions["label"] != predictions["predicted"]].sort_values("probability", ascending=False)
    header, *lines = read(three_rows)["Mistakes"].iter_rows(max_col=5, values_only=True)
    assert header == ("image", "split", "label", "predicted", "probability") and len(lines) == len(wrong) > 3
    found = {(line[0], line[1], line[2], line[3]) for line in lines}
    assert found == set(wrong[["image", "split", "label", "predicted"]].itertuples(index=False, name=None))
    assert [line[4] for line in lines] == pytest.approx(wrong["probability"].tolist())


def test_figures_per_class_follow_from_the_predictions(three_rows: LocalFolder) -> None:
    summary, _, _ = gather(three_rows)
    sheet = read(three_rows)["Per class"]
    header = [cell.value for cell in sheet[1] if cell.value][:9]
    for line in sheet.iter_rows(min_row=2, max_col=len(header), values_only=True):
        found = dict(zip(header, line, strict=True))
        images = summary.predictions["2"].query(f"split == '{found['split']}'")
        actual, said = images["label"] == found["label"], images["predicted"] == found["label"]
        assert (found["images"], found["recall"], found["precision"]) == (
            actual.sum(), pytest.approx((actual & said).sum() / actual.sum()),
            pytest.approx((actual & said).sum() / said.sum()))
    assert sheet.max_row == 5


def test_each_column_of_each_sheet_has_a_meaning(three_rows: LocalFolder) -> None:
    leave_row(three_rows, Trial(trial="9", lr=0.1, epochs=4, seed=3), make_epochs(4, 0.3))
    gather(three_rows)
    book = read(three_rows)
    lines = list(book["Columns"].iter_rows(min_row=2, values_only=True))
    assert all(line[0] and line[2] and line[3] for line in lines)
    described = {(sheet, line[0]) for line in lines for sheet in line[3].split(", ")}
    for name in ("Summary", "Mistakes", "Per class", "Repeats"):
        wide = 5 if name == "Mistakes" else 10 if name == "Per class" else None
        titles = [cell.value for cell in next(book[name].iter_rows(max_col=wide)) if cell.value]
        assert len(titles) >= 5 and {(name, title) for title in titles} <= described
    epochs = [cell.value for cell in book["Trial 1"][1]][3:12]
    assert {("Trial ...", title) for title in epochs} <= described
    studies = {row[0].value for row in book["Condensed"].iter_rows() if row[0].value}
    assert {("Condensed", title) for title in studies} <= described


def test_every_setting_and_every_figure_of_a_row_and_an_epoch_has_a_meaning() -> None:
    for kind, sheet in ((Trial, "Summary"), (Row, "Summary"), (Epoch, "Trial 1")):
        names = [spec.name for spec in fields(kind) if spec.name != "settings"]
        assert all(meaning_of(sheet, name) for name in names)


def test_workbook_of_200_trials_and_1000_classes_is_small_and_says_what_is_cut(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    leave_large_sweep(folder, 200, 1000, 500)
    gather(folder)
    assert (tmp_path / "summary.xlsx").stat().st_size < 3_000_000
    book = read(folder)
    names = [name for name in book.sheetnames if name.startswith("Trial ")]
    assert len(names) == 60 and "Trial 1" in names and book["Summary"].max_row == 201
    condensed = {row[0].value: [cell.value for cell in row[1:]] for row in book["Condensed"].iter_rows()}
    assert len(condensed["Median_Val_Acc"]) == 200 and None not in condensed["Median_Val_Acc"]
    texts = [str(cell.value) for row in book["Start here"].iter_rows() for cell in row if cell.value is not None]
    for part in ("200 trials are in Summary and Condensed; the 60 ranked highest have a sheet",
                 "Summary has 180 more trials", "the 12 of 1000 classes with the most errors"):
        assert any(part in text for text in texts), part
    assert book["Per class"].max_row == 1001 and book["Start here"].max_row < 80
    assert [len(chart.series) <= 21 for chart in book["Start here"]._charts] == [True]


def test_long_trial_is_thinned_and_its_medians_are_those_of_all_epochs(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    epochs = make_epochs(2503, 0.5)
    leave_row(folder, Trial(trial="1", epochs=2503), epochs)
    gather(folder)
    sheet = read(folder)["Trial 1"]
    numbers = [cell.value for cell in sheet["D"][1:] if cell.value]
    assert len(numbers) <= 1000 and numbers[-1] == 2503 and numbers[:2] == [3, 6]
    assert sheet["B5"].value == pytest.approx(sorted(epoch.val_acc for epoch in epochs)[1251])
    assert any("of 2503 epochs are shown" in str(cell.value) for cell in sheet[1])


def test_sweep_of_failures_without_ranks_or_predictions_gives_a_workbook(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    leave_row(folder, Trial(trial="1"), [], status="failed", cause="weights gone")
    gather(folder)
    book = read(folder)
    texts = {str(cell.value) for row in book["Start here"].iter_rows() for cell in row}
    assert "failed" in texts and any(text.startswith("No trial is recommended") for text in texts)
    assert book["Mistakes"].max_row == 1 and not book["Start here"]._charts
    with pytest.raises(MissingInput):
        folder.read(trial_file("1", "predictions.csv"))
