"""A sweep folder of version 0.1, which wrote "picture" where we write "image", is read, gathered and trained on."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from job.data.pack import UNHASHED
from support import job, row, timeless


@pytest.fixture(scope="module")
def new(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two trials over the small images and one that is damaged; the images lie beside it."""
    folder = tmp_path_factory.mktemp("new")
    shutil.copytree(shapes, folder / "in")
    (folder / "in" / "bar" / "damaged.jpg").write_bytes(b"no image")
    (folder / "g.csv").write_text("trial,lr,epochs,batch_size,image_size,weights\n"
                                  "1,0.02,2,8,40,none\n2,0.01,1,8,40,none\n")
    done = job("sweep", "--images", folder / "in", "--grid", folder / "g.csv", folder / "sweep")
    assert done.code == 0, done.err
    return folder / "sweep"


@pytest.fixture
def old(new: Path, tmp_path: Path) -> Path:
    """The same sweep as version 0.1 wrote it: other names of keys, columns and of the table; the hash stays."""
    sweep = Path(shutil.copytree(new, tmp_path / "old"))
    passport = sweep / "pack" / "passport.json"
    table = sweep / "pack" / json.loads(passport.read_text())["table"]["name"]
    digest = hashlib.sha256(rename_column(table)).hexdigest()
    table.rename(table.with_name(f"pictures-{digest[:16]}.csv"))
    found = {**json.loads(passport.read_text()), "table": {"name": f"pictures-{digest[:16]}.csv", "sha256": digest}}
    del found["near_duplicates"], found["options"]["near"]
    text = json.dumps(found, indent=1).replace('"num_images":', '"num_pictures":').replace('"image":', '"picture":')
    passport.write_text(text + "\n")
    for predictions in sweep.glob("trials/*/predictions.csv"):
        rename_column(predictions)
        lines = [line.split(",") for line in predictions.read_text().replace("p_", "p ").splitlines()]
        assert lines[0][4] == "correct"
        predictions.write_text("".join(",".join([*line[:4], *line[5:]]) + "\n" for line in lines))
    for path in sweep.glob("trials/*/row.json"):
        found = {key: value for key, value in json.loads(path.read_text()).items() if not key.endswith("test_errors")}
        path.write_text(json.dumps(found))
    return sweep


def rename_column(path: Path) -> bytes:
    """Rename the column image of a table to picture; return the new table."""
    header, _, lines = path.read_bytes().partition(b"\n")
    assert b"image" in header.split(b",")
    path.write_bytes(header.replace(b"image", b"picture") + b"\n" + lines)
    return path.read_bytes()


def test_hash_of_a_pack_is_the_one_that_version_0_1_gave_it(old: Path) -> None:
    """Its formula, over its table: so rows of both versions belong to one pack."""
    found = json.loads((old / "pack" / "passport.json").read_text())
    assert found["num_pictures"] == 40 and found["rejected"][0]["picture"] == "bar/damaged.jpg"
    options = {name: value for name, value in found["options"].items() if name not in UNHASHED}
    core = [options, found["classes"], [shard["sha256"] for shard in found["shards"]], found["table"]["sha256"]]
    assert found["pack_hash"] == hashlib.sha256(json.dumps(core).encode()).hexdigest()


def test_older_sweep_is_gathered_and_predicts_as_a_new_one_and_nothing_is_trained(new: Path, old: Path) -> None:
    before = {path: path.read_bytes() for path in [*old.glob("pack/*.*"), *old.glob("trials/**/*.*")]}
    (old / "summary.json").unlink()
    for args in (("sweep", old), ("sweep", "--images", new.parent / "in", "--grid", new.parent / "g.csv", old)):
        done = job(*args)
        assert done.code == 0, done.err
        assert "trial 1  already done" in done.out and "trial 2  already done" in done.out
    assert job("gather", old).code == 0
    assert {path: path.read_bytes() for path in before} == before
    summary = json.loads((old / "summary.json").read_text().replace(str(old), str(new)))
    assert summary == json.loads((new / "summary.json").read_text())
    images = sorted((new.parent / "in" / "disc").iterdir())[:4]
    one, other = (job("predict", sweep, *images, "--trial", "1") for sweep in (new, old))
    assert one.code == other.code == 0 and one.out == other.out


def test_trial_trained_on_an_older_pack_leaves_the_same_row_and_predictions(new: Path, old: Path) -> None:
    shutil.rmtree(old / "trials" / "2")
    done = job("sweep", old)
    assert done.code == 0 and "trial 1  already done" in done.out, done.err
    assert timeless(row(old, 2)) == timeless(row(new, 2))
    found, expected = ((sweep / "trials" / "2" / "predictions.csv").read_bytes() for sweep in (old, new))
    assert found == expected
