"""The resizing of the pack and of `job predict` as ONNX operators: the same pixels, bit for bit.

Pillow resizes the file's pixels to the pack's short side, and torch resizes those where a trial needs smaller images.
Both weigh the pixels under a triangle with whole numbers and round to uint8 after each of two passes, one over columns
and one over rows. So does this graph: 21 image sizes from 20 x 1 to 20000 x 1000, each to 6 pairs of short side and
crop, gave no pixel of another value.

ONNX's own Resize with antialias is not used. In onnxruntime 1.32 it differed from Pillow by up to 14 grey levels at
4032 x 3024 (1% of the values by more than one). With exclude_outside it differed by one level, in 0.4% of the values as
uint8 and in 19% as float; neither promises these roundings, and older runtimes lack uint8. What it costs:
4032 x 3024 pixels take 0.3 s on one core, 0.1 s by Resize, and 0.1 s by Pillow.
"""

from dataclasses import dataclass

import numpy as np
import PIL

from job.data.image_file.colour import BAND_PIXELS
from job.results.bundle.graph import Graph, Value, tensor

# Pillow's weights are multiples of 2**-22 (PRECISION_BITS of src/libImaging/Resample.c).
PILLOW_UNIT = 1 << 22
# Torch's fit into 16 bits with as many bits after the point as the largest weight allows, 22 at most.
TORCH_UNITS, TORCH_LIMIT = [2.0**bits for bits in range(1, 23)], 2.0**15
ROWS, COLUMNS = 0, 1


@dataclass(frozen=True)
class Taps:
    """The weights of one pass, by names in the graph: the pixels index_TO of the input, weight_TO, and their sum."""

    index_TO: str
    weight_TO: str
    unit: Value


def resized_crop(graph: Graph, image_HWC: str, short_side: int, resize_side: int, image_size: int) -> str:
    """Add what makes an image of any size the centre crop that the model sees; return its name, uint8.

    short_side: that of the pack; resize_side: that of the image before it is cropped.
    """
    shape = graph("Shape", image_HWC)
    sizes: list[str] = [graph("Gather", shape, axis) for axis in (ROWS, COLUMNS)]
    packed = resized(graph, sizes, short_side)
    is_upright = rows_come_first(graph, sizes, packed)
    stages = [[pillow_taps(graph, *pair) for pair in zip(sizes, packed, strict=True)]]
    if resize_side < short_side:
        small = resized(graph, packed, resize_side)
        stages.append([torch_taps(graph, *pair) for pair in zip(packed, small, strict=True)])
        packed = small
    for axis in (ROWS, COLUMNS):
        start, stop = center(graph, packed[axis], image_size)
        # Only what the crop needs is computed: of a long image that is a small part.
        for stage in reversed(stages):
            stage[axis], start, stop = part(graph, stage[axis], start, stop)
        image_HWC = graph("Slice", image_HWC, start, stop, [axis])
    image_HWC = two_passes(graph, image_HWC, stages[0], is_upright)
    for stage in stages[1:]:
        image_HWC = resample(graph, resample(graph, image_HWC, stage[COLUMNS], COLUMNS), stage[ROWS], ROWS)
    return image_HWC


def resized(graph: Graph, sizes: list[str], short_side: int) -> list[str]:
    """Add height and width after resizing, as `job.data.image_file.colour.resized` rounds them: down."""
    short = graph("Min", *sizes)
    return [graph("Div", graph("Mul", size, short_side), short) for size in sizes]


def center(graph: Graph, length: str, image_size: int) -> tuple[str, str]:
    """Add first and last pixel (exclusive) of a centre crop; as torchvision does, halves are rounded to even."""
    corner = graph("Round", graph("Div", graph.cast(graph("Sub", length, image_size), "double"), 2.0))
    start = graph("Unsqueeze", graph.cast(corner, "int64"), [0])
    return start, graph("Add", start, [image_size])


def taps(graph: Graph, length: str, new_length: str) -> tuple[str, str]:
    """Add index_TO and weight_TO, double: Pillow's precompute_coeffs, and torch's, with the same order of operations.

    Each new pixel covers `scale` old ones; those under a triangle of twice that width count, at least of two pixels.
    """
    old, new = graph.cast(length, "double"), graph.cast(new_length, "double")
    scale = graph("Div", old, new)
    support = graph("Max", scale, 1.0)
    num_taps = graph("Add", graph("Mul", graph("Ceil", support), 2.0), 1.0)
    center_O = graph("Mul", graph("Add", graph("Range", 0.0, new, 1.0), 0.5), scale)
    first_O = graph("Max", graph("Floor", graph("Add", graph("Sub", center_O, support), 0.5)), 0.0)
    end_O = graph("Min", graph("Floor", graph("Add", graph("Add", center_O, support), 0.5)), old)
    pixel_TO = graph("Add", graph("Unsqueeze", graph("Range", 0.0, num_taps, 1.0), [1]), first_O)
    away_TO = graph("Mul", graph("Add", graph("Sub", pixel_TO, center_O), 0.5), graph("Div", 1.0, support))
    weight_TO = graph("Max", graph("Sub", 1.0, graph("Abs", away_TO)), 0.0)
    weight_TO = graph("Mul", weight_TO, graph.cast(graph("Less", pixel_TO, end_O), "double"))
    weight_TO = graph("Div", weight_TO, graph("ReduceSum", weight_TO, [0]))
    return graph.cast(graph("Min", pixel_TO, graph("Sub", old, 1.0)), "int64"), weight_TO


def whole(graph: Graph, weight_TO: str, unit: Value) -> str:
    """Add the weights as whole multiples of 1 / unit, int32."""
    return graph.cast(graph("Floor", graph("Add", graph("Mul", weight_TO, unit), 0.5)), "int32")


def pillow_taps(graph: Graph, length: str, new_length: str) -> Taps:
    """Add the weights of one pass of Pillow's resize."""
    index_TO, weight_TO = taps(graph, length, new_length)
    return Taps(index_TO, whole(graph, weight_TO, float(PILLOW_UNIT)), np.int32(PILLOW_UNIT))


def torch_taps(graph: Graph, length: str, new_length: str) -> Taps:
    """Add the weights of one pass of torch's antialiased interpolate on uint8."""
    index_TO, weight_TO = taps(graph, length, new_length)
    largest = graph("Mul", graph("ReduceMax", weight_TO, keepdims=0), TORCH_UNITS)
    fits = graph("Less", graph("Floor", graph("Add", largest, 0.5)), TORCH_LIMIT)
    unit = graph("ReduceMax", graph("Mul", graph.cast(fits, "double"), TORCH_UNITS), keepdims=0)
    return Taps(index_TO, whole(graph, weight_TO, unit), graph.cast(unit, "int32"))


def part(graph: Graph, found: Taps, start: str, stop: str) -> tuple[Taps, str, str]:
    """Add the weights of the new pixels from start to stop; return them, and which part of the input they need."""
    index_TO, weight_TO = (graph("Slice", item, start, stop, [1]) for item in (found.index_TO, found.weight_TO))
    first = graph("Unsqueeze", graph("ReduceMin", index_TO, keepdims=0), [0])
    last = graph("Unsqueeze", graph("ReduceMax", index_TO, keepdims=0), [0])
    return Taps(graph("Sub", index_TO, first), weight_TO, found.unit), first, graph("Add", last, [1])


def rows_come_first(graph: Graph, sizes: list[str], packed: list[str]) -> str | None:
    """Add whether Pillow does the pass over the rows before that over the columns; None if it never does.

    Since 13.0 it does so where the height shrinks by more than twice as many pixels as the width. Images that
    `job.data.image_file.colour` resizes in bands have their columns done first in any case.
    """
    if int(PIL.__version__.partition(".")[0]) < 13:
        return None
    height, width = (graph("Sub", old, new) for old, new in zip(sizes, packed, strict=True))
    is_tall = graph("And", graph("Greater", height, 0), graph("Greater", height, graph("Mul", width, 2)))
    return graph("And", is_tall, graph("LessOrEqual", graph("Mul", *sizes), BAND_PIXELS))


def two_passes(graph: Graph, image_HWC: str, stage: list[Taps], rows_first: str | None) -> str:
    """Add both passes, in the order that `rows_first` tells when the model runs."""
    def passes(inner: Graph, first: int, second: int) -> str:
        return resample(inner, resample(inner, image_HWC, stage[first], first), stage[second], second)

    if rows_first is None:
        return passes(graph, COLUMNS, ROWS)
    branches = {}
    for name, order in (("then_branch", (ROWS, COLUMNS)), ("else_branch", (COLUMNS, ROWS))):
        inner = graph.subgraph()
        branches[name] = inner.closed(name, [], [tensor(passes(inner, *order), "uint8", [None] * 3)])
    return graph("If", rows_first, **branches)


def resample(graph: Graph, image_HWC: str, found: Taps, axis: int) -> str:
    """Add one pass along an axis: a weighted sum of pixels in int32, which holds 255 * 2**22, rounded to uint8.

    One tap of all new pixels at a time: a matrix of weights would have a column for each pixel of the input, and all
    taps at once would take 24 bytes of memory for each. Columns are laid out as rows first: gathering 3 bytes at a time
    took twice as long.
    """
    lines = image_HWC if axis == ROWS else graph("Transpose", image_HWC, perm=[1, 0, 2])
    weight_TO11 = graph("Unsqueeze", found.weight_TO, [2, 3])
    start = graph.cast(graph("Gather", lines, graph("Gather", found.index_TO, 0)), "int32")
    body = graph.subgraph()
    sum_OLC, index_O, weight_O11 = (f"{name}_{next(graph.numbers)}" for name in ("sum", "index", "weight"))
    new_sum = body("Add", sum_OLC, body("Mul", body.cast(body("Gather", lines, index_O), "int32"), weight_O11))
    inputs = [tensor(sum_OLC, "int32", [None] * 3), tensor(index_O, "int64", [None]),
              tensor(weight_O11, "int32", [None] * 3)]
    total = graph("Scan", graph("Mul", start, np.int32(0)), found.index_TO, weight_TO11, num_scan_inputs=2,
                  body=body.closed(f"tap_{next(graph.numbers)}", inputs, [tensor(new_sum, "int32", [None] * 3)]))
    rounded = graph("Div", graph("Add", total, graph("Div", found.unit, np.int32(2))), found.unit)
    result = graph.cast(graph("Min", rounded, np.int32(255)), "uint8")
    return result if axis == ROWS else graph("Transpose", result, perm=[1, 0, 2])
