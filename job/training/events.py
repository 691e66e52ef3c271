"""TensorBoard events of a trial, as bytes: one small file per epoch, so that nothing is uploaded twice."""

import io
import time
from dataclasses import asdict
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import custom_scalars, hparams, scalar

from job.record import Epoch, Row
from job.trial import Trial

CHARTS = {"curves": {"loss": ["Multiline", ["loss/train", "loss/val"]],
                     "accuracy": ["Multiline", ["acc/train", "acc/val"]]}}
TAGS = {"train_loss": "loss/train", "val_loss": "loss/val", "train_acc": "acc/train", "val_acc": "acc/val",
        "lr": "lr", "images_per_second": "images_per_second"}


class UnclosableBuffer(io.BytesIO):
    """A buffer that keeps its bytes when RecordWriter closes it."""

    def close(self) -> None:
        self.flush()


def file_name(number: int) -> str:
    """Return the name of an event file; TensorBoard reads the files in this order.

    Number 0 holds the hyper-parameters and the layout of the charts, number n epoch n, and the last the final figures.
    """
    return f"events/events.out.tfevents.{number:010d}.trialgrid"


def to_bytes(summaries: list[Summary], step: int) -> bytes:
    """Return the content of one event file."""
    buffer = UnclosableBuffer()
    writer = RecordWriter(buffer)
    now = time.time()
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for summary in summaries:
        writer.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())
    writer.flush()
    return buffer.getvalue()


def start_events(trial: Trial) -> bytes:
    """Return the trial's hyper-parameters, in its own run, and the charts that show train and validation together."""
    settings: dict[str, Any] = {key: value for key, value in asdict(trial).items() if key != "trial"}
    metrics = {"best/val_acc": 0.0, "best/val_loss": 0.0}
    experiment, session_start, _ = hparams(settings, metrics)
    return to_bytes([experiment, session_start, custom_scalars(CHARTS)], 0)


def epoch_events(epoch: Epoch) -> bytes:
    """Return one epoch's points of the curves."""
    points = [(tag, getattr(epoch, name)) for name, tag in TAGS.items()]
    return to_bytes([scalar(tag, value) for tag, value in points if value is not None], epoch.epoch)


def end_events(row: Row) -> bytes:
    """Return the figures by which TensorBoard's HPARAMS page compares trials, and the end of the session."""
    _, _, session_end = hparams({}, {})
    points = [("best/val_acc", row.best_val_acc), ("best/val_loss", row.best_val_loss)]
    summaries = [scalar(tag, value) for tag, value in points if value is not None]
    return to_bytes([*summaries, session_end], row.epochs_run)
