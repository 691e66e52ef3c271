"""The training step of a GPU, on fake tensors: captured as a graph, without a value read or a copy too many."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_steps import parts_of_step
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fake_cuda import Log, pretend
from fake_gpu import CUDA, Report, fake_batches, run_epoch
from job.training import fit
from job.training.drawing import Drawing
from job.training.machine import Machine
from job.training.state import State
from job.trial import Trial

TRIAL = Trial(trial="1", lr=0.02, epochs=3, batch_size=8, weights="none", schedule="cosine", warmup=0.5, image_size=64)
FORMS = {
    "sgd": TRIAL,
    "no momentum": replace(TRIAL, momentum=0.0),
    "adam, fp32": replace(TRIAL, optimizer="adam", precision="fp32", weight_decay=0.01),
    "augmented": replace(TRIAL, noise=0.1, blur=1.0, rotation=20.0, shift=0.1, flip_up=0.5),
    "dropout, class weights, smoothing": replace(TRIAL, dropout=0.2, class_weights="balanced", label_smoothing=0.1),
    "smaller images in training": replace(TRIAL, train_size=48),
    "frozen": replace(TRIAL, freeze=True, weights="imagenet"),
    "features of a frozen backbone": replace(TRIAL, freeze=True, weights="imagenet", crop=0, flip=0, dropout=0.2),
    "mlp": replace(TRIAL, model="mlp", hidden="50-20", batch_norm=True, dropout=0.2),
    "mobilenet": replace(TRIAL, model="mobilenet_v3_small"),
    "swin, which drops layers": replace(TRIAL, model="swin_t", optimizer="adam"),
}


def torch_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job.data.batches.rendering_kernel", lambda device: (None, ""))
    monkeypatch.setattr("job.training.gpu.rendering_kernel", lambda device: (None, ""))


def kernel_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    def rendered(pixels_P3: Tensor, images_N12: Tensor, size: int, dtype: torch.dtype, _normalised: bool) -> Tensor:
        assert pixels_P3.device == images_N12.device == CUDA and images_N12.dtype == torch.float64
        assert images_N12.is_contiguous() and pixels_P3.is_contiguous()
        out_NHWC = torch.empty(len(images_N12), size, size, 3, dtype=dtype, device=CUDA)
        return out_NHWC.fill_(0).permute(0, 3, 1, 2)

    for room in ("job.data.batches", "job.training.gpu"):
        monkeypatch.setattr(f"{room}.rendering_kernel", lambda device: (SimpleNamespace(rendered=rendered), ""))


def check(report: Report) -> None:
    assert not report.said and report.is_graph
    # Three steps warm up, the fourth makes the graph, and the last batch, a smaller one, runs without it.
    assert report.num_replays == 3 and [images for images, _, _ in report.steps] == [8] * 6 + [4]
    assert [reads for _, _, reads in report.steps] == [0] * 7
    assert report.reads_in_validation <= 1


@pytest.mark.parametrize("renders", [torch_renders, kernel_renders])
@pytest.mark.parametrize("form", FORMS)
def test_step_becomes_a_graph_and_copies_once(monkeypatch: pytest.MonkeyPatch, form: str, renders: Any) -> None:
    renders(monkeypatch)
    report = run_epoch(FORMS[form], monkeypatch)
    check(report)
    # The description of the batch; at the beginning mean and deviation, too, which torch's rendering reads.
    has_images = form != "features of a frozen backbone"
    first = 3 if has_images and (renders is torch_renders or FORMS[form].noise) else 1
    assert [copies for _, copies, _ in report.steps] == [first, *[1] * 6]


def test_pack_in_host_memory_costs_one_more_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_renders(monkeypatch)
    report = run_epoch(TRIAL, monkeypatch, resident=False)
    check(report)
    assert [copies for _, copies, _ in report.steps] == [2] * 7


def test_kernel_renders_in_one_pass_what_takes_torch_fifty_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_renders(monkeypatch)
    plain = run_epoch(TRIAL, monkeypatch)
    kernel_renders(monkeypatch)
    fused = run_epoch(TRIAL, monkeypatch)
    assert 40 < plain.render_operations < 60 and fused.render_operations <= 4
    # One copy of the description, the labels, and a batch of 4 in bf16 or fp32.
    batch_bytes = 4 * 3 * 64 * 64 * 4
    assert fused.render_bytes < 3 * batch_bytes < 30 * batch_bytes < plain.render_bytes < 100 * batch_bytes
    assert fused.num_bytes < plain.num_bytes and fused.num_operations < plain.num_operations - 40


def test_benchmark_times_what_comes_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    pretend(monkeypatch, log := Log(fake, truth=False))
    batches = fake_batches(fake, TRIAL, 65, resident=True)
    with fake, log:
        found = parts_of_step(TRIAL, batches, Drawing(TRIAL, batches), Machine(CUDA, "fake", "bf16"))
    assert [*found] == ["drawing", "feeding", "copying"] and all(seconds > 0 for seconds in found.values())
    # The description of a batch, each of eight times.
    assert log.copies == 8


def loss_is_read(logits_NK: Tensor, labels_N: Tensor, weights_K: Tensor | None, smoothing: float) -> Tensor:
    loss = fit.training_loss(logits_NK, labels_N, weights_K, smoothing)
    loss.item()
    return loss


def some_are_chosen(logits_NK: Tensor, labels_N: Tensor, weights_K: Tensor | None, smoothing: float) -> Tensor:
    return fit.training_loss(logits_NK[labels_N == 0], labels_N[labels_N == 0], weights_K, smoothing)


def mean_made_anew(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1).to(device), torch.ones(1, 3, 1, 1, device=device)


def sum_on_the_host(state: State) -> None:
    state.loss_sum = torch.zeros(1, dtype=torch.float64)


def rate_as_a_number(state: State) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = 0.01


def failure(trial: Trial, monkeypatch: pytest.MonkeyPatch, change: Any = None) -> str:
    """What a run says or raises, or what is wrong with its report."""
    try:
        report = run_epoch(trial, monkeypatch, change=change)
        check(report)
        assert [copies for _, copies, _ in report.steps] == [3, *[1] * 6]
    except (AssertionError, RuntimeError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize(("name", "value", "change"), [
    ("job.training.fit.training_loss", loss_is_read, None), ("job.training.fit.training_loss", some_are_chosen, None),
    ("job.data.augment.mean_and_std", mean_made_anew, None), ("", None, sum_on_the_host), ("", None, rate_as_a_number),
    ("job.training.fit.class_weights", lambda trial, batches: torch.ones(2), None)])
def test_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, name: str, value: Any, change: Any) -> None:
    torch_renders(monkeypatch)
    with monkeypatch.context() as without:
        assert not failure(TRIAL, without)
    plain = fit.training_loss
    if name:
        monkeypatch.setattr(name, value)
    if name == "job.training.fit.training_loss":
        # The faulty one calls the product's own.
        monkeypatch.setattr("test_fake_gpu.fit", SimpleNamespace(training_loss=plain))
    assert failure(TRIAL, monkeypatch, change)
