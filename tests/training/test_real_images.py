"""Whole sweeps over the real images of both studies."""

from pathlib import Path

from support import Grid, job, row, shared


def test_real_phones_against_the_rest(make_grid: Grid, tmp_path: Path) -> None:
    phones = shared("data", "phones")
    grid = make_grid(lr=[0.02, 0.005], epochs=[2, 2])
    done = job("sweep", "--images", phones, "--positive", "cellphone", "--grid", grid, tmp_path / "sweep")
    assert done.code == 0, done.err
    found = row(tmp_path / "sweep", "1")
    assert found["classes"] == ["other", "cellphone"]
    assert (found["num_train"], found["num_val"], found["num_test"]) == (180, 45, 25)


def test_real_emergency_vehicles_from_their_csv(make_grid: Grid, tmp_path: Path) -> None:
    source = shared("data", "emergency") / "emergency_classification.csv"
    done = job("sweep", "--images", source, "--grid", make_grid(lr=[0.01], epochs=[2]), tmp_path / "sweep")
    assert done.code == 0, done.err
    assert row(tmp_path / "sweep", "1")["test_false_negatives"] <= 8


def test_real_ants_and_bees_keep_their_folders_split_and_have_no_test_figures(make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.01], epochs=[1])
    done = job("sweep", "--images", shared("data", "ants_bees"), "--grid", grid, tmp_path / "sweep")
    assert done.code == 0, done.err
    found = row(tmp_path / "sweep", "1")
    assert (found["num_train"], found["num_val"], found["num_test"], found["test_acc"]) == (245, 153, 0, None)
