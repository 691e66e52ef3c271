"""A model of each family is trained, killed, resumed, passed through by a longer trial, and used, as ResNet18 is."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import get_model

from job.data.named import images_named
from job.data.pack import Passport
from job.data.prepare import ensure_pack
from job.data.sizes import resize_side
from job.folder.storage import Folder, open_folder
from job.results.predict import load_predictor
from job.training.checkpoint import read_checkpoint, restore, state_to_bytes
from job.training.fit import fit
from job.trial import Trial
from loops import PACK, begin, never
from support import draw, job, row, start_job, timeless, wait_for_line
from test_models import NINE

pytestmark = pytest.mark.slow
SIZE = 64


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images in two classes."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(10):
        for label in ("bar", "disc"):
            draw(folder / label / f"{number}.jpg", label, number)
    return folder


@pytest.fixture(scope="module")
def pack(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Passport]:
    """They, packed."""
    sweep = open_folder(str(tmp_path_factory.mktemp("packed")))
    return sweep, ensure_pack(sweep, str(images), {"short_side": resize_side(SIZE)}, lambda done, total: None)


@pytest.mark.parametrize("model", NINE)
def test_state_within_an_epoch_continues_as_if_never_stopped(pack: tuple[Folder, Passport], model: str) -> None:
    """No noise and no dropout of the trial, so that the dropped layers of efficientnet, convnext and swin count."""
    trial = Trial(model=model, image_size=SIZE, weights="none", epochs=1, batch_size=5, optimizer="sgd")
    machine, batches, whole = begin(pack, trial)
    list(fit(trial, whole, batches, machine, never))
    _, _, first = begin(pack, trial)
    list(fit(trial, first, batches, machine, lambda step, num_steps: step == 2))
    data, last = state_to_bytes(first, trial, PACK, machine.precision), max(first.model.state_dict())
    stopped = first.model.state_dict()[last]
    # A vit takes a gigabyte.
    del first
    _, _, second = begin(pack, trial)
    restore(second, read_checkpoint(data, trial, PACK, "last.pt"))
    assert (second.epoch, second.step) == (0, 2)
    list(fit(trial, second, batches, machine, never))
    wanted, found = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    assert second.history[-1].val_loss == whole.history[-1].val_loss
    assert not torch.equal(wanted[last], stopped)


@pytest.mark.parametrize("models", [("efficientnet_b0", "mobilenet_v3_small", "regnet_y_400mf", "densenet121"),
                                    ("resnet18", "resnet50", "convnext_tiny", "swin_t"), ("vit_b_16",)])
def test_rows_of_trajectories_killed_on_their_way_are_those_of_the_trials_alone_and_the_weights_predict(
        images: Path, tmp_path: Path, models: tuple[str, ...]) -> None:
    grid, alone, sweep = tmp_path / "grid.csv", tmp_path / "alone", tmp_path / "sweep"
    trials = [(f"{model}-{epochs}", model, epochs) for model in models for epochs in (1, 2)]
    lines = [f"{name},{model},{epochs},8,{SIZE},none,{'small' if model == 'resnet18' else 'imagenet'}"
             for name, model, epochs in trials]
    grid.write_text("\n".join(["trial,model,epochs,batch_size,image_size,weights,stem", *lines]) + "\n")
    args = ("--images", images, "--grid", grid)
    assert job("sweep", *args, "--independent", alone).code == 0
    process = start_job("sweep", *args, sweep)
    wait_for_line(process, "epoch 1/2")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    done = job("sweep", *args, sweep)
    assert done.code == 0, done.err
    paths = sorted(map(str, (images / "disc").iterdir()))
    for name, model, epochs in trials:
        found, wanted = row(sweep, name), row(alone, name)
        assert timeless(found) == timeless(wanted)
        assert found["trained_by"] == (f"{model}-2" if epochs == 1 else "")
        for file in ("best.safetensors", "predictions.csv"):
            assert (sweep / "trials" / name / file).read_bytes() == (alone / "trials" / name / file).read_bytes()
    for model in models:
        answers = [list(load_predictor(open_folder(str(folder)), f"{model}-2").predict(images_named(paths)))
                   for folder in (sweep, alone)]
        assert answers[0] == answers[1] and len(answers[0]) == 10 and not any(item.error for item in answers[0])
    if "efficientnet_b0" in models:
        check_bundle(alone, tmp_path / "bundle")


def check_bundle(sweep: Path, out: Path) -> None:
    """Export a model that timm has not under torchvision's names; the export proves the answers of model.onnx."""
    done = job("export", sweep, out, "--trial", "efficientnet_b0-2")
    assert done.code == 0, done.err
    config = json.loads((out / "config.json").read_text())
    found = [config[name] for name in ("library", "arguments", "replaced_layers")]
    assert found == ["torchvision", {"num_classes": 2}, {}]
    model = get_model(config["architecture"], **config["arguments"])
    model.load_state_dict(load_file(out / "model.safetensors"))
    assert "fits `torchvision.models.efficientnet_b0`" in (out / "MODEL_CARD.md").read_text()
