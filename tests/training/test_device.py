"""GPUs that torch cannot use, or that several workers share; none of it needs a GPU."""

from pathlib import Path

import pytest
import torch

from job.errors import BadConfig
from job.training import device
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
