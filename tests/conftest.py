"""Fixtures that several files of tests use; what is expensive to make is made once per session."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from job.folder.attempts import Attempt, as_json, attempt_file, now
from job.folder.grid import format_grid
from job.folder.local import LocalFolder
from job.folder.storage import Folder, open_folder
from job.trial import Trial
from server import make_bucket, start_s3
from support import KEYS, S3, draw, environment, job, leave_predictions, leave_row, make_epochs, row

if TYPE_CHECKING:
    from job.data.batches import Batches
    from job.data.pack import Passport

# Tests run side by side; each, and what it starts, computes with one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What tests claim to the last bit is true of a CPU; tests/training/test_gpu.py is about the GPU.
os.environ.setdefault("TRIALGRID_DEVICE", "cpu")
pytest_plugins = ["races"]
SMALL = {"image_size": "40", "batch_size": "8", "weights": "none"}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 small images: 24 discs, 16 bars, in class folders."""
    folder = tmp_path_factory.mktemp("shapes")
    for label, count in (("disc", 24), ("bar", 16)):
        for number in range(count):
            draw(folder / label / f"{label}{number:02d}.jpg", label, number)
    return folder


@pytest.fixture
def spare_images(shapes: Path, tmp_path: Path) -> Path:
    """A copy of the small images, free to be spoilt."""
    for path in shapes.rglob("*.jpg"):
        target = tmp_path / "in" / path.relative_to(shapes)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path / "in"


@pytest.fixture
def make_grid(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a grid of small trials: make_grid(lr=[...], epochs=[...]) zips its columns."""

    def write(**columns: list[Any]) -> Path:
        path = tmp_path / "grid.csv"
        count = max(map(len, columns.values()))
        table: dict[str, list[Any]] = {"trial": list(range(1, count + 1))}
        table |= {name: [value] * count for name, value in SMALL.items()} | columns
        lines = [",".join(table)] + [",".join(str(values[i]) for values in table.values()) for i in range(count)]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture(scope="session")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of one trial; no test may change it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "g.csv").write_text("trial,lr,epochs,batch_size,image_size,weights\n1,0.01,1,8,40,none\n")
    assert job("sweep", "--images", shapes, "--grid", folder / "g.csv", folder / "sweep").code == 0
    return folder / "sweep"


@pytest.fixture
def spare_sweep(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished sweep, free to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "sweep", symlinks=True))


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of three classes, 42 validation and 45 test images (`../images`); no test may change it."""
    top = tmp_path_factory.mktemp("calibrated")
    for n, label in enumerate(("disc", "bar", "ring") * 50):
        draw(top / "images" / label / f"{label}{n:03d}.jpg", label, n)
    (top / "g.csv").write_text("trial,lr,epochs,batch_size,image_size,weights\n1,.02,1,8,40,none\n2,.02,2,8,40,none\n")
    source = ("--images", top / "images", "--val", 0.4, "--test", 0.3)
    assert job("sweep", *source, "--grid", top / "g.csv", top / "sweep").code == 0
    return top / "sweep"


@pytest.fixture
def three_rows(tmp_path: Path) -> LocalFolder:
    """A sweep of four trials that nobody trained; three have rows, and the second is the best and recommended."""
    folder = LocalFolder(str(tmp_path / "sweep"))
    trials = [Trial(trial=str(n), lr=lr, epochs=n + 2) for n, lr in enumerate((1.0, 0.1, 0.01, 0.001), 1)]
    folder.write("grid.csv", format_grid(trials).encode())
    for trial, level in zip(trials[:3], (0.9, 0.2, 0.5), strict=True):
        leave_row(folder, trial, make_epochs(trial.epochs, level), num_val=300, num_test=10,
                  test_acc=0.7, test_confusion=[[4, 1], [2, 3]])
        # As many wrong as the last epoch's accuracy says.
        wrong = range(round(300 * level / trial.epochs / 1.5))
        leave_predictions(folder, trial.trial, wrong, 300, wrong_on_test=(0, 1, 3), num_test=10)
    return folder


NINE: dict[str, list[Any]] = {
    "lr": [0.02, 0.02, 0.02, 0.03, 0.03, 0.03, "1e18", "1e18", 0.02],
    "epochs": [2, 7, 4, 4, 30, 40, 3, 6, 3],
    "schedule": ["step", "step", "step", "constant", "constant", "constant", "step", "step", "cosine"],
    "stop_monitor": ["none", "none", "none", "val_loss", "val_loss", "val_loss", "none", "none", "none"],
    "stop_patience": [0, 0, 0, 1, 1, 1, 0, 0, 0]}


@pytest.fixture(scope="session")
def nine_alone(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of nine trials, each trained on its own; as trajectories they would be four runs."""
    folder = tmp_path_factory.mktemp("alone")
    lines = ["trial,batch_size,image_size,weights," + ",".join(NINE)]
    lines += [f"{i + 1},8,40,none," + ",".join(str(values[i]) for values in NINE.values()) for i in range(9)]
    (folder / "grid.csv").write_text("\n".join(lines) + "\n")
    done = job("sweep", "--images", shapes, "--grid", folder / "grid.csv", "--independent", folder / "sweep")
    assert done.code == 0, done.err
    assert all(row(folder / "sweep", i)["trained_by"] == "" for i in range(1, 10))
    return folder / "sweep"


@pytest.fixture(scope="session")
def packed(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> "tuple[Folder, Passport]":
    """The small images, packed for trials of 40 pixels."""
    from job.data.prepare import ensure_pack
    from job.data.sizes import resize_side

    sweep = open_folder(str(tmp_path_factory.mktemp("packed")))
    return sweep, ensure_pack(sweep, str(shapes), {"short_side": resize_side(40)}, lambda done, total: None)


@pytest.fixture(scope="session")
def batches(packed: "tuple[Folder, Passport]") -> "Batches":
    """That pack in memory, for an mlp."""
    import torch

    from job.data.load import load_batches

    trial = Trial(trial="1", model="mlp", weights="none", image_size=40, batch_size=8, epochs=2)
    return load_batches(*packed, trial, torch.device("cpu"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty sweep folder on disk."""
    return open_folder(str(tmp_path / "sweep"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of attempts and leases, twenty times as fast."""
    from job.folder import attempts, lease

    for name in ("BEAT_SECONDS", "SILENT_SECONDS", "MARGIN_SECONDS", "LONG_SILENT_SECONDS", "POLL_SECONDS"):
        for module in (attempts, lease):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(module, name) / 20)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A bucket on a real S3 server with real keys."""
    folder = tmp_path_factory.mktemp("s3")
    process, endpoint = start_s3(folder)
    bucket = S3("bucket", {**KEYS, "AWS_ENDPOINT_URL": endpoint})
    make_bucket(process, bucket)
    yield bucket
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def s3_here(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The S3 server, reachable from within this process."""
    from job.folder import s3_calls as s3_folder

    for name, value in {**environment(**s3.env)}.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    s3_folder._clients.clear()
    s3_folder._denied.clear()
    yield s3
    s3_folder._clients.clear()
    s3_folder._denied.clear()


BEAT = Attempt(host="node-7/pod-x", process="boot ns 1 1", from_epoch=0, epoch=2, step=1, num_steps=4)


@pytest.fixture(scope="session")
def half_trained(shapes: Path, s3: S3, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sweep in S3: trial 1 done, 2 failed, 3 to 5 not begun."""
    lines = ["trial,lr,epochs,batch_size,image_size,weights", "1,0.02,2,8,40,none", "2,0.01,1,8,40,/no/such.pt"]
    lines += [f"{number},0.03,4,8,40,none" for number in (3, 4, 5)]
    path = tmp_path_factory.mktemp("grid") / "g.csv"
    path.write_text("\n".join(lines) + "\n")
    uri = "s3://bucket/cluster"
    assert job("prepare", shapes, uri, "--grid", path, **s3.env).code == 0
    assert job("train", uri, "--trial", "1", **s3.env).code == 0
    assert job("train", uri, "--trial", "2", **s3.env).code == 66
    return uri


@pytest.fixture
def cluster_sweep(half_trained: str, s3: S3) -> str:
    """The same with trial 4 under way on another node, by a beat of now, and 5 interrupted there long ago."""
    for trial, at in (("4", now()), ("5", "2026-01-01T00:00:00+00:00")):
        key = f"cluster/{attempt_file(f'trials/{trial}', 1)}"
        s3.client().put_object(Bucket="bucket", Key=key, Body=as_json(replace(BEAT, at=at)))
    return half_trained
