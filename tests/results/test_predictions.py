"""predictions.csv against its trial's row: one that was cut off between two lines is not believed."""

import re
from pathlib import Path

import pytest

import job as package
from job.errors import BadData
from job.folder.local import LocalFolder
from job.results.gather import gather
from job.results.predict import load_predictor
from support import job


@pytest.mark.parametrize(("num_lost", "said"), [
    (3, "it has 7 test images, and the row says 10"), (9, "it has 1 test image, and the row says 10"),
    (10, "it has 0 test images, and the row says 10"), (12, "it has 298 val images, and the row says 300")])
def test_predictions_with_fewer_images_than_the_row_has_are_left_out(
        three_rows: LocalFolder, num_lost: int, said: str) -> None:
    path = three_rows.path / "trials" / "2" / "predictions.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-num_lost]))
    summary, _, _ = gather(three_rows)
    assert summary.table["trial"].tolist() == ["3", "1"]
    assert [str(damage) for damage in summary.damaged] == [
        f"trial 2: {path}: {said}; restore the file, or delete it to go without it"]
    with pytest.raises(BadData, match=f"{re.escape(str(path))}: {said}"):
        package.open(three_rows.uri).predictions("2")


def test_predict_takes_no_sets_from_predictions_that_were_cut_off(spare_sweep: Path, shapes: Path) -> None:
    path = spare_sweep / "trials" / "1" / "predictions.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    predictor = load_predictor(LocalFolder(str(spare_sweep)), "1")
    assert predictor.sets and predictor.sets.limit is None and "and the row says" in predictor.sets.reason
    done = job("predict", spare_sweep, shapes / "bar" / "bar00.jpg", "--trial", "1")
    assert done.code == 0 and "and the row says" in done.out + done.err


def test_predictions_beside_a_damaged_row_can_be_read(three_rows: LocalFolder) -> None:
    (three_rows.path / "trials" / "2" / "row.json").write_text("{")
    assert len(package.open(three_rows.uri).predictions("2")) == 310
