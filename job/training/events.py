"""TensorBoard events of a trial, as bytes: one small file per epoch, so that nothing is uploaded twice."""

import csv
import io
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import custom_scalars, hparams, scalar

from job.folder.grid import read_grid
from job.folder.layout import GRID, read_text
from job.folder.storage import Folder
from job.record import Epoch, Row
from job.trial import Trial

# TensorBoard sorts its sections by name and opens the first two: these names put the losses first, the accuracies next.
CHARTS = {"curves": {"loss": ["Multiline", ["loss/train", "loss/val"]],
                     "accuracy": ["Multiline", ["metrics/train_acc", "metrics/val_acc"]]}}
TAGS = {"train_loss": "loss/train", "val_loss": "loss/val", "train_acc": "metrics/train_acc",
        "val_acc": "metrics/val_acc", "lr": "schedule/lr", "images_per_second": "speed/images_per_second"}
ROW_FIGURES = ("best_val_acc", "best_val_loss", "test_acc", "test_recall")
ALWAYS = ("lr", "epochs")
# HPARAMS shows the first five settings by name, and has a menu for the others.
MOST_SHOWN = 5


class UnclosableBuffer(io.BytesIO):
    """A buffer that keeps its bytes when RecordWriter closes it."""

    def close(self) -> None:
        self.flush()


def file_name(number: int) -> str:
    """Return the name of an event file; TensorBoard reads the files in this order.

    Number 0 holds the hyper-parameters and the layout of the charts, number n epoch n, and the last the final figures.
    """
    return f"events/events.out.tfevents.{number:010d}.trialgrid"


def to_bytes(summaries: Iterable[tuple[int, Summary]]) -> bytes:
    """Return the content of one event file; each summary comes with its step."""
    buffer = UnclosableBuffer()
    writer = RecordWriter(buffer)
    now = time.time()
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for step, summary in summaries:
        writer.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())
    writer.flush()
    return buffer.getvalue()


def compared_settings(sweep: Folder, trial: Trial) -> list[str]:
    """Return the settings by which HPARAMS compares the trials: lr, epochs, and the columns of the grid.

    Of a grid with more columns than HPARAMS shows at first, only those that vary: the others would hide lr. Without a
    grid, those in which the trial differs from the defaults.
    """
    if sweep.exists(GRID):
        lines = csv.reader(io.StringIO(read_text(sweep, GRID).removeprefix("\ufeff"), newline=""))
        header = [name.strip() for name in next((cells for cells in lines if any(map(str.strip, cells))), [])]
        found = {*header, *ALWAYS} - {"trial"}
        if len(found) > MOST_SHOWN:
            values = [asdict(other) for other in read_grid(sweep)]
            found = {name for name in found if name in ALWAYS or len({line[name] for line in values}) > 1}
    else:
        settings, defaults = asdict(trial), asdict(Trial())
        found = {name for name in settings if settings[name] != defaults[name] or name in ALWAYS} - {"trial"}
    return [name for name in asdict(trial) if name in found]


def start_events(trial: Trial, compared: Sequence[str], has_test: bool = True) -> bytes:
    """Return the trial's hyper-parameters, in its own run, and the charts that show train and validation together.

    compared: the settings to log. has_test: whether the trial will have figures of a test split.
    """
    settings: dict[str, Any] = {name: getattr(trial, name) for name in compared}
    metrics = {f"row/{name}": 0.0 for name in ROW_FIGURES if has_test or not name.startswith("test_")}
    experiment, session_start, _ = hparams(settings, metrics)
    return to_bytes((0, summary) for summary in (experiment, session_start, custom_scalars(CHARTS)))


def epoch_events(epoch: Epoch) -> bytes:
    """Return one epoch's points of the curves."""
    points = [(tag, getattr(epoch, name)) for name, tag in TAGS.items()]
    return to_bytes((epoch.epoch, scalar(tag, value)) for tag, value in points if value is not None)


def end_events(row: Row, of_best_epoch: Sequence[Summary] = ()) -> bytes:
    """Return the figures by which TensorBoard's HPARAMS page compares trials, and the end of the session.

    of_best_epoch: images and curves, which appear at the best epoch.
    """
    _, _, session_end = hparams({}, {})
    points = [(f"row/{name}", getattr(row, name)) for name in ROW_FIGURES]
    figures = [(row.epochs_run, scalar(tag, value)) for tag, value in points if value is not None]
    pictures = [(row.best_epoch or 0, summary) for summary in of_best_epoch]
    return to_bytes([*figures, *pictures, (row.epochs_run, session_end)])
