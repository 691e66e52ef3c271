"""The convolution for small maps gives the gradients of torch's own."""

import copy

import pytest
import torch
from torch import nn

from job.training.convolution import SmallMapConv2d, speed_up_convolutions


@pytest.mark.parametrize(("size", "stride"), [(7, 1), (14, 2), (9, 2), (5, 1)])
def test_small_maps_gradients_are_those_of_torchs_convolution(size: int, stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 10, 3, stride, 1, bias=False).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    speed_up_convolutions(ours)
    images = torch.randn(3, 6, size, size).contiguous(memory_format=torch.channels_last)
    found = []
    for layer, low in ((plain, False), (ours, False), (ours, True)):
        here = images.clone().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            maps = layer(here)
        (maps.float() * torch.linspace(-1, 1, maps.numel()).view(maps.shape)).sum().backward()
        assert layer.weight.grad is not None and here.grad is not None
        found.append((maps.detach().float(), layer.weight.grad.clone(), here.grad))
    assert type(ours) is SmallMapConv2d and torch.equal(found[0][0], found[1][0])
    for exact, same, rounded in zip(*found, strict=True):
        torch.testing.assert_close(same, exact, rtol=1e-4, atol=1e-4)
        # bfloat16 has 8 bits of mantissa.
        torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02 * float(exact.abs().max()))
