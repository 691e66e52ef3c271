"""Events: TensorBoard reads one run per trial with its curves, the settings that the grid compares, and the images."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util import tensor_util

from job.data.batches import Batches
from job.data.sheet import to_pixels
from job.folder.local import LocalFolder
from job.folder.storage import Folder, open_folder
from job.record import Epoch, Row
from job.training.evaluate import Evaluation
from job.training.event_images import best_epoch_summaries, draw_confusion
from job.training.events import compared_settings, end_events, epoch_events, file_name, start_events
from job.trial import Trial
from support import Grid, job, row


def reader(folder: Path) -> EventAccumulator:
    """TensorBoard's reader of one run."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return events


def test_tensorboard_reads_one_run_a_trial_with_its_curves_and_hyper_parameters(tmp_path: Path) -> None:
    for name, lr in (("1", 0.1), ("2", 0.01)):
        folder = open_folder(str(tmp_path / name))
        folder.write(file_name(0), start_events(Trial(trial=name, lr=lr), ["lr", "epochs"]))
        for number in range(1, 13):
            epoch = Epoch(epoch=number, train_loss=1.0, train_acc=0.5, val_loss=1 / number, val_acc=number / 20)
            folder.write(file_name(number), epoch_events(epoch))
        ended = Row(settings={"trial": name}, status="done", epochs_run=12, best_val_acc=0.6, best_val_loss=1 / 12)
        folder.write(file_name(13), end_events(ended))
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    assert sorted(multiplexer.Runs()) == ["1/events", "2/events"]
    events = reader(tmp_path / "1" / "events")
    found = set(events.Tags()["scalars"])
    assert {"loss/train", "loss/val", "metrics/train_acc", "metrics/val_acc", "row/best_val_acc"} <= found
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("metrics/val_acc")] == [
        (n, n / 20) for n in range(1, 13)]
    plugins = {name for run in multiplexer.Runs() for name in multiplexer.GetAccumulator(run).summary_metadata}
    assert "_hparams_/session_start_info" in plugins and "custom_scalars__config__" in plugins


def logged(trial: Trial, sweep: Folder, tmp_path: Path) -> tuple[set[str], set[str]]:
    """The settings and the metrics that HPARAMS shows of a trial."""
    folder = open_folder(str(tmp_path / "run"))
    folder.write(file_name(0), start_events(trial, compared_settings(sweep, trial)))
    content = reader(tmp_path / "run" / "events").summary_metadata["_hparams_/experiment"].plugin_data.content
    experiment = hparams_metadata.parse_experiment_plugin_data(content)
    return {info.name for info in experiment.hparam_infos}, {info.name.tag for info in experiment.metric_infos}


@pytest.mark.parametrize(("grid", "wanted"), [
    ("trial,lr,epochs,momentum\n1,0.1,2,0.9\n2,0.01,4,0.9\n", {"lr", "epochs", "momentum"}),
    ("\ufeff\n momentum ,batch_size\n0.8,16\n0.9,16\n", {"lr", "epochs", "momentum", "batch_size"}),
    # Six columns would hide lr behind those that come before it in the alphabet.
    ("trial,lr,epochs,batch_size,image_size,momentum,weights\n1,0.1,2,16,64,0.9,none\n2,0.1,2,16,64,0.8,none\n",
     {"lr", "epochs", "momentum"})])
def test_hparams_show_the_columns_of_the_grid_alone_with_lr_and_epochs(
        grid: str, wanted: set[str], folder: Folder, tmp_path: Path) -> None:
    folder.write("grid.csv", grid.encode())
    settings, metrics = logged(Trial(trial="1"), folder, tmp_path)
    assert settings == wanted
    assert metrics == {"row/best_val_acc", "row/best_val_loss", "row/test_acc", "row/test_recall"}


def test_hparams_without_a_grid_show_what_differs_from_the_defaults(folder: Folder, tmp_path: Path) -> None:
    settings, _ = logged(Trial(trial="1", dropout=0.2), folder, tmp_path)
    assert settings == {"lr", "epochs", "dropout"}


def test_trained_trial_shows_its_confusion_matrix_mistakes_and_pr_curves_at_the_best_epoch(
        shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    assert job("sweep", "--images", shapes, "--grid", make_grid(lr=[0.02], epochs=[3]), sweep).code == 0
    found, folder = row(sweep, 1), sweep / "trials" / "1" / "events"
    events = reader(folder)
    tags = events.Tags()
    assert min(tags["scalars"]) == "loss/train", "the losses' section comes first, and TensorBoard opens it"
    assert min({tag.partition("/")[0] for tag in tags["scalars"]} - {"loss"}) == "metrics"
    for name in ("best_val_acc", "test_acc", "test_recall"):
        assert events.Scalars(f"row/{name}")[-1].value == pytest.approx(found[name])
    for split in ("val", "test"):
        event, = events.Images(f"{split}/confusion_matrix")
        assert event.step == found["best_epoch"]
        with Image.open(io.BytesIO(event.encoded_image_string)) as image:
            assert image.size == (event.width, event.height)
        curve, = events.Tensors(f"{split}/precision_recall")
        assert curve.step == found["best_epoch"] and tensor_util.make_ndarray(curve.tensor_proto).shape == (6, 127)
    assert ("test/mistakes" in tags["images"]) == (found["test_acc"] < 1)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert len(sizes) == 5 and all(size < 1000 for name, size in sizes.items() if name != max(sizes))
    assert sizes[max(sizes)] < 300_000


def test_pr_curve_is_that_of_the_positive_class(batches: Batches, tmp_path: Path) -> None:
    labels_N = batches.labels_N[batches.indices["val"]]
    logits_NK = torch.stack([torch.zeros(len(labels_N)), torch.where(labels_N == 1, 5.0, -5.0)], 1)
    perfect = Evaluation(0.0, 1.0, logits_NK, labels_N)
    events = written(best_epoch_summaries({"val": perfect}, batches, ["bar", "disc"]), tmp_path)
    curve = tensor_util.make_ndarray(events.Tensors("val/precision_recall")[0].tensor_proto)
    assert (curve[4, 60], curve[5, 60]) == (1, 1) and curve[0, 60] == int((labels_N == 1).sum())
    assert "val/mistakes" not in events.Tags()["images"]


def written(summaries: list[Summary], tmp_path: Path) -> EventAccumulator:
    folder = LocalFolder(str(tmp_path / "end"))
    ended = Row(settings={"trial": "1"}, status="done", epochs_run=2, best_epoch=2)
    folder.write(file_name(3), end_events(ended, summaries))
    return reader(tmp_path / "end" / "events")


def test_card_shows_the_surest_mistakes_first_with_both_classes(batches: Batches, tmp_path: Path) -> None:
    labels_N = batches.labels_N[batches.indices["val"]]
    margins_N = torch.linspace(0.5, 4, len(labels_N))
    logits_NK = torch.stack([torch.where(labels_N == 1, margins_N, 0), torch.where(labels_N == 1, 0, margins_N)], 1)
    wrong = Evaluation(1.0, 0.0, logits_NK, labels_N)
    events = written(best_epoch_summaries({"val": wrong}, batches, ["bar", "x" * 500 + "\x1b[2J"]), tmp_path)
    card, = events.Images("val/mistakes")
    with Image.open(io.BytesIO(card.encoded_image_string)) as image:
        shown = np.asarray(image.convert("RGB")).astype(int)[8:158, 8:158]
    surest = batches.indices["val"][margins_N.argmax()].view(1)
    pixels = Image.fromarray(to_pixels(batches.centered(surest))[0].numpy())
    pixels = pixels.resize((150, 150), Image.Resampling.BICUBIC)
    assert np.abs(shown - np.asarray(pixels).astype(int)).mean() < 12, "but for what a JPEG loses"


def test_confusion_matrix_of_1000_classes_is_an_image_of_the_20_worst() -> None:
    confusion_KK = torch.eye(1000, dtype=torch.int64) * 50
    confusion_KK[7, 13] = 30
    image = draw_confusion(confusion_KK, [f"class {number}" for number in range(1000)])
    assert image.width < 1300 and image.height < 1300
