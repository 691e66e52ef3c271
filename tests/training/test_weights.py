"""Files of weights: every form that is read, and whatever is no state dict is refused without running it."""

import io
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torchvision.models import resnet18

from job.errors import BadData, MissingInput
from job.training.imagenet import imagenet_weights
from job.training.machine import choose_machine
from job.training.model import build_model
from job.training.weights import parse_weights
from loops import TRIAL


@pytest.mark.parametrize("data", [b"trial,lr\n1,0.1\n", b"", b"\x80\x02}q\x00.", bytes(range(256)) * 20])
def test_any_bytes_as_weights_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(BadData, match=r"w\.pt"):
        parse_weights(data, "w.pt")


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
    found = imagenet_weights("resnet18")
    assert found["fc.weight"].shape == (1000, 512)


def test_absent_imagenet_weights_say_both_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(MissingInput) as caught:
        imagenet_weights("resnet18")
    assert "column weights" in str(caught.value) and "weights to none" in str(caught.value)
