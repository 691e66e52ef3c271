"""A small race, and what its trials leave behind."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from job.record import CLOCKS_AND_HOST
from support import job, row

NAMES = [str(number) for number in range(1, 11)]
LINES = [(lr, schedule) for lr in (0.5, 0.05, 0.01, 0.001, 0.00001) for schedule in ("constant", "cosine")]


def grid_text(num: int = 10, epochs: int = 9) -> str:
    lines = [f"{i},{lr},{epochs},{schedule},8,16,none,mlp,16,0" for i, (lr, schedule) in enumerate(LINES[:num], 1)]
    return "\n".join(["trial,lr,epochs,schedule,batch_size,image_size,weights,model,hidden,crop", *lines]) + "\n"


def outcome(sweep: Path, trial: str) -> dict[str, Any]:
    """A row without clocks; weights, predictions and rungs as bytes."""
    folder = sweep / "trials" / trial
    found: dict[str, Any] = {key: value for key, value in row(sweep, trial).items() if key not in CLOCKS_AND_HOST}
    paths = [folder / "best.safetensors", folder / "predictions.csv", *sorted((folder / "rungs").glob("*"))]
    return found | {path.name: path.read_bytes() for path in paths if path.exists()}


def statuses(sweep: Path) -> dict[str, str]:
    return {name: row(sweep, name)["status"] for name in NAMES}


@pytest.fixture(scope="session")
def race_grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten trials of nine epochs, whose rungs are after the second and the third."""
    path = tmp_path_factory.mktemp("race") / "grid.csv"
    path.write_text(grid_text())
    return path


@pytest.fixture(scope="session")
def never_raced(shapes: Path, race_grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same trials, each trained to its end; no test may change it."""
    sweep = tmp_path_factory.mktemp("never") / "sweep"
    assert job("sweep", "--images", shapes, "--grid", race_grid, sweep).code == 0
    return sweep


@pytest.fixture(scope="session")
def raced(shapes: Path, race_grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A race of these trials in one process; no test may change it."""
    sweep = tmp_path_factory.mktemp("raced") / "sweep"
    done = job("sweep", "--images", shapes, "--grid", race_grid, "--race", sweep)
    assert done.code == 0, done.err
    (sweep.parent / "out.txt").write_text(done.out)
    return sweep


@pytest.fixture
def spare_race(raced: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(raced, tmp_path / "sweep", symlinks=True))
