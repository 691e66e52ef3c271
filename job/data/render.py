"""The kernel that renders a batch on a GPU: each image sampled by its map, normalised and stored, in one pass.

Written for Triton, which compiles it for the GPU at hand without a C compiler; the driver loads and launches it. It
computes what `sample_ragged` and `normalise` do in some fifty operations, which read and write 10 GB for 256 images of
224 pixels. This reads the images once and writes the batch once.
"""

import functools
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from cuda.bindings import driver
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from job.data.augment import MEAN, STD, normalise, sample_ragged

PIXELS_PER_BLOCK, WARPS_PER_BLOCK = 512, 4
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


def render(pixels, images, out, SIZE: tl.constexpr, BLOCK: tl.constexpr, NORMALISED: tl.constexpr,  # type: ignore[no-untyped-def]
           MEAN_R: tl.constexpr, MEAN_G: tl.constexpr, MEAN_B: tl.constexpr,
           STD_R: tl.constexpr, STD_G: tl.constexpr, STD_B: tl.constexpr):
    """Write out_NHWC: the bilinear samples of uint8 pixels_P3 by each line of images_N12 (see `Batches.fed`).

    Edges are extended. NORMALISED: scaled to ImageNet's mean and deviation; otherwise 0 to 255.
    """
    image = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < SIZE * SIZE
    u, v = ((place % SIZE).to(tl.float32) + 0.5) / SIZE, ((place // SIZE).to(tl.float32) + 0.5) / SIZE
    line = images + image * 12
    height, width = tl.load(line + 7).to(tl.int32), tl.load(line + 8).to(tl.int32)
    x = tl.load(line).to(tl.float32) * u + tl.load(line + 1).to(tl.float32) * v + tl.load(line + 2).to(tl.float32) - 0.5
    y = tl.load(line + 3).to(tl.float32) * u + tl.load(line + 4).to(tl.float32) * v + tl.load(line + 5).to(tl.float32)
    x = tl.minimum(tl.maximum(x, 0.0), (width - 1).to(tl.float32))
    y = tl.minimum(tl.maximum(y - 0.5, 0.0), (height - 1).to(tl.float32))
    x0, y0 = x.to(tl.int32), y.to(tl.int32)
    fx, fy = x - x0.to(tl.float32), y - y0.to(tl.float32)
    x1, y1 = tl.minimum(x0 + 1, width - 1), tl.minimum(y0 + 1, height - 1)
    first = pixels + tl.load(line + 6).to(tl.int64) * 3
    to = out + (image.to(tl.int64) * SIZE * SIZE + place) * 3
    for channel in tl.static_range(3):
        top_left = tl.load(first + (y0 * width + x0) * 3 + channel, mask=inside, other=0).to(tl.float32)
        top_right = tl.load(first + (y0 * width + x1) * 3 + channel, mask=inside, other=0).to(tl.float32)
        low_left = tl.load(first + (y1 * width + x0) * 3 + channel, mask=inside, other=0).to(tl.float32)
        low_right = tl.load(first + (y1 * width + x1) * 3 + channel, mask=inside, other=0).to(tl.float32)
        top, low = top_left + (top_right - top_left) * fx, low_left + (low_right - low_left) * fx
        value = top + (low - top) * fy
        if NORMALISED:
            mean = MEAN_R if channel == 0 else (MEAN_G if channel == 1 else MEAN_B)
            std = STD_R if channel == 0 else (STD_G if channel == 1 else STD_B)
            value = (value - 255 * mean) / (255 * std)
        tl.store(to + channel, value.to(out.dtype.element_ty), mask=inside)


def constants(size: int, normalised: bool) -> dict[str, Any]:
    """Return the constants of `render` for images of this size."""
    names = ("MEAN_R", "MEAN_G", "MEAN_B", "STD_R", "STD_G", "STD_B")
    return {"SIZE": size, "BLOCK": PIXELS_PER_BLOCK, "NORMALISED": normalised,
            **dict(zip(names, MEAN + STD, strict=True))}


def compiled(size: int, dtype: torch.dtype, normalised: bool, capability: int) -> Any:
    """Return `render` compiled for GPUs of a capability, such as 90; this needs no GPU."""
    values = constants(size, normalised)
    signature = {"pixels": "*u8", "images": "*fp64", "out": TYPES[dtype], **dict.fromkeys(values, "constexpr")}
    source = ASTSource(triton.jit(render), signature, constexprs=values)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32),
                          options={"num_warps": WARPS_PER_BLOCK, "enable_fp_fusion": False})


@functools.cache
def loaded(size: int, dtype: torch.dtype, normalised: bool, device: torch.device) -> Any:
    """Return `render` as a function that the driver of this GPU launches."""
    major, minor = torch.cuda.get_device_capability(device)
    kernel = compiled(size, dtype, normalised, 10 * major + minor)
    module = checked(driver.cuModuleLoadData(kernel.asm["cubin"]))
    return checked(driver.cuModuleGetFunction(module, kernel.metadata.name.encode()))


def checked(answer: tuple[Any, ...]) -> Any:
    """Return what a function of the driver returns beside its status; raises RuntimeError if it failed."""
    status, *found = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the GPU's driver refuses the rendering kernel: {status!r}")
    return found[0] if found else None


def check(device: torch.device) -> None:
    """Raise RuntimeError unless the kernel renders random images on this GPU as torch does: a look before the trust."""
    generator = torch.Generator().manual_seed(0)
    sizes_N2 = torch.tensor([(37, 50), (64, 33)])
    pixels_P3 = torch.randint(0, 256, (int(sizes_N2.prod(1).sum()), 3), dtype=torch.uint8, generator=generator)
    maps_N23 = torch.rand(2, 2, 3, generator=generator) * 60 - 10
    starts_N = torch.tensor([0, 37 * 50])
    images_N12 = torch.cat([maps_N23.view(2, 6), starts_N[:, None], sizes_N2, torch.zeros(2, 3)], 1).double()
    expected = normalise(sample_ragged(pixels_P3, starts_N, sizes_N2, maps_N23, 32))
    found = rendered(pixels_P3.to(device), images_N12.to(device), 32, torch.float32, True).cpu()
    if not torch.allclose(found, expected, rtol=0, atol=1e-3):
        raise RuntimeError(f"it is off by {(found - expected).abs().max():.3g}")


def rendered(pixels_P3: Tensor, images_N12: Tensor, size: int, dtype: torch.dtype, normalised: bool) -> Tensor:
    """Return images_NCHW of a dtype, in channels_last order, from the contents of `Batches.fed` on the GPU."""
    device = pixels_P3.device
    out_NHWC = torch.empty(len(images_N12), size, size, 3, dtype=dtype, device=device)
    # Triton's kernels take two more pointers, to scratch memory, which this one does not use.
    pointers = [np.array([address], dtype=np.uint64) for address in
                (pixels_P3.data_ptr(), images_N12.data_ptr(), out_NHWC.data_ptr(), 0, 0)]
    addresses = np.array([pointer.ctypes.data for pointer in pointers], dtype=np.uint64)
    num_blocks = triton.cdiv(size * size, PIXELS_PER_BLOCK)
    checked(driver.cuLaunchKernel(
        loaded(size, dtype, normalised, device), num_blocks, len(images_N12), 1, 32 * WARPS_PER_BLOCK, 1, 1, 0,
        torch.cuda.current_stream(device).cuda_stream, addresses.ctypes.data, 0))
    return out_NHWC.permute(0, 3, 1, 2)
