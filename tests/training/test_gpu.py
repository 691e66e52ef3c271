"""What only a GPU shows: skipped where there is none, but for the rendering, which any device can do."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from job.data.augment import Draws, center_boxes, draw, maps_of_boxes
from job.data.batches import Batches, rendering_kernel
from job.data.load import load_batches
from job.data.pack import Passport
from job.data.prepare import ensure_pack
from job.data.sizes import resize_side
from job.folder.storage import Folder, open_folder
from job.training.checkpoint import read_checkpoint, restore, state_to_bytes
from job.training.evaluate import evaluate
from job.training.fit import fit
from job.training.gpu import WARM_UP_STEPS, GpuSteps
from job.training.machine import choose_machine
from job.training.model import build_model
from job.training.state import State, new_state
from job.trial import Trial
from support import draw as draw_image

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(autouse=True)
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests keep to the CPU."""
    monkeypatch.delenv("TRIALGRID_DEVICE", raising=False)


TRIAL = Trial(trial="1", lr=0.02, epochs=3, batch_size=4, image_size=40, weights="none", noise=0.1, blur=1.0,
              rotation=20.0, dropout=0.2, schedule="cosine", warmup=0.5)


# The second and the third have neither noise nor blur: the kernel that renders them normalises as well.
FORMS = [TRIAL, replace(TRIAL, precision="fp32", optimizer="adam", noise=0.0, blur=0.0),
         replace(TRIAL, momentum=0.0, noise=0.0, blur=0.0),
         replace(TRIAL, model="mlp", hidden="50-20", batch_norm=True),
         replace(TRIAL, precision="fp16", noise=0.0, blur=0.0), replace(TRIAL, precision="fp16", optimizer="adam")]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Passport]:
    """Images of many sizes, so that one sampled from another's place would show."""
    source = tmp_path_factory.mktemp("images")
    for label in ("bar", "disc"):
        for number in range(25):
            draw_image(source / label / f"{label}{number:02d}.jpg", label, number, (50 + 3 * number, 48 + number % 7))
    sweep = open_folder(str(tmp_path_factory.mktemp("sweep")))
    return sweep, ensure_pack(sweep, str(source), {"short_side": resize_side(40)}, lambda done, total: None)


def without_resident(batches: Batches) -> Batches:
    return replace(batches, resident_P3=None)


@pytest.mark.parametrize("resident", [True, False])
def test_images_rendered_from_one_tensor_are_those_sampled_one_by_one(
        packed: tuple[Folder, Passport], resident: bool) -> None:
    trial = replace(TRIAL, noise=0.0)
    batches = load_batches(*packed, trial, torch.device("cpu"))
    if resident:
        batches = replace(batches, resident_P3=torch.cat([image.reshape(-1, 3) for image in batches.images]))
    indices = batches.indices["train"][[3, 0, 7, 7, 20]]
    center = Draws(maps_of_boxes(center_boxes(batches.sizes_N2[indices], 40)))
    drawn = draw(batches.sizes_N2[indices], trial, torch.Generator().manual_seed(0))
    for draws, expected in ((drawn, batches.augmented(indices, drawn)), (center, batches.centered(indices))):
        images, labels = batches.rendered(*batches.fed(indices, draws), draws)
        torch.testing.assert_close(images, expected, rtol=1e-3, atol=5e-3)
        assert torch.equal(labels, batches.labels(indices))
    assert batches.most_pixels(2) == sum(sorted(int(size.prod()) for size in batches.sizes_N2)[-2:])


def test_noise_is_drawn_from_torchs_seed_and_only_where_it_is_set(packed: tuple[Folder, Passport]) -> None:
    batches = load_batches(*packed, TRIAL, torch.device("cpu"))
    indices = batches.indices["train"][:4]
    draws = draw(batches.sizes_N2[indices], TRIAL, torch.Generator().manual_seed(0))
    found = []
    for render in (lambda: batches.augmented(indices, draws),
                   lambda: batches.rendered(*batches.fed(indices, draws), draws)[0]):
        torch.manual_seed(1)
        found.append(render())
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=5e-3)


def trained(
        packed: tuple[Folder, Passport], trial: Trial, change: Callable[[Batches], Batches] = lambda batches: batches,
        stop_after: int = 10**9) -> tuple[State, list[str], Batches]:
    """The state after a trial, or after so many steps, on the GPU, and what was said."""
    machine, said, steps = choose_machine(trial.precision), list[str](), 0

    def should_stop(_step: int, _steps: int) -> bool:
        nonlocal steps
        steps += 1
        return steps >= stop_after

    batches = change(load_batches(*packed, trial, machine.device, machine.dtype))
    state = new_state(trial, build_model(trial, 2, None, machine), machine, "then")
    list(fit(trial, state, batches, machine, should_stop, said.append))
    return state, said, batches


@needs_gpu
@pytest.mark.parametrize("trial", FORMS)
def test_graph_of_a_step_trains_as_steps_launched_one_by_one(packed: tuple[Folder, Passport], trial: Trial,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    captured: list[object] = []
    capture = GpuSteps.capture

    def capture_and_note(steps: GpuSteps, pixels_P3: torch.Tensor, draws: Draws) -> None:
        capture(steps, pixels_P3, draws)
        captured.append(steps.graph)

    monkeypatch.setattr(GpuSteps, "capture", capture_and_note)
    graphed, said, _ = trained(packed, trial)
    assert not said and len(captured) == 1 and captured[0] is not None
    monkeypatch.setattr("job.training.gpu.WARM_UP_STEPS", 10**9)
    single, _, _ = trained(packed, trial)
    assert len(captured) == 1
    for one, other in zip(graphed.history, single.history, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=0.02) and one.lr == other.lr


@needs_gpu
def test_images_that_do_not_fit_on_the_gpu_train_as_those_that_do(packed: tuple[Folder, Passport]) -> None:
    resident, _, batches = trained(packed, TRIAL)
    assert batches.resident_P3 is not None and batches.resident_P3.is_cuda
    fed, said, _ = trained(packed, TRIAL, without_resident)
    assert not said
    for one, other in zip(resident.history, fed.history, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=0.02)
        assert one.val_loss == pytest.approx(other.val_loss, rel=0.05)


@needs_gpu
@pytest.mark.parametrize("trial", FORMS)
def test_state_saved_between_replays_continues_to_the_same_bits(packed: tuple[Folder, Passport], trial: Trial) -> None:
    whole, _, _ = trained(packed, trial)
    stopped, _, batches = trained(packed, trial, stop_after=WARM_UP_STEPS + 9)
    machine = choose_machine(trial.precision)
    data = state_to_bytes(stopped, trial, "p", machine.precision)
    state = new_state(trial, build_model(trial, 2, None, machine), machine, "then")
    restore(state, read_checkpoint(data, trial, "p", "here"))
    list(fit(trial, state, batches, machine, lambda step, steps: False))
    for one, other in zip(whole.history, state.history, strict=True):
        assert (one.train_loss, one.val_loss) == (other.train_loss, other.val_loss)
    weights, resumed = whole.model.state_dict(), state.model.state_dict()
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)


@needs_gpu
def test_kernel_renders_what_torch_renders(packed: tuple[Folder, Passport], monkeypatch: pytest.MonkeyPatch) -> None:
    trial = replace(TRIAL, noise=0.0, blur=0.0, shift=0.3)
    machine = choose_machine("fp32")
    batches = load_batches(*packed, trial, machine.device)
    indices = batches.indices["train"][[3, 0, 7, 7, 20]]
    draws = draw(batches.sizes_N2[indices], trial, torch.Generator().manual_seed(0))
    pixels_P3, images_N12 = batches.fed(indices, draws)
    kernel, why_not = rendering_kernel(machine.device)
    assert kernel, why_not
    found = batches.rendered(pixels_P3, images_N12.to(machine.device), draws)[0]
    halves = replace(batches, dtype=torch.bfloat16).rendered(pixels_P3, images_N12.to(machine.device), draws)[0]
    monkeypatch.setattr("job.data.batches.rendering_kernel", lambda device: (None, ""))
    expected = batches.rendered(pixels_P3, images_N12.to(machine.device), draws)[0]
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(halves.float(), expected, rtol=2**-8, atol=1e-4)


@needs_gpu
def test_evaluation_on_the_gpu_is_that_of_the_cpu(packed: tuple[Folder, Passport]) -> None:
    trial = replace(TRIAL, precision="fp32")
    state, _, batches = trained(packed, trial)
    found = evaluate(state.model, batches, "val", choose_machine("fp32"))
    on_cpu = load_batches(*packed, trial, torch.device("cpu"))
    state.model.cpu().eval()
    with torch.inference_mode():
        logits = state.model(on_cpu.centered(on_cpu.indices["val"]))
    torch.testing.assert_close(found.logits_NK, logits, rtol=0.01, atol=0.01)
