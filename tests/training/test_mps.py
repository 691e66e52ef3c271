"""Workers that share a GPU get NVIDIA's service, if it answers; a script stands in for the driver's program."""

from pathlib import Path

import pytest

from job.data.prepare import ensure_pack
from job.data.sizes import resize_side
from job.folder.storage import open_folder
from job.training.display import open_display
from job.training.mps import CONTROL, shared_gpus
from job.training.options import SweepOptions
from job.training.workers import run_workers
from job.trial import Trial

ANSWERS = """#!/bin/sh
read command
echo "$CUDA_MPS_PIPE_DIRECTORY $* $command" >> {log}
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the control program was asked: the pipe's folder, options, command."""
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    write_program(tmp_path, ANSWERS.format(log=tmp_path / "log"))
    (tmp_path / "log").touch()
    return tmp_path / "log"


def write_program(folder: Path, text: str) -> None:
    (folder / CONTROL).write_text(text)
    (folder / CONTROL).chmod(0o755)


def test_service_runs_while_workers_share_a_gpu_and_ends_with_them(log: Path) -> None:
    said = list[str]()
    with pytest.raises(KeyError), shared_gpus(4, 1, said.append) as variables:
        folder = variables["CUDA_MPS_PIPE_DIRECTORY"]
        assert Path(folder).is_dir() and len(folder) < 60
        raise KeyError
    assert log.read_text().splitlines() == [f"{folder} -d ", f"{folder}  get_default_active_thread_percentage",
                                            f"{folder}  quit"]
    assert not said and not Path(folder).exists()


def test_service_is_not_started_for_nothing(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for num_workers, num_gpus in ((1, 1), (4, 4), (2, 0)):
        with shared_gpus(num_workers, num_gpus, print) as variables:
            assert variables == {}
    for name, value in (("TRIALGRID_MPS", "0"), ("CUDA_MPS_PIPE_DIRECTORY", "/elsewhere")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            with shared_gpus(4, 1, print) as variables:
                assert variables == {}
    (log.parent / CONTROL).unlink()
    with shared_gpus(4, 1, print) as variables:
        assert variables == {}
    assert not log.read_text()


@pytest.mark.parametrize(("text", "reason"), [
    ("#!/bin/sh\necho no permission >&2; exit 1\n", "ended with 1: no permission"),
    ("#!/bin/sh\n[ \"$1\" = -d ] || exit 3\n", "ended with 3"), ("#!/bin/sh\nsleep 9\n", "TimeoutExpired")])
def test_service_that_does_not_answer_is_done_without(
        log: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str) -> None:
    monkeypatch.setattr("job.training.mps.ANSWER_SECONDS", 0.5)
    write_program(log.parent, text)
    said = list[str]()
    with shared_gpus(2, 1, said.append) as variables:
        assert variables == {}
    assert len(said) == 1 and reason in said[0], said


def test_workers_of_one_gpu_find_the_service(
        log: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They train on the CPU here; their environment is that of workers of a GPU."""
    sweep = open_folder(str(tmp_path / "s"))
    passport = ensure_pack(sweep, str(shapes), {"short_side": resize_side(40)}, lambda done, total: None)
    trials = [Trial(trial=str(number), lr=0.01 * number, epochs=1, batch_size=8, image_size=40, weights="none",
                    model="mlp") for number in (1, 2)]
    monkeypatch.setattr("job.training.workers.gpus", lambda: ["0"])
    with open_display() as display:
        assert run_workers(sweep, trials, passport, display, SweepOptions(), 2) == {}
    assert [line.split()[1] for line in log.read_text().splitlines()] == [
        "-d", "get_default_active_thread_percentage", "quit"]
