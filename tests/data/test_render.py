"""The rendering kernel without a GPU: in Triton's interpreter, and compiled for the GPUs that torch supports."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from job.data.augment import draw
from job.data.batches import Batches
from job.trial import Trial
from support import ROOT

triton = pytest.importorskip("triton", reason="Triton comes with torch for Linux alone")


def batches_of(sizes: list[tuple[int, int]], size: int) -> Batches:
    """Random images of these heights and widths, as they lie on a GPU."""
    images = [torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
              for number, shape in enumerate(sizes)]
    labels = torch.arange(len(sizes)) % 2
    return Batches(size, torch.device("cpu"), images, torch.tensor(sizes), labels, {}, [],
                   torch.cat([image.reshape(-1, 3) for image in images]))


@pytest.mark.parametrize("normalised", [True, False])
def test_kernel_samples_as_torch_does(normalised: bool) -> None:
    from triton.runtime.interpreter import InterpretedFunction

    from job.data import render
    from job.data.augment import normalise

    batches = batches_of([(50, 61), (48, 48), (70, 49), (48, 90)], 40)
    indices = torch.tensor([2, 0, 1, 3, 3])
    trial = Trial(lr=0.1, image_size=40, rotation=30.0, shift=0.4, flip_up=0.5)
    draws = draw(batches.sizes_N2[indices], trial, torch.Generator().manual_seed(1))
    pixels_P3, images_N12 = batches.fed(indices, draws)
    expected = batches.rendered(pixels_P3, images_N12, draws)[0]
    found = torch.full((5, 40, 40, 3), float("nan"))
    blocks = triton.cdiv(40 * 40, render.PIXELS_PER_BLOCK)
    InterpretedFunction(render.render)[(blocks, 5)](pixels_P3, images_N12, found, **render.constants(40, normalised))
    images_NCHW = found.permute(0, 3, 1, 2)
    torch.testing.assert_close(images_NCHW if normalised else normalise(images_NCHW), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("capability", [75, 80, 86, 89, 90, 100, 120])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernel_compiles_for_each_gpu_and_takes_the_pointers_that_the_driver_is_given(
        capability: int, dtype: torch.dtype) -> None:
    from job.data import render

    kernel = render.compiled(224, dtype, True, capability)
    assert kernel.asm["cubin"].startswith(b"\x7fELF") and kernel.metadata.name == "render"
    entry = kernel.asm["ptx"].split(".visible .entry render(")[1].split(")")[0]
    assert entry.count(".param") == 5, entry
    assert kernel.metadata.shared == 0 and kernel.metadata.num_warps == render.WARPS_PER_BLOCK


# What the driver is given, as a library in its place sees it.
DRIVER = """
#include <stdint.h>
#include <stdio.h>
#include <string.h>
static int module, function;
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuModuleLoadData(void **to, const char *code) { *to = &module; return memcmp(code + 1, "ELF", 3); }
int cuModuleGetFunction(void **to, void *from, const char *name) {
  *to = &function; return from != &module || strcmp(name, "render"); }
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **params, void **extra) {
  printf("%d %u %u %u %u %u %u %u %ld", f == (void *)&function, gx, gy, gz, bx, by, bz, shared, (long)stream);
  for (int i = 0; i < 5; i++) printf(" %lu", (unsigned long)*(uint64_t *)params[i]);
  puts(""); fflush(stdout); return extra != 0; }
static struct { const char *name; void *f; } all[] = {
  {"cuInit", cuInit}, {"cuDriverGetVersion", cuDriverGetVersion}, {"cuModuleLoadData", cuModuleLoadData},
  {"cuModuleGetFunction", cuModuleGetFunction}, {"cuLaunchKernel", cuLaunchKernel}};
int cuGetProcAddress_v2(const char *name, void **to, int version, uint64_t flags, int *status) {
  for (unsigned i = 0; i < sizeof all / sizeof *all; i++) if (!strcmp(name, all[i].name)) { *to = all[i].f; return 0; }
  *to = 0; if (status) *status = 1; return 500; }
int cuGetProcAddress(const char *name, void **to, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, to, version, flags, 0); }
"""
LAUNCH = """
import types
import torch
from job.data import render
torch.cuda.current_stream = lambda device: types.SimpleNamespace(cuda_stream=4711)
torch.cuda.get_device_capability = lambda device: (9, 0)
pixels, images = torch.zeros(100, 3, dtype=torch.uint8), torch.zeros(6, 12, dtype=torch.float64)
out = render.rendered(pixels, images, 40, torch.bfloat16, True)
print(1, 4, 6, 1, 32 * render.WARPS_PER_BLOCK, 1, 1, 0, 4711,
      pixels.data_ptr(), images.data_ptr(), out.data_ptr(), 0, 0)
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")
def test_driver_is_given_the_kernel_its_grid_and_the_addresses(tmp_path: Path) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    subprocess.run(["gcc", "-w", "-shared", "-fPIC", "-o", "libcuda.so.1", "driver.c"], cwd=tmp_path, check=True)
    done = subprocess.run([sys.executable, "-c", LAUNCH], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})
    launched, expected = done.stdout.splitlines()
    assert launched == expected and done.returncode == 0, done.stderr
