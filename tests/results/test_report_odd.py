"""Every sweep gives a page, however odd, damaged or large it is; what is missing or cut is said."""

import json
import shutil
from pathlib import Path

import pytest

from html_sweeps import leave_large_sweep
from html_tables import Reader
from job.folder.local import LocalFolder
from support import S3, job, row, shared

GRID = "trial,lr,epochs,batch_size,image_size,weights\n1,0.02,1,8,40,none\n2,0.02,2,8,40,none\n"


def gathered(sweep: object, **env: str) -> Reader:
    """Gather a sweep on disk; return its page."""
    done = job("gather", sweep, **env)
    assert done.code in (0, 65), done.err
    return Reader((Path(str(sweep)) / "summary.html").read_text())


@pytest.mark.parametrize("spoil", ["no pack", "no shard", "short shard", "table", "passport"])
def test_a_missing_or_damaged_pack_is_told_and_stops_nothing(spare_sweep: Path, spoil: str) -> None:
    pack = spare_sweep / "pack"
    shards = sorted(pack.glob("pixels-*"))
    if spoil == "no pack":
        shutil.rmtree(pack)
    elif spoil == "passport":
        found = json.loads((pack / "passport.json").read_text())
        (pack / "passport.json").write_text(json.dumps(found | {"shards": 3}))
    elif spoil == "table":
        next(pack.glob("images-*.csv")).write_text("image\nx\n")
    for shard in shards if "shard" in spoil else []:
        data = shard.read_bytes()
        shard.unlink()
        if spoil == "short shard":
            shard.write_bytes(data[:100])
    page = gathered(spare_sweep)
    assert "Pictures are missing" in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert len(page.table(id="table-trials").rows) == 2


def test_half_a_sweep_and_one_trial_give_pages_that_say_so(spare_sweep: Path) -> None:
    one = gathered(spare_sweep)
    assert "1 trial, the best first" in one.text and "1 of 1 trials have a row" in one.text
    grid = (spare_sweep / "grid.csv").read_text()
    (spare_sweep / "grid.csv").write_text(grid + "2" + grid.splitlines()[1][1:] + "\n")
    half = gathered(spare_sweep)
    assert "1 of 2 trials have a row" in half.text and "no row yet: 2" in half.text
    (spare_sweep / "trials" / "1" / "predictions.csv").unlink()
    assert "no predictions" in gathered(spare_sweep).text


def test_failed_trials_alone_give_a_page_that_says_so(spare_sweep: Path) -> None:
    found = row(spare_sweep, 1) | {"status": "failed", "cause": "out of <memory>", "epochs_run": 0, "best_epoch": None}
    (spare_sweep / "trials" / "1" / "row.json").write_text(json.dumps(found))
    for file in (spare_sweep / "trials" / "1").glob("epochs*.csv"):
        file.unlink()
    failed = gathered(spare_sweep).text
    assert "No trial is ranked" in failed and "out of <memory>" in failed and "there is no curve" in failed


def test_a_sweep_without_a_test_split_says_so(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.csv").write_text(GRID)
    done = job("sweep", "--images", shapes, "--test", "0", "--grid", tmp_path / "grid.csv", tmp_path / "sweep")
    assert done.code == 0, done.err
    page = Reader((tmp_path / "sweep" / "summary.html").read_text())
    assert "this pack has no test split" in page.text
    assert [table.attributes["data-split"] for table in page.tables if "data-split" in table.attributes] == ["val"]


def test_thumbnails_of_a_pack_in_object_storage_are_read_one_by_one(finished: Path, s3: S3, tmp_path: Path) -> None:
    uri = s3.upload(finished, "page")
    done = job("gather", uri, TRIALGRID_VERBOSE="1", TMPDIR=str(tmp_path), **s3.env)
    assert done.code == 0, done.err
    pixels = [line for line in done.err.splitlines() if "pixels-" in line]
    assert pixels and all(line.startswith("read part") for line in pixels)
    text = s3.client().get_object(Bucket="bucket", Key="page/summary.html")["Body"].read().decode()
    assert text.count("data:image/webp") == (finished / "summary.html").read_text().count("data:image/webp") > 0


def test_eight_trials_of_real_images_take_less_than_3_megabytes(tmp_path: Path) -> None:
    images = shared("data", "phones")
    # This network makes many mistakes, each of which is a picture.
    lines = ["trial,lr,epochs,batch_size,image_size,weights,model",
             *(f"{n},{lr},{epochs},16,64,none,mlp" for n, (lr, epochs) in enumerate(
                 ((lr, epochs) for lr in (0.1, 0.03, 0.02, 0.01) for epochs in (1, 2)), 1))]
    (tmp_path / "grid.csv").write_text("\n".join(lines) + "\n")
    done = job("sweep", "--images", images, "--grid", tmp_path / "grid.csv", tmp_path / "sweep")
    assert done.code == 0, done.err
    page = (tmp_path / "sweep" / "summary.html").read_bytes()
    assert len(page) < 3_000_000 and page.count(b"<img ") > 10


def test_200_trials_of_1000_classes_take_less_than_10_megabytes_and_say_what_is_cut(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path / "large"))
    leave_large_sweep(folder, num_trials=200, num_classes=1000, num_images=3000)
    page = gathered(folder.uri)
    assert (tmp_path / "large" / "summary.html").stat().st_size < 10_000_000
    assert len(page.table(id="table-trials").rows) == 201
    assert "Drawn are 20 of 200 trials" in page.text and "20 of 1000 classes" in page.text
    assert len(page.table(data_classes="val").rows) == 1001
