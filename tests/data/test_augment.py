"""Each augmentation equals torchvision's or scipy's on the same parameters, and is drawn within its setting."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from job.data.augment import (
    blurred,
    center_boxes,
    draw,
    maps_of_boxes,
    moved,
    noisy,
    normalise,
    random_boxes,
    sample_each,
    sample_ragged,
)
from job.trial import Trial

SIZE = 32


def smooth_image(height: int, width: int, seed: int = 0) -> Tensor:
    """An image_HWC without hard edges, so that a shift of a fraction of a pixel shows as what it is."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, height // 12 + 2, width // 12 + 2, generator=generator) * 255
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 255)
    return large[0].permute(1, 2, 0).round().byte()


def ragged(sources: list[Tensor]) -> dict[str, Tensor]:
    sizes = torch.tensor([p.shape[:2] for p in sources])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.prod(1).cumsum(0)[:-1]])
    return {"pixels_P3": torch.cat([p.reshape(-1, 3) for p in sources]), "starts_N": starts, "sizes_N2": sizes}


def still(boxes: Tensor, flip: bool = False, flip_up: bool = False, degrees: float = 0,
          shift: tuple[float, float] = (0, 0)) -> Tensor:
    """The maps of boxes, with one and the same movement for each."""
    number = len(boxes)
    return moved(maps_of_boxes(boxes), torch.full((number,), flip), torch.full((number,), flip_up),
                 torch.full((number,), float(degrees)), torch.tensor([shift] * number))


def center(image: Tensor) -> Tensor:
    """The disc of an image that no turn moves out of the frame."""
    steps = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    return image * (steps**2 + steps[:, None] ** 2 < 0.45**2)


@pytest.fixture
def sources() -> list[Tensor]:
    return [smooth_image(60, 80), smooth_image(90, 50, 1), smooth_image(40, 40, 2), smooth_image(41, 133, 3)]


def test_crop_and_flip_equal_torchvisions_on_the_same_boxes(sources: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(5)
    boxes = random_boxes(torch.tensor([p.shape[:2] for p in sources]), 0.08, generator)
    for flipped in (False, True):
        found = sample_each(sources, still(boxes, flip=flipped), SIZE)
        for source, box, image in zip(sources, boxes.int().tolist(), found, strict=True):
            expected = reference.resized_crop(source.permute(2, 0, 1).float(), *box, [SIZE, SIZE], antialias=False)
            expected = reference.horizontal_flip(expected) if flipped else expected
            # Torchvision repeats the crop's own border; we read the image beyond it: half a pixel at the edge.
            inner = (slice(None), slice(1, -1), slice(1, -1))
            assert (image[inner] - expected[inner]).abs().max() < 0.1
            assert (image - expected).abs().max() < 12


def test_both_samplers_agree_on_any_map(sources: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(len(sources), 2, 3, generator=generator, dtype=torch.float64) * 60 - 20
    one, other = sample_each(sources, maps, SIZE), sample_ragged(**ragged(sources), maps_N23=maps, size=SIZE)
    assert (one - other).abs().max() < 0.05


def test_center_box_is_torchvisions_center_crop(sources: list[Tensor]) -> None:
    boxes = center_boxes(torch.tensor([p.shape[:2] for p in sources]), SIZE)
    images = sample_ragged(**ragged(sources), maps_N23=maps_of_boxes(boxes), size=SIZE)
    for source, image in zip(sources, images, strict=True):
        assert torch.equal(image.round().byte(), reference.center_crop(source.permute(2, 0, 1), [SIZE, SIZE]))


@pytest.mark.parametrize(("height", "width"), [(256, 341), (341, 256), (256, 256), (60, 900)])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    """Mean and spread of area, ratio and place over 4,000 draws each."""
    number = 4000
    found = random_boxes(torch.tensor([[height, width]] * number), 0.08, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    expected = torch.tensor([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(number)])

    def facts(boxes: Tensor) -> dict[str, Any]:
        top, left, h, w = boxes.double().unbind(1)
        return {"area": h * w / height / width, "ratio": (w / h).log(), "top": top / height, "left": left / width}

    for name, values in facts(found).items():
        others = facts(expected)[name]
        error = 5 * (values.std() + others.std()) / number**0.5 + 0.002
        assert abs(values.mean() - others.mean()) < error, name
        assert abs(values.std() - others.std()) < error, name
    top, left, h, w = found.unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()


def test_up_down_flip_equals_torchvisions(sources: list[Tensor]) -> None:
    boxes = center_boxes(torch.tensor([p.shape[:2] for p in sources]), SIZE)
    for source, image in zip(sources, sample_each(sources, still(boxes, flip_up=True), SIZE), strict=True):
        expected = reference.vertical_flip(reference.center_crop(source.permute(2, 0, 1), [SIZE, SIZE]))
        assert (image - expected).abs().max() < 0.01


@pytest.mark.parametrize("degrees", [30.0, -30.0, 90.0, 7.5])
def test_rotation_equals_torchvisions(sources: list[Tensor], degrees: float) -> None:
    boxes = center_boxes(torch.tensor([p.shape[:2] for p in sources]), SIZE)
    for source, image in zip(sources, sample_each(sources, still(boxes, degrees=degrees), SIZE), strict=True):
        crop = reference.center_crop(source.permute(2, 0, 1).float(), [SIZE, SIZE])
        expected = reference.rotate(crop, degrees, interpolation=InterpolationMode.BILINEAR)
        assert (center(image) - center(expected)).abs().max() < 0.2


def test_shift_equals_torchvisions(sources: list[Tensor]) -> None:
    """Right by 3 pixels and down by 5.5; at the edge the image beyond the crop comes in, so the inside is compared."""
    boxes = center_boxes(torch.tensor([p.shape[:2] for p in sources]), SIZE)
    images = sample_each(sources, still(boxes, shift=(3 / SIZE, 5.5 / SIZE)), SIZE)
    for source, image in zip(sources, images, strict=True):
        crop = reference.center_crop(source.permute(2, 0, 1).float(), [SIZE, SIZE])
        expected = reference.affine(crop, 0, [3, 5.5], 1, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
        assert (image - expected)[:, 8:, 5:].abs().max() < 0.2


def test_flips_rotation_and_shift_compose_in_this_order(sources: list[Tensor]) -> None:
    boxes = center_boxes(torch.tensor([p.shape[:2] for p in sources]), SIZE)
    found = sample_each(sources, still(boxes, flip=True, degrees=20, shift=(2 / SIZE, -1 / SIZE)), SIZE)
    for source, image in zip(sources, found, strict=True):
        crop = reference.horizontal_flip(reference.center_crop(source.permute(2, 0, 1).float(), [SIZE, SIZE]))
        turned = reference.rotate(crop, 20, interpolation=InterpolationMode.BILINEAR)
        expected = reference.affine(turned, 0, [2, -1], 1, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
        assert (image - expected)[:, 10:22, 10:22].abs().max() < 0.5


@pytest.mark.parametrize("sigmas", [[2.5, 2.5, 2.5, 2.5], [0.5, 1.0, 2.0, 0.0]])
def test_blur_equals_scipys(sources: list[Tensor], sigmas: list[float]) -> None:
    images = torch.stack([reference.center_crop(p.permute(2, 0, 1).float(), [SIZE, SIZE]) for p in sources])
    for image, found, sigma in zip(images, blurred(images, torch.tensor(sigmas), max(sigmas)), sigmas, strict=True):
        radius = math.ceil(4 * max(sigmas))
        planes = [gaussian_filter(plane, sigma, mode="mirror", radius=radius) if sigma else plane
                  for plane in image.numpy()]
        assert (found - torch.from_numpy(np.stack(planes))).abs().max() < 0.01


def test_noise_has_the_asked_deviation_and_is_cut_to_the_range_of_pixels() -> None:
    images = torch.full((2, 3, 64, 64), 127.5)
    torch.manual_seed(0)
    found = noisy(images, torch.tensor([0.1, 0.0]))
    assert abs(float(found[0].std()) - 25.5) < 0.6 and abs(float(found[0].mean()) - 127.5) < 1
    assert kstest(((found[0] - 127.5) / 25.5).flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.equal(found[1], images[1])
    wild = noisy(images, torch.tensor([1.0, 1.0]))
    assert wild.min() == 0 and wild.max() == 255


def test_all_off_draws_the_center_crop_and_no_noise_or_blur(sources: list[Tensor]) -> None:
    sizes = torch.tensor([p.shape[:2] for p in sources])
    draws = draw(sizes, Trial(trial="1", crop=0.0, flip=0.0), torch.Generator())
    assert torch.equal(draws.maps_N23, maps_of_boxes(center_boxes(sizes, 224)))
    assert draws.noise_N is None and draws.sigma_N is None


def test_each_setting_bounds_what_is_drawn() -> None:
    trial = Trial(trial="1", crop=0.0, flip=0.25, flip_up=0.5, rotation=30.0, shift=0.1, noise=0.4, blur=2.5)
    draws = draw(torch.full((4000, 2), 224), trial, torch.Generator().manual_seed(0))
    linear = draws.maps_N23[..., :2] / 224
    assert abs(float((linear.det() < 0).double().mean()) - 0.5) < 0.03
    turned = torch.rad2deg(torch.atan2(linear[:, 0, 1].abs(), linear[:, 0, 0].abs()))
    assert 29 < turned.max() < 30.01
    assert draws.noise_N is not None and draws.noise_N.min() >= 0 and 0.39 < draws.noise_N.max() <= 0.4
    assert draws.sigma_N is not None and draws.sigma_N.min() >= 0 and 2.4 < draws.sigma_N.max() <= 2.5
    whole = maps_of_boxes(center_boxes(torch.full((4000, 2), 224), 224))
    trial = Trial(trial="1", crop=0.0, flip=0.0, shift=0.1)
    only_shift = draw(torch.full((4000, 2), 224), trial, torch.Generator().manual_seed(0))
    moves = (only_shift.maps_N23 - whole)[..., 2] / 224
    assert 0.098 < moves.abs().max() <= 0.1001 and abs(moves.mean()) < 0.01


def test_each_flip_is_as_frequent_as_asked() -> None:
    sizes = torch.full((4000, 2), 224)
    for name, axis in (("flip", 0), ("flip_up", 1)):
        trial = Trial(trial="1", crop=0.0, **{"flip": 0.0, name: 0.2})  # type: ignore[arg-type]
        diagonal = draw(sizes, trial, torch.Generator().manual_seed(0)).maps_N23[..., :2].diagonal(dim1=1, dim2=2)
        assert abs(float((diagonal[:, axis] < 0).double().mean()) - 0.2) < 0.03
        assert bool((diagonal[:, 1 - axis] > 0).all())


def test_normalise_is_torchvisions() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    expected = reference.normalize(images.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.allclose(normalise(images), expected, atol=1e-5)
