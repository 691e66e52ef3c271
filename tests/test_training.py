"""The loop, the checkpoint, the weights and the events: exact, seeded, and as torch defines them."""

import contextlib
import copy
import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from torch import Tensor, nn
from torchvision.models import resnet18

from job.data.augment import Draws
from job.data.batches import Batches, resize_side
from job.data.load import load_batches
from job.data.pack import Passport
from job.data.prepare import ensure_pack
from job.errors import BadConfig, BadData, MissingInput
from job.folder.layout import trial_work
from job.folder.lease import claim, held
from job.folder.local import LocalFolder
from job.folder.outbox import Outbox
from job.folder.storage import Folder, open_folder
from job.record import Epoch, Row
from job.training.checkpoint import read_checkpoint, restore, state_to_bytes
from job.training.convolution import SmallMapConv2d, speed_up_convolutions
from job.training.display import Display
from job.training.evaluate import Evaluation, confusion_matrix, evaluate, figures_on_test
from job.training.events import end_events, epoch_events, file_name, start_events
from job.training.fit import fit
from job.training.machine import Machine, choose_machine, cpu_has_bf16
from job.training.model import build_model
from job.training.records import Records
from job.training.schedule import lr_of
from job.training.state import State, new_state
from job.training.stopping import is_better
from job.training.weights import imagenet_weights, parse_weights
from job.trial import Trial

TRIAL = Trial(trial="1", lr=0.05, epochs=3, batch_size=8, image_size=40, weights="none", step_size=2)
PACK = "p" * 64


@pytest.fixture(scope="module")
def packed(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Passport]:
    sweep = open_folder(str(tmp_path_factory.mktemp("sweep")))
    return sweep, ensure_pack(sweep, str(shapes), {"short_side": resize_side(40)}, lambda done, total: None)


def begin(packed: tuple[Folder, Passport], trial: Trial = TRIAL) -> tuple[Machine, Batches, State]:
    machine = choose_machine(trial.precision)
    batches = load_batches(*packed, trial, machine.device)
    return machine, batches, new_state(trial, build_model(trial, 2, None, machine), machine, "then")


def go_on(_step: int, _steps: int) -> bool:
    return False


def same_weights(one: State, other: State) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def timeless(epochs: list[Epoch]) -> list[Epoch]:
    return [replace(epoch, images_per_second=None, train_seconds=None, val_seconds=None) for epoch in epochs]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_state_saved_after_any_step_continues_as_if_never_stopped(packed: tuple[Folder, Passport], precision: str) -> None:
    trial = replace(TRIAL, precision=precision)
    machine, batches, whole = begin(packed, trial)
    list(fit(trial, whole, batches, machine, go_on))
    assert len(whole.history) == 3 and whole.best_weights
    steps = -(-len(batches.indices["train"]) // trial.batch_size)
    for stop_epoch, stop_step in ((0, 1), (1, steps), (1, 2), (2, 1)):
        _, _, first = begin(packed, trial)


        def stop(step: int, _: int, here: State = first, at: tuple[int, int] = (stop_epoch, stop_step)) -> bool:
            return (here.epoch, step) == at

        list(fit(trial, first, batches, machine, stop))
        saved = read_checkpoint(state_to_bytes(first, trial, PACK, precision), trial, PACK, "last.pt")
        _, _, second = begin(packed, trial)
        restore(second, saved)
        assert (second.epoch, second.step) == (stop_epoch, stop_step)
        list(fit(trial, second, batches, machine, go_on))
        assert same_weights(whole, second)
        assert timeless(second.history) == timeless(whole.history)
        assert second.best_weights and all(torch.equal(whole.best_weights[k], v) for k, v in second.best_weights.items())


def test_another_seed_is_another_trial(packed: tuple[Folder, Passport]) -> None:
    losses = set()
    for seed in (0, 0, 1):
        trial = replace(TRIAL, seed=seed, epochs=1)
        machine, batches, state = begin(packed, trial)
        losses.add(next(fit(trial, state, batches, machine, go_on)).train_loss)
    assert len(losses) == 2


def test_every_epoch_sees_every_training_image_once_in_another_order(packed: tuple[Folder, Passport]) -> None:
    machine, batches, state = begin(packed)
    seen: list[list[int]] = [[]]

    class Spy(Batches):
        def augmented(self, indices: Tensor, draws: Draws) -> Tensor:
            seen[-1].extend(indices.tolist())
            return super().augmented(indices, draws)

        def centered(self, indices: Tensor) -> Tensor:
            seen[-1].extend(indices.tolist())
            return super().centered(indices)

    spy = Spy(**vars(batches))
    for _ in fit(replace(TRIAL, epochs=2), state, spy, machine, go_on):
        seen.append([])
    train, val = batches.indices["train"].tolist(), batches.indices["val"].tolist()
    first, second = seen[0][:len(train)], seen[1][:len(train)]
    assert sorted(first) == sorted(second) == train and first != second
    assert seen[0][len(train):] == val and not set(train) & set(val)


def test_learning_rate_is_torchs_step_lr() -> None:
    trial = Trial(trial="1", lr=0.3, step_size=3, gamma=0.2)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], trial.lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, trial.step_size, trial.gamma)
    for epoch in range(11):
        assert lr_of(trial, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_diverging_trial_ends_at_the_epoch_that_diverged(packed: tuple[Folder, Passport]) -> None:
    trial = replace(TRIAL, lr=1e18, epochs=6, precision="fp32")
    machine, batches, state = begin(packed, trial)
    epochs = list(fit(trial, state, batches, machine, go_on))
    assert epochs[-1].diverged and len(epochs) < 6
    assert not any(epoch.diverged for epoch in epochs[:-1])


def make_epoch(number: int, val_loss: float, val_acc: float) -> Epoch:
    return Epoch(epoch=number, train_loss=1.0, train_acc=0.5, val_loss=val_loss, val_acc=val_acc)


def test_best_epoch_follows_monitor_and_mode_and_ties_go_to_the_earlier() -> None:
    one, two = make_epoch(1, 0.5, 0.8), make_epoch(2, 0.4, 0.8)
    assert not is_better(Trial(trial="1"), two, one)
    assert is_better(Trial(trial="1", best_monitor="val_loss"), two, one)
    assert not is_better(Trial(trial="1", best_monitor="val_loss", best_mode="max"), two, one)
    assert is_better(Trial(trial="1"), one, None)


def test_validation_images_are_the_plain_center_crops(packed: tuple[Folder, Passport]) -> None:
    machine, batches, state = begin(packed)
    once, again = (evaluate(state.model, batches, "val", machine) for _ in range(2))
    assert once.loss == again.loss and torch.equal(once.logits_NK, again.logits_NK)
    cross_entropy = torch.nn.functional.cross_entropy(once.logits_NK.double(), once.labels_N).item()
    assert once.loss == pytest.approx(cross_entropy)


def test_checkpoint_of_other_settings_or_pack_is_refused(packed: tuple[Folder, Passport]) -> None:
    _, _, state = begin(packed)
    data = state_to_bytes(state, TRIAL, PACK, "fp32")
    with pytest.raises(BadConfig, match=r"lr was 0.05, now 0.1"):
        read_checkpoint(data, replace(TRIAL, lr=0.1), PACK, "last.pt")
    with pytest.raises(BadConfig, match="the pack was pppp"):
        read_checkpoint(data, TRIAL, "q" * 64, "last.pt")
    for damaged in (data[:1000], b"", b"hello" * 100):
        with pytest.raises(BadConfig, match="damaged checkpoint"):
            read_checkpoint(damaged, TRIAL, PACK, "last.pt")


def test_image_size_beyond_the_pack_is_refused_with_the_size_it_needs(packed: tuple[Folder, Passport]) -> None:
    with pytest.raises(BadConfig, match="--short-side 256"):
        load_batches(*packed, Trial(trial="1"), torch.device("cpu"))


def test_smaller_images_are_made_from_a_larger_pack(shapes: Path, tmp_path: Path) -> None:
    sweep = open_folder(str(tmp_path))
    passport = ensure_pack(sweep, str(shapes), {"short_side": 128}, lambda done, total: None)
    batches = load_batches(sweep, passport, TRIAL, torch.device("cpu"))
    assert batches.sizes_N2.min(1).values.unique().tolist() == [resize_side(40)]
    assert batches.centered(batches.indices["val"]).shape[1:] == (3, 40, 40)


def test_figures_are_those_of_the_positive_class_for_two_classes() -> None:
    logits = torch.tensor([[2.0, 1], [1, 2], [1, 2], [2, 1], [1, 2], [2, 1]])
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    figures = figures_on_test(Evaluation(0.5, 0.5, logits, labels), 2)
    assert figures["test_confusion"] == [[1, 1], [2, 2]]
    assert (figures["test_precision"], figures["test_recall"], figures["test_false_negatives"]) == (2 / 3, 0.5, 2)
    assert figures["test_f1"] == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))


def test_figures_of_more_classes_are_means_and_a_class_never_predicted_counts_as_zero() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 0]), 3).float()
    figures = figures_on_test(Evaluation(0.5, 0.5, logits, torch.tensor([0, 0, 1, 2])), 3)
    assert figures["test_precision"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert figures["test_recall"] == pytest.approx(2 / 3) and figures["test_false_negatives"] == 1
    assert confusion_matrix(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 1, 2]), 3).tolist() == [[2, 0, 0], [0, 1, 0], [1, 0, 0]]


def torch_file(values: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["torch", "safetensors", "wrapped", "parallel"])
def test_weights_of_another_head_start_the_net_and_leave_the_head(form: str) -> None:
    torch.manual_seed(3)
    source = resnet18(num_classes=1000).state_dict()
    data, name = {
        "torch": (torch_file(source), "w.pth"), "safetensors": (safetensors.torch.save(source), "w.safetensors"),
        "wrapped": (torch_file({"state_dict": source, "epoch": 3}), "w.pt"),
        "parallel": (torch_file({f"module.{key}": value for key, value in source.items()}), "w.pt")}[form]
    model = build_model(TRIAL, 2, parse_weights(data, name), choose_machine("fp32"))
    assert torch.equal(model.state_dict()["layer1.0.conv1.weight"], source["layer1.0.conv1.weight"])
    fresh = build_model(TRIAL, 2, None, choose_machine("fp32"))
    assert torch.equal(model.state_dict()["fc.weight"], fresh.state_dict()["fc.weight"])


class Harmful:
    """An object whose unpickling would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


@pytest.mark.parametrize(("data", "message"), [
    (b"no weights", "read safely"), (torch_file(Harmful()), "read safely"), (torch_file([1, 2]), "not a state dict"),
    (torch_file({}), "not a state dict")])
def test_file_that_is_no_state_dict_is_refused_and_runs_no_code(data: bytes, message: str) -> None:
    with pytest.raises(BadData, match=message):
        parse_weights(data, "w.pt")


def test_state_dict_of_another_net_names_the_keys() -> None:
    with pytest.raises(BadData, match=r"unknown or of another shape: conv9.weight; missing: conv1.weight"):
        build_model(TRIAL, 2, {"conv9.weight": torch.zeros(1)}, choose_machine("fp32"))


def test_imagenet_weights_come_from_the_cache_of_torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loading code over a file of the right name and form; torchvision checks the hash when it downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(torch_file(resnet18().state_dict()))
    found = imagenet_weights()
    assert found["fc.weight"].shape == (1000, 512)


def test_absent_imagenet_weights_say_both_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(MissingInput) as caught:
        imagenet_weights()
    assert "column weights" in str(caught.value) and "weights to none" in str(caught.value)


def test_precision_auto_follows_the_processor() -> None:
    assert choose_machine("fp32").precision == "fp32" and choose_machine("bf16").precision == "bf16"
    if not torch.cuda.is_available():
        assert choose_machine("auto").precision == ("bf16" if cpu_has_bf16() else "fp32")


def test_tensorboard_reads_one_run_a_trial_with_its_curves_and_hyper_parameters(tmp_path: Path) -> None:
    for name, lr in (("1", 0.1), ("2", 0.01)):
        folder = open_folder(str(tmp_path / name))
        folder.write(file_name(0), start_events(Trial(trial=name, lr=lr)))
        for number in range(1, 13):
            folder.write(file_name(number), epoch_events(make_epoch(number, 1 / number, number / 20)))
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


@pytest.mark.parametrize(("size", "stride"), [(7, 1), (14, 2), (9, 2), (5, 1)])
def test_small_maps_gradients_are_those_of_torchs_convolution(size: int, stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 10, 3, stride, 1, bias=False).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    speed_up_convolutions(ours)
    images = torch.randn(3, 6, size, size).contiguous(memory_format=torch.channels_last)
    found = []
    for layer, low in ((plain, False), (ours, False), (ours, True)):
        here = images.clone().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            maps = layer(here)
        (maps.float() * torch.linspace(-1, 1, maps.numel()).view(maps.shape)).sum().backward()
        assert layer.weight.grad is not None and here.grad is not None
        found.append((maps.detach().float(), layer.weight.grad.clone(), here.grad))
    assert type(ours) is SmallMapConv2d and torch.equal(found[0][0], found[1][0])
    for exact, same, rounded in zip(*found, strict=True):
        torch.testing.assert_close(same, exact, rtol=1e-4, atol=1e-4)
        # bfloat16 has 8 bits of mantissa.
        torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02 * float(exact.abs().max()))


def test_checkpoint_whose_writing_takes_a_core_long_waits_its_turn_and_the_last_does_not(
        packed: tuple[Folder, Passport], tmp_path: Path) -> None:
    class Laborious(LocalFolder):
        written = 0

        def write(self, name: str, data: bytes) -> None:
            if name.endswith("last.pt"):
                self.written += 1
                until = time.thread_time() + 0.3
                while time.thread_time() < until:
                    pass
            super().write(name, data)

    trial, folder = replace(TRIAL, model="mlp", epochs=4), Laborious(str(tmp_path))
    machine, batches, state = begin(packed, trial)
    lease = claim(folder, trial_work(trial.trial), lambda: None, print)
    assert lease
    with held(lease), contextlib.closing(Outbox(folder, print, lease.guard)) as outbox, Display(Console(quiet=True)) as display:
        records = Records(trial, packed[1], outbox, lease, machine, display, threading.Event(), batches)
        records.begin(state)
        for _ in fit(trial, state, batches, machine, go_on):
            records.epoch(state)
            outbox.flush(lambda: 30)
        assert folder.written == 1 and records.checkpointed == (1, 0)
        records.last_checkpoint(state)
        outbox.flush(lambda: 30)
    assert folder.written == 2 and records.checkpointed == (4, 0)
