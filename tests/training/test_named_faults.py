"""A lack of memory, of the GPU or the machine, and a GPU that fails: what is said, and what becomes of the trial."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

from job.cli.main import app, main
from job.cluster.status import sweep_status
from job.data.prepare import ensure_pack
from job.data.sizes import resize_side
from job.errors import BadData, GpuFailed, OutOfMemory
from job.folder.attempts import host_name
from job.folder.layout import read_row
from job.folder.storage import open_folder
from job.training import fit
from job.training.checkpoint import damage
from job.training.display import open_display
from job.training.faults import named_faults
from job.training.imagenet import imagenet_weights, weights_file, weights_url
from job.training.options import SweepOptions
from job.training.state import State
from job.training.sweep import run_sweep
from job.training.weights import parse_weights
from job.trial import Trial

NO_MEMORY = ("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
             "allocate 72253440 bytes. Error code 12 (Cannot allocate memory)\nframe #0: c10::ThrowEnforceNotMet")
TRIAL = Trial(trial="1", lr=0.02, epochs=1, batch_size=8, image_size=40, weights="none", model="mlp")


@pytest.mark.parametrize(("error", "expected"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), OutOfMemory),
    (torch.OutOfMemoryError(), OutOfMemory),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfMemory),
    (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), OutOfMemory),
    (torch.AcceleratorError("CUDA error: out of memory"), OutOfMemory),
    (torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors"), GpuFailed),
    (RuntimeError("CUDA error: device-side assert triggered"), GpuFailed),
    (RuntimeError("CUDA error: unspecified launch failure"), GpuFailed),
    (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), GpuFailed),
    (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear"), RuntimeError),
    (RuntimeError(NO_MEMORY), OutOfMemory),
    (RuntimeError("unable to mmap 8337488 bytes from file </s/pack/0.safetensors>: Cannot allocate memory (12)"),
     OutOfMemory), (MemoryError(), OutOfMemory),
    (RuntimeError("std::bad_alloc"), OutOfMemory),
    (RuntimeError("the driver refuses the rendering kernel: <CUresult.CUDA_ERROR_OUT_OF_MEMORY: 2>"), OutOfMemory),
    (RuntimeError("the GPU's driver refuses the rendering kernel: <CUresult.CUDA_ERROR_ILLEGAL_ADDRESS: 700>"),
     GpuFailed), (RuntimeError("CUDA driver error: an illegal memory access was encountered"), GpuFailed),
    (OSError(12, "Cannot allocate memory"), OutOfMemory),
    (OSError(28, "No space left on device"), OSError), (ValueError("nothing"), ValueError),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError), (ValueError("CUDA error"), ValueError)])
def test_error_of_the_gpu_is_told_from_a_lack_of_memory(error: Exception, expected: type[Exception]) -> None:
    for trial in (TRIAL, None):
        with pytest.raises(expected) as found, named_faults(trial):
            raise error
        assert type(found.value) is expected
        assert "\n" not in str(found.value)


LOST = "CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(("command", "where", "error"), [
    ("predict", "job.results.predict.Predictor.logits_of", torch.OutOfMemoryError("CUDA out of memory")),
    ("predict", "job.results.predict.build_model", torch.AcceleratorError(LOST)),
    ("export", "job.results.predict.build_model", torch.AcceleratorError(LOST)),
    ("plan", "job.training.plan.stepper", torch.OutOfMemoryError("CUDA out of memory")),
    ("plan", "job.training.plan.evaluate", torch.AcceleratorError(LOST))])
def test_every_command_that_computes_on_a_gpu_names_its_errors(
        spare_sweep: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, where: str,
        error: RuntimeError) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(where, fail)
    (tmp_path / "new.csv").write_text("trial,lr,epochs,batch_size,image_size,weights\nnew,0.01,1,8,40,none\n")
    more = {"predict": [shapes / "bar", "--trial", "1"], "export": [tmp_path / "bundle", "--trial", "1"],
            "plan": ["--grid", tmp_path / "new.csv"]}[command]
    expected = OutOfMemory if isinstance(error, torch.OutOfMemoryError) else GpuFailed
    with pytest.raises(expected, match=f"GPU.*{error}"):
        app([command, str(spare_sweep), *map(str, more)], standalone_mode=False)


@pytest.mark.parametrize("error", [
    torch.AcceleratorError(LOST), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(NO_MEMORY)])
def test_files_that_could_not_be_read_for_another_reason_are_not_called_damaged(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    def fail(*_arguments: object, **_settings: object) -> None:
        raise error

    file = tmp_path / "checkpoints" / weights_file(weights_url("resnet18"))
    file.parent.mkdir()
    file.write_bytes(bytes(40_000_000))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(type(error), match=re.escape(str(error)[:20])), damage("last.pt"):
        raise error
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error), match=re.escape(str(error)[:20])):
        parse_weights(file.read_bytes(), "w.pt")
    monkeypatch.setattr("job.training.imagenet.patiently_downloaded", fail)
    with pytest.raises(type(error), match=re.escape(str(error)[:20])):
        imagenet_weights("resnet18")


def test_lack_of_the_machines_memory_is_a_row_that_says_what_to_change(
        shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError(NO_MEMORY)

    monkeypatch.setattr(fit, "train_step", fail)
    sweep = open_folder(str(tmp_path / "s"))
    passport = ensure_pack(sweep, str(shapes), {"short_side": resize_side(40)}, lambda done, total: None)
    with open_display() as display:
        failures = run_sweep(sweep, [TRIAL], passport, display, SweepOptions())
    found = read_row(sweep, "1")
    assert isinstance(failures["1"], OutOfMemory) and found and found.status == "failed"
    assert found.cause.startswith("out of memory at batch_size 8 and image_size 40 ([enforce fail at alloc_cpu")
    assert found.cause.endswith("set a smaller batch_size or image_size, or use a machine with more memory")


def test_failing_gpu_ends_the_sweep_without_a_failed_row_and_a_fresh_process_trains_it(
        shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    sweep = open_folder(str(tmp_path / "s"))
    passport = ensure_pack(sweep, str(shapes), {"short_side": resize_side(40)}, lambda done, total: None)
    trials = [TRIAL, Trial(trial="2", lr=0.01, epochs=1, batch_size=8, image_size=40, weights="none", model="mlp")]
    with open_display() as display:
        with monkeypatch.context() as changed:
            changed.setattr("job.training.fit.train_step", fail)
            with pytest.raises(GpuFailed, match=r"the GPU failed \(CUDA error: an illegal memory access"):
                run_sweep(sweep, trials, passport, display, SweepOptions())
        assert not any(read_row(sweep, trial.trial) for trial in trials)
        assert sweep_status(sweep).trials[0].state == "interrupted"
        assert run_sweep(sweep, trials, passport, display, SweepOptions()) == {}


def test_trial_on_which_the_gpu_fails_again_and_again_becomes_a_row_and_the_others_are_trained(
        shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_step = fit.train_step

    def fail(state: State, *arguments: Any) -> None:
        if state.optimizer.param_groups[0]["lr"] == TRIAL.lr:
            raise torch.AcceleratorError(LOST)
        train_step(state, *arguments)

    monkeypatch.setattr(fit, "train_step", fail)
    sweep = open_folder(str(tmp_path / "s"))
    passport = ensure_pack(sweep, str(shapes), {"short_side": resize_side(40)}, lambda done, total: None)
    trials = [TRIAL, replace(TRIAL, trial="2", lr=0.01)]
    with open_display() as display:
        for _ in range(3):
            with pytest.raises(GpuFailed):
                run_sweep(sweep, trials, passport, display, SweepOptions())
        assert not any(read_row(sweep, trial.trial) for trial in trials)
        assert [*run_sweep(sweep, trials, passport, display, SweepOptions())] == ["1"]
    rows = [read_row(sweep, trial.trial) for trial in trials]
    assert [row and row.status for row in rows] == ["failed", "done"]
    assert rows[0] and f"3 attempts in a row died before they finished an epoch, the last on {host_name()} at 2" \
        in rows[0].cause and f": the GPU failed ({LOST})" in rows[0].cause


def test_weights_that_ask_for_more_memory_than_they_have_bytes_are_damaged() -> None:
    """In torch's old format a changed count is believed."""
    file = io.BytesIO()
    torch.save({"w": torch.zeros(1000)}, file, _use_new_zipfile_serialization=False)
    # Pickle's signs for a number of two bytes, and of eight.
    spoilt = file.getvalue().replace(b"M\xe8\x03", b"\x8a\x08" + (10**15).to_bytes(8, "little"))
    assert spoilt != file.getvalue()
    with pytest.raises(BadData, match=r"w.pt: not a state dict that can be read safely .*tried to allocate"):
        parse_weights(spoilt, "w.pt")


@pytest.mark.parametrize(("where", "work"), [
    ("job.training.outcome.publish", "trials/1"), ("job.training.features.make_features", "features/")])
def test_attempts_within_a_trial_die_with_the_gpu_as_well(
        shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, work: str) -> None:
    def fail(*_arguments: object) -> None:
        raise torch.AcceleratorError(LOST)

    monkeypatch.setattr(where, fail)
    sweep = open_folder(str(tmp_path / "s"))
    passport = ensure_pack(sweep, str(shapes), {"short_side": resize_side(40)}, lambda done, total: None)
    weights = tmp_path / "r18.pt"
    torch.save(resnet18().state_dict(), weights)
    frozen = replace(TRIAL, model="resnet18", weights=str(weights), freeze=True, crop=0, flip=0)
    trials = [frozen] if work == "features/" else [TRIAL, replace(TRIAL, trial="2", epochs=2)]
    with open_display() as display, pytest.raises(GpuFailed):
        run_sweep(sweep, trials, passport, display, SweepOptions())
    found = [json.loads(path.read_text()) for path in (tmp_path / "s" / work).rglob("attempts/*.json")]
    assert [attempt["state"] for attempt in found] == ["died"]


def test_lack_of_memory_of_any_command_is_71_and_no_traceback(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr("job.cli.main.app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 71
    assert capsys.readouterr().err == "job: memory ran out; end what else takes memory, or use a machine with more\n"
