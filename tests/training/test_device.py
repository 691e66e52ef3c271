"""GPUs that torch cannot use, that fail, or that several workers share; none of it needs a GPU."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from job.cli.main import app
from job.cluster.status import sweep_status
from job.data.prepare import ensure_pack
from job.data.sizes import resize_side
from job.errors import BadConfig, GpuFailed, OutOfMemory
from job.folder.attempts import host_name
from job.folder.layout import read_row
from job.folder.storage import open_folder
from job.training import device, fit
from job.training.checkpoint import damage
from job.training.display import open_display
from job.training.options import SweepOptions
from job.training.state import State
from job.training.sweep import run_sweep
from job.training.workers import environment_of, gpus, mig_instances
from job.trial import Trial
from support import Grid, job, row

TRIAL = Trial(trial="1", lr=0.02, epochs=1, batch_size=8, image_size=40, weights="none", model="mlp")
DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version: 12\n"
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU that works")


@pytest.mark.parametrize("value", ["mps", "gpu", "CUDA", "cuda:0"])
def test_unknown_device_is_refused(shapes: Path, make_grid: Grid, tmp_path: Path, value: str) -> None:
    done = job("sweep", "--images", shapes, "--grid", make_grid(lr=[0.02]), tmp_path / "s", TRIALGRID_DEVICE=value)
    assert done.code == 78 and f"TRIALGRID_DEVICE is {value!r}: set cuda or cpu" in done.err, done.err
    assert ("GPUs of Apple and Intel are not used" in done.err) == (value == "mps")


@pytest.fixture
def one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU shows in /dev, with an old driver."""
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "version").write_text(DRIVER)
    monkeypatch.setattr(device, "DEVICE_NODES", tmp_path)
    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")
    monkeypatch.delenv("TRIALGRID_DEVICE")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@WITHOUT_GPU
@pytest.mark.usefixtures("one_gpu")
def test_gpu_that_cuda_cannot_use_is_not_replaced_by_the_cpu_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadConfig, match=r"CUDA cannot use it .*driver is 535\.129\.03, and torch .* needs \d+ or"):
        device.wanted_gpu()
    for name, value in (("TRIALGRID_DEVICE", "cpu"), ("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "-1")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert not device.wanted_gpu()


@pytest.mark.parametrize(("capability", "archs", "is_refused"), [
    ((7, 0), ["sm_75", "sm_80", "sm_90", "compute_90"], True), ((6, 0), ["sm_75"], True), ((7, 5), ["sm_75"], False),
    ((8, 9), ["sm_75", "sm_80"], False), ((9, 0), ["sm_75", "sm_80"], True), ((12, 1), ["sm_90", "compute_90"], False),
    ((9, 0), ["sm_90a"], False), ((10, 3), ["sm_100", "sm_120"], False)])
def test_gpu_for_which_torch_has_no_code_is_refused(
        monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], archs: list[str], is_refused: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: archs)
    if is_refused:
        with pytest.raises(BadConfig, match=rf"Tesla has compute capability {capability[0]}\.{capability[1]}, .*7\.5"):
            device.check_capability("Tesla")
    else:
        device.check_capability("Tesla")


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
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError), (ValueError("CUDA error"), ValueError)])
def test_error_of_the_gpu_is_told_from_a_lack_of_memory(error: Exception, expected: type[Exception]) -> None:
    for trial in (TRIAL, None):
        with pytest.raises(expected) as found, device.gpu_errors(trial):
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


@pytest.mark.parametrize("error", [torch.AcceleratorError(LOST), torch.OutOfMemoryError("CUDA out of memory")])
def test_checkpoint_that_a_failing_gpu_could_not_take_is_not_called_damaged(error: RuntimeError) -> None:
    with pytest.raises(type(error)), damage("last.pt"):
        raise error


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


@pytest.mark.parametrize("text", ["0", "1.5", "-1", "half", "nan"])
def test_share_of_the_gpu_is_a_share(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TRIALGRID_GPU_SHARE", text)
    with pytest.raises(BadConfig, match="TRIALGRID_GPU_SHARE is "):
        device.gpu_share()


def test_workers_of_one_gpu_share_its_memory_and_all_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job.training.workers.num_cores", lambda: 16)
    found = [environment_of(number, 5, ["0", "MIG-a"]) for number in range(5)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["0", "MIG-a", "0", "MIG-a", "0"]
    assert [one["TRIALGRID_GPU_SHARE"] for one in found] == ["0.3333", "0.5", "0.3333", "0.5", "0.3333"]
    assert {one["OMP_NUM_THREADS"] for one in found} == {"3"}
    assert environment_of(0, 4, []) == {"OMP_NUM_THREADS": "4"}


def test_all_mig_instances_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ("GPU 0: NVIDIA H100 (UUID: GPU-1f)\n  MIG 3g.40gb Device  0: (UUID: MIG-0a-1)\n"
              "  MIG 3g.40gb Device  1: (UUID: MIG-0b-2)\n")
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{listed}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert mig_instances() == ["MIG-0a-1", "MIG-0b-2"]
    monkeypatch.delenv("TRIALGRID_DEVICE")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus() == ["MIG-0a-1", "MIG-0b-2"]
    for visible in ("0", "MIG-0b-2,MIG-0a-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpus() == visible.split(",")
    program.write_text("#!/bin/sh\nexit 9\n")
    assert mig_instances() == []


@WITHOUT_GPU
def test_fp16_is_refused_on_a_cpu(shapes: Path, make_grid: Grid, tmp_path: Path) -> None:
    done = job("sweep", "--images", shapes, "--grid", make_grid(lr=[0.02], precision=["fp16"]), tmp_path / "s")
    assert done.code == 78 and "fp16 needs a GPU" in done.err, done.err
    assert row(tmp_path / "s", 1)["status"] == "failed"
