"""The commands sweep and train: which settings and names they refuse."""

import json
from pathlib import Path

from support import Grid, job, row


def test_changed_settings_under_an_old_name_are_refused_not_mixed(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    assert job("sweep", "--images", shapes, "--grid", make_grid(lr=[0.02], epochs=[1]), sweep).code == 0
    before = row(sweep, "1")
    done = job("sweep", "--grid", make_grid(lr=[0.03], epochs=[1]), sweep)
    assert done.code == 78 and "lr was 0.02, now 0.03" in done.err
    assert row(sweep, "1") == before and "0.02" in (sweep / "grid.csv").read_text()
    assert job("sweep", "--positive", "bar", sweep).code == 78
    shorter = job("sweep", "--grid", make_grid(lr=[0.01], epochs=[1], trial=["other"]), sweep)
    assert shorter.code == 0 and job("status", sweep).out.count(" done ") == 2


def test_train_builds_the_pack_and_names_unknown_trials(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "grid.csv").write_text(make_grid(lr=[0.02], epochs=[1]).read_text())
    lost = job("train", sweep, "--trial", "1")
    assert lost.code == 66 and "--images" in lost.err
    assert job("train", sweep, "--trial", "9").code == 78
    assert job("status", sweep).out.count("waiting") == 2
    assert job("train", sweep, "--trial", "1", "--images", shapes).code == 0
    assert row(sweep, "1")["pack_hash"] == json.loads((sweep / "pack" / "passport.json").read_text())["pack_hash"]


def test_shorter_options_that_make_no_trajectory_are_refused(tmp_path: Path) -> None:
    for text, part in (("2=9", "fewer than 9"), ("two", "NAME=EPOCHS"), ("a/b=2", "--trial")):
        done = job("train", tmp_path, "--trial", "1", "--epochs", "9", "--shorter", text)
        assert done.code == 78 and part in done.err, done.err
    twice = job("train", tmp_path, "--trial", "1", "--epochs", "9", "--shorter", "1=3")
    assert twice.code == 78 and "twice" in twice.err
    cosine = job("train", tmp_path, "--trial", "1", "--epochs", "9", "--schedule", "cosine", "--shorter", "2=3")
    assert cosine.code == 78 and "cosine" in cosine.err
