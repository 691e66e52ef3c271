"""What a person sees while trials run: the trial's number, the time left for it and for the sweep, what is saved."""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from job.folder.groups import trajectories
from job.record import Epoch
from job.training.display import Display, Position, clock
from job.trial import Trial
from support import Grid, job, on_terminal, plain

TRIALS = [Trial(trial="1", lr=0.1, epochs=5), Trial(trial="2", lr=0.1, epochs=20), Trial(trial="3", lr=0.01, epochs=10)]
EPOCH = Epoch(epoch=2, train_loss=0.5, train_acc=0.8, val_loss=0.6, val_acc=0.75, lr=0.1, images_per_second=90.0,
              train_seconds=3.0, val_seconds=1.0)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Display:
    """A display into a pipe, on a clock that moves one second when asked."""
    seconds = iter(range(100_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    return Display(Console(file=io.StringIO(), width=160))


def printed(display: Display) -> str:
    """What it has printed."""
    assert isinstance(display.console.file, io.StringIO)
    return display.console.file.getvalue()


def test_sweep_says_what_it_trains_and_what_trajectories_save(display: Display) -> None:
    display.runs(trajectories(TRIALS), 4)
    assert printed(display) == "training 3 of 4 trials in 2 runs: 30 epochs (trajectories save 5)\n"


def test_sweep_without_trajectories_or_with_nothing_left_says_so(display: Display) -> None:
    display.runs([[TRIALS[0]], [TRIALS[2]]], 2)
    display.runs([], 2)
    assert printed(display).splitlines() == [
        "training 2 of 2 trials: 15 epochs", "each of the 2 trials has its row; nothing is left to train"]


def test_time_left_is_that_of_the_trial_and_of_the_sweep_by_the_pace_so_far(display: Display) -> None:
    display.position = Position(num_done=1, num_trials=8, other_epochs=30)
    display.trial(TRIALS[1], 0, 200, 0)
    display.started = time.monotonic() - 7  # 8 s when asked: 2 epochs of 20
    display.epoch(TRIALS[1], EPOCH)
    assert printed(display).endswith("trial 2 (2 of 8)  epoch 2/20  loss 0.5000, val 0.6000  accuracy 0.800, "
                                     "val 0.750  90 images/s  1m12s left, sweep 3m12s\n")


def test_workers_share_what_is_left_of_the_sweep(display: Display) -> None:
    display.position = Position(num_done=0, num_trials=8, other_epochs=60, num_workers=4)
    display.trial(TRIALS[1], 0, 200, 0)
    display.started = time.monotonic() - 7
    display.epoch(TRIALS[1], EPOCH)
    assert printed(display).endswith("1m12s left, sweep 1m18s\n")  # (18 + 60) epochs of 4 s by 4 workers


def test_resumed_trial_is_timed_by_what_it_does_here(display: Display) -> None:
    display.trial(TRIALS[2], 5, 100, 50)
    display.started = time.monotonic() - 9
    assert display.left(0.6) == "40s left"
    assert display.left(0.5) == ""


def test_clock_is_short() -> None:
    assert [clock(seconds) for seconds in (0.4, 59, 185, 7380)] == ["0s", "59s", "3m05s", "2h03m"]


def test_bar_on_a_narrow_terminal_fits_and_says_trial_epoch_and_time(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.02, 0.01], epochs=[2, 2], model=["mlp", "mlp"])
    text = plain(on_terminal(80, "sweep", "--images", shapes, "--grid", grid, tmp_path / "s"))
    frames = [line for line in text.replace("\r", "\n").splitlines() if "━" in line]
    assert any("(2 of 2)  epoch 1/2" in line for line in frames), frames
    assert any(line.rstrip().endswith("left") and "val acc" in line for line in frames), frames
    assert all(len(line.rstrip()) <= 80 for line in frames)
    assert "trajectories" not in text and "training 2 of 2 trials: 4 epochs" in text


def test_sweep_of_trajectories_prints_one_run(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    grid = make_grid(lr=[0.02, 0.02], epochs=[1, 2], model=["mlp", "mlp"])
    done = job("sweep", "--images", shapes, "--grid", grid, tmp_path / "s")
    assert "training 2 of 2 trials in 1 run: 2 epochs (trajectories save 1)" in done.out
    again = job("sweep", tmp_path / "s")
    assert "each of the 2 trials has its row; nothing is left to train" in again.out
