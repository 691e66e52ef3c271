"""Events: TensorBoard reads one run per trial with its curves and hyper-parameters."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from job.folder.storage import open_folder
from job.record import Epoch, Row
from job.training.events import end_events, epoch_events, file_name, start_events
from job.trial import Trial


def test_tensorboard_reads_one_run_a_trial_with_its_curves_and_hyper_parameters(tmp_path: Path) -> None:
    for name, lr in (("1", 0.1), ("2", 0.01)):
        folder = open_folder(str(tmp_path / name))
        folder.write(file_name(0), start_events(Trial(trial=name, lr=lr)))
        for number in range(1, 13):
            epoch = Epoch(epoch=number, train_loss=1.0, train_acc=0.5, val_loss=1 / number, val_acc=number / 20)
            folder.write(file_name(number), epoch_events(epoch))
        row = Row(settings={"trial": name}, status="done", epochs_run=12, best_val_acc=0.6, best_val_loss=1 / 12)
        folder.write(file_name(13), end_events(row))
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    assert sorted(multiplexer.Runs()) == ["1/events", "2/events"]
    events = EventAccumulator(str(tmp_path / "1" / "events"))
    events.Reload()
    assert {"loss/train", "loss/val", "acc/train", "acc/val", "best/val_acc"} <= set(events.Tags()["scalars"])
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("acc/val")] == [(n, n / 20) for n in range(1, 13)]
    plugins = {name for run in multiplexer.Runs() for name in multiplexer.GetAccumulator(run).summary_metadata}
    assert "_hparams_/session_start_info" in plugins and "custom_scalars__config__" in plugins
