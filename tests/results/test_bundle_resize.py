"""The resize in a bundle's graph gives the pixels of the pack and of `job predict`, bit for bit."""

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from job.data.batches import crop_centers
from job.data.image_file.colour import BAND_PIXELS, to_rgb, upright_rgb
from job.data.load import shrink
from job.results.bundle.graph import Graph, checked_model, tensor
from job.results.bundle.parity import open_session
from job.results.bundle.resize import resized_crop

# Height and width: odd, enlarged, square, long, and tall ones whose rows Pillow 13 resizes first.
SIZES = [(300, 225), (225, 300), (256, 256), (512, 384), (31, 33), (1, 20), (20, 1), (7, 3), (1000, 1333), (50, 999),
         (999, 50), (513, 255), (257, 256), (1000, 200), (600, 100), (20_000, 1000), (1000, 20_000)]


def graph_of(short_side: int, resize_side: int, image_size: int) -> onnxruntime.InferenceSession:
    """A model that only resizes and crops."""
    graph = Graph()
    crop = resized_crop(graph, "image", short_side, resize_side, image_size)
    shape = [image_size, image_size, 3]
    return open_session(checked_model(graph.closed("resize", [tensor("image", "uint8", ["height", "width", 3])],
                                                   [tensor(crop, "uint8", shape)]), {}))


def expected(image_HWC: NDArray[np.uint8], short_side: int, resize_side: int, image_size: int) -> NDArray[np.uint8]:
    """The crop that `job predict` gives its model."""
    packed = torch.from_numpy(upright_rgb(Image.fromarray(image_HWC), 1, short_side, to_rgb).copy())
    small = shrink(packed, resize_side) if resize_side < short_side else packed
    found: NDArray[np.uint8] = crop_centers([small], image_size)[0].permute(1, 2, 0).numpy()
    return found


@pytest.mark.parametrize("sides", [(256, 256, 224), (256, 73, 64), (100, 73, 64), (73, 73, 64), (48, 46, 40)], ids=str)
def test_every_pixel_is_that_of_job_predict(sides: tuple[int, int, int]) -> None:
    session, rng = graph_of(*sides), np.random.default_rng(0)
    for height, width in SIZES:
        image_HWC = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        found = session.run(None, {"image": image_HWC})[0]
        assert np.array_equal(found, expected(image_HWC, *sides)), (height, width)


def test_an_image_so_large_that_it_is_resized_in_bands_has_the_same_pixels() -> None:
    """Bands do the columns first; Pillow alone would do the rows of this one first."""
    sides = (64, 64, 40)
    image_HWC = np.random.default_rng(1).integers(0, 256, (BAND_PIXELS // 2000 + 1, 2000, 3), dtype=np.uint8)
    assert np.array_equal(graph_of(*sides).run(None, {"image": image_HWC})[0], expected(image_HWC, *sides))


def test_random_sizes_have_the_same_pixels() -> None:
    rng = np.random.default_rng(2)
    for _ in range(6):
        side = int(rng.integers(40, 200))
        sides = (int(rng.integers(side, 260)), side, int(rng.integers(30, side + 1)))
        session = graph_of(*sides)
        for _ in range(15):
            height, width = (int(value) for value in rng.integers(1, 700, 2))
            image_HWC = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            found = session.run(None, {"image": image_HWC})[0]
            assert np.array_equal(found, expected(image_HWC, *sides)), (sides, height, width)
