"""Crops and flips equal torchvision's on the same boxes, and are drawn as it draws them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from job.data.augment import center_boxes, draw_maps, maps_of_boxes, normalise, random_boxes, sample_each, sample_ragged
from job.trial import Trial

SIZE = 32


def smooth_picture(height: int, width: int, seed: int = 0) -> Tensor:
    """A picture_HWC without hard edges, so that a shift of a fraction of a pixel shows as what it is."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, height // 12 + 2, width // 12 + 2, generator=generator) * 255
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 255)
    return large[0].permute(1, 2, 0).round().byte()


def ragged(pictures: list[Tensor]) -> dict[str, Tensor]:
    sizes = torch.tensor([p.shape[:2] for p in pictures])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.prod(1).cumsum(0)[:-1]])
    return {"pixels_P3": torch.cat([p.reshape(-1, 3) for p in pictures]), "starts_N": starts, "sizes_N2": sizes}


@pytest.fixture
def pictures() -> list[Tensor]:
    return [smooth_picture(60, 80), smooth_picture(90, 50, 1), smooth_picture(40, 40, 2), smooth_picture(41, 133, 3)]


def test_crop_and_flip_equal_torchvisions_on_the_same_boxes(pictures: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(5)
    boxes = random_boxes(torch.tensor([p.shape[:2] for p in pictures]), 0.08, generator)
    for flipped in (False, True):
        found = sample_each(pictures, maps_of_boxes(boxes, torch.full((len(pictures),), flipped)), SIZE)
        for picture, box, image in zip(pictures, boxes.int().tolist(), found, strict=True):
            expected = reference.resized_crop(picture.permute(2, 0, 1).float(), *box, [SIZE, SIZE], antialias=False)
            expected = reference.horizontal_flip(expected) if flipped else expected
            # Torchvision repeats the crop's own border; we read the picture beyond it: half a pixel at the edge.
            inner = (slice(None), slice(1, -1), slice(1, -1))
            assert (image[inner] - expected[inner]).abs().max() < 0.1
            assert (image - expected).abs().max() < 12


def test_both_samplers_agree_on_any_map(pictures: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(len(pictures), 2, 3, generator=generator, dtype=torch.float64) * 60 - 20
    one, other = sample_each(pictures, maps, SIZE), sample_ragged(**ragged(pictures), maps_N23=maps, size=SIZE)
    assert (one - other).abs().max() < 0.05


def test_center_box_is_torchvisions_center_crop(pictures: list[Tensor]) -> None:
    boxes = center_boxes(torch.tensor([p.shape[:2] for p in pictures]), SIZE)
    images = sample_ragged(**ragged(pictures), maps_N23=maps_of_boxes(boxes, torch.zeros(4, dtype=torch.bool)), size=SIZE)
    for picture, image in zip(pictures, images, strict=True):
        assert torch.equal(image.round().byte(), reference.center_crop(picture.permute(2, 0, 1), [SIZE, SIZE]))


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


def test_crop_0_and_flip_0_give_the_center_crop(pictures: list[Tensor]) -> None:
    sizes = torch.tensor([p.shape[:2] for p in pictures])
    maps = draw_maps(sizes, Trial(trial="1", crop=0.0, flip=0.0), torch.Generator())
    assert torch.equal(maps, maps_of_boxes(center_boxes(sizes, 224), torch.zeros(4, dtype=torch.bool)))


def test_flip_is_as_frequent_as_asked() -> None:
    sizes = torch.full((4000, 2), 50)
    maps = draw_maps(sizes, Trial(trial="1", flip=0.25), torch.Generator().manual_seed(0))
    assert abs((maps[:, 0, 0] < 0).double().mean() - 0.25) < 0.03


def test_normalise_is_torchvisions() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    expected = reference.normalize(images.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.allclose(normalise(images), expected, atol=1e-5)
