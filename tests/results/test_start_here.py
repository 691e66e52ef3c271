"""The first sheet of the workbook: what to use, and the figures that it follows from."""

from pathlib import Path
from typing import Any

import pytest

from job.folder.local import LocalFolder
from job.results.gather import gather
from job.results.summary import Summary
from job.trial import Trial
from sheets import read
from support import job, leave_predictions, leave_row, make_epochs, shared


def found_in(sheet: Any, text: str) -> tuple[int, int]:
    """Row and column of the first cell that holds exactly this text."""
    return next((cell.row, cell.column) for row in sheet.iter_rows() for cell in row if cell.value == text)


def lines_under(sheet: Any, text: str, num_lines: int) -> list[dict[str, Any]]:
    """The lines of the table whose header has this text."""
    row, _ = found_in(sheet, text)
    titles = {cell.column: cell.value for cell in sheet[row] if cell.value}
    return [{title: sheet.cell(row + n, column).value for column, title in titles.items()}
            for n in range(1, num_lines + 1)]


def sheet_of(sweep: LocalFolder) -> tuple[Summary, Any]:
    summary, _, _ = gather(sweep)
    return summary, read(sweep)["Start here"]


def test_first_sheet_says_the_recommendation_and_shows_the_trials_by_rank(three_rows: LocalFolder) -> None:
    summary, sheet = sheet_of(three_rows)
    sentences = summary.recommendation.sentences
    assert [sheet.cell(row, 1).value for row in range(1, len(sentences) + 1)] == sentences
    assert sentences[0].startswith("Use trial 2 (lr 0.1, epochs 4)")
    lines = lines_under(sheet, "verdict", 3)
    table = summary.table
    for name in ("rank", "trial", "lr", "epochs", "best_val_acc", "test_acc", "seconds"):
        assert [line[name] for line in lines] == pytest.approx(table[name].tolist()) if name != "trial" else (
            [line[name] for line in lines] == table[name].tolist())
    assert [line["verdict"] for line in lines] == ["RECOMMENDED", *table["verdict"][1:]]
    baseline = lines_under(sheet, "verdict", 4)[3]
    assert baseline["trial"] == "baseline: always 'no'" and baseline["best_val_acc"] == 0.5


def test_links_lead_to_the_sheets_of_the_trials_and_to_the_other_sheets(three_rows: LocalFolder) -> None:
    _, sheet = sheet_of(three_rows)
    links = {cell.value: cell.hyperlink.location for row in sheet.iter_rows() for cell in row if cell.hyperlink}
    assert links == {**{name: f"'Trial {name}'!A1" for name in "123"}, "Summary": "Summary!A1",
                     "Mistakes": "Mistakes!A1", "Per class": "'Per class'!A1", "Confidence": "Confidence!A1",
                     "Condensed": "Condensed!A1", "Columns": "Columns!A1"}


def test_one_chart_has_every_trials_curve_and_the_baseline(three_rows: LocalFolder) -> None:
    _, sheet = sheet_of(three_rows)
    chart, = sheet._charts
    curves = {str(one.tx.v): one.yVal.numRef.f for one in chart.series if one.tx.v}
    assert curves == {"3: lr 0.01, 5 epochs": "'Trial 3'!$H$2:$H$6", "1: lr 1, 3 epochs": "'Trial 1'!$H$2:$H$4",
                      "2: lr 0.1, 4 epochs": "'Trial 2'!$H$2:$H$5", "baseline": curves["baseline"]}
    assert list(curves)[-2] == "2: lr 0.1, 4 epochs", "the recommended one lies on top"
    area = curves["baseline"].rpartition("!")[2].replace("$", "")
    assert [cell.value for row in sheet[area] for cell in row] == [0.5, 0.5]


def test_shorter_trial_of_a_trajectory_is_a_square_where_it_ends_on_the_longer_ones_curve(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    for name, epochs in (("short", 3), ("long", 6)):
        leave_row(folder, Trial(trial=name, epochs=epochs), make_epochs(epochs, 0.5))
    _, sheet = sheet_of(folder)
    chart, = sheet._charts
    curves = {str(one.tx.v).partition(":")[0]: one for one in chart.series}
    assert (curves["long"].yVal.numRef.f, curves["short"].yVal.numRef.f) == ("'Trial long'!$H$2:$H$7",
                                                                             "'Trial short'!$H$4")
    assert curves["short"].marker.symbol == "square"


def test_heat_map_shows_the_figure_by_the_two_settings_that_vary(three_rows: LocalFolder) -> None:
    summary, sheet = sheet_of(three_rows)
    row, _ = found_in(sheet, "best_val_acc by lr (rows) and epochs (columns)")
    columns = {cell.value: cell.column for cell in sheet[row + 1] if isinstance(cell.value, (int, float))}
    rows = {sheet.cell(number, 2).value: number for number in range(row + 2, row + 5)}
    assert set(rows) == {0.01, 0.1, 1} and set(columns) == {3, 4, 5}
    for _, line in summary.table.iterrows():
        assert sheet.cell(rows[line["lr"]], columns[line["epochs"]]).value == pytest.approx(line["best_val_acc"])
    coloured = [str(rules.sqref) for rules in sheet.conditional_formatting]
    assert f"C{row + 2}:E{row + 4}" in coloured


def test_confusion_matrix_is_that_of_the_recommended_trials_test_split_with_class_names(
        three_rows: LocalFolder) -> None:
    _, sheet = sheet_of(three_rows)
    row, _ = found_in(sheet, "Trial 2: the 10 test images")
    assert [sheet.cell(row + 2, column).value for column in (3, 4)] == ["no", "yes"]
    assert [[sheet.cell(row + n, column).value for column in (1, 3, 4)] for n in (3, 4)] == [
        ["no", 4, 1], ["yes", 2, 3]]


def test_scale_is_white_at_the_baseline_where_a_trial_is_below_it(three_rows: LocalFolder) -> None:
    leave_row(three_rows, Trial(trial="4", lr=0.001, epochs=6), make_epochs(1, 1.2))
    summary, sheet = sheet_of(three_rows)
    row, column = found_in(sheet, "best_val_acc")
    rule = next(rule for rules in sheet.conditional_formatting for rule in rules.rules
                if str(rules.sqref).startswith(sheet.cell(row + 1, column).coordinate))
    assert summary.recommendation.baseline_val
    assert float(rule.colorScale.cfvo[1].val) == summary.recommendation.baseline_val.value == 0.5
    assert rule.colorScale.color[1].rgb == "FFFFFFFF"


def test_names_of_classes_that_look_like_formulas_and_markup_stay_text(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    names = ['=HYPERLINK("http://x")', "<b>\x1b[31m\u202ename"]
    leave_row(folder, Trial(trial="1"), make_epochs(9, 0.2), classes=names, test_confusion=[[3, 1], [2, 4]])
    _, sheet = sheet_of(folder)
    cells = [cell for page in read(folder, values=False) for row in page.iter_rows() for cell in row]
    texts = {str(cell.value) for cell in cells if cell.data_type == "s"}
    assert {names[0], "<b>\\x1b[31m\\u202ename"} <= texts
    assert not any("HYPERLINK" in str(cell.value) for cell in cells if cell.data_type == "f")
    assert not any(cell.hyperlink and cell.hyperlink.target for row in sheet.iter_rows() for cell in row)


def test_trial_that_ranks_first_but_is_not_recommended_is_shown_as_such(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    leave_row(folder, Trial(trial="1"), make_epochs(3, 0.6))
    leave_predictions(folder, "1", range(1, 40, 2), 40)
    _, sheet = sheet_of(folder)
    assert sheet["A1"].value == "No trial beats always saying 'no'; use none of them."
    assert lines_under(sheet, "verdict", 1)[0]["verdict"] == "not shown to beat baseline"
    assert found_in(sheet, "Trial 1 (not recommended): the 40 validation images")


def test_real_phones_give_a_workbook_whose_mistakes_are_those_of_its_confusion_matrix(tmp_path: Path) -> None:
    grid = tmp_path / "grid.csv"
    grid.write_text("trial,lr,epochs,batch_size,image_size,weights\na,0.01,1,16,64,none\nb,0.01,2,16,64,none\n")
    sweep = tmp_path / "sweep"
    done = job("sweep", "--images", shared("data", "phones"), "--positive", "cellphone", "--grid", grid, sweep)
    assert done.code == 0, done.err
    book = read(LocalFolder(str(sweep)))
    sheet = book["Start here"]
    row = next(cell.row for line in sheet.iter_rows(max_col=1) for cell in line
               if str(cell.value).endswith("the 25 test images"))
    counts = [[sheet.cell(row + n, column).value for column in (3, 4)] for n in (3, 4)]
    assert sum(map(sum, counts)) == 25 and [sheet.cell(row + n, 1).value for n in (3, 4)] == ["other", "cellphone"]
    wrong = [line for line in book["Mistakes"].iter_rows(min_row=2, max_col=5, values_only=True) if line[1] == "test"]
    assert len(wrong) == counts[0][1] + counts[1][0]
