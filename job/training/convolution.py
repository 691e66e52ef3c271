"""A faster gradient for the convolutions whose maps are small, on a CPU.

oneDNN's kernel for the gradient of the weights is far from the processor's limit where a map has few positions: it lays
the weights out anew for each step, and they are larger than the map. The same gradient as one matrix product over the
map's patches is up to three times as fast (ResNet18's last stage at batch 4: 1.2 against 3.5 ms; benchmarks.md).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Positions of the outgoing map up to which the patches are worth their copy; measured at batches of 4 to 64.
FEW_POSITIONS = 64


class Convolve(torch.autograd.Function):
    """conv2d with a kernel of 3, padding 1 and no bias, whose gradient of the weights is a matrix product."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, images_NCHW: Tensor, weight_KC33: Tensor, stride: int) -> Tensor:
        """maps_NKHW, in channels_last order as both inputs are."""
        ctx.save_for_backward(images_NCHW, weight_KC33)
        ctx.stride = stride
        return torch.conv2d(images_NCHW, weight_KC33, None, stride, 1)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_NKHW: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients of images and weights."""
        images_NCHW, weight_KC33 = ctx.saved_tensors
        images_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            images_grad = torch.ops.aten.convolution_backward(
                grad_NKHW, images_NCHW, weight_KC33, None, [ctx.stride] * 2, [1, 1], [1, 1], False, [0, 0], 1,
                [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            channels = grad_NKHW.shape[1]
            grad_PK = grad_NKHW.permute(0, 2, 3, 1).reshape(-1, channels)
            weight_grad = grad_PK.t() @ patches(images_NCHW, ctx.stride)
            weight_grad = weight_grad.view(channels, 3, 3, -1).permute(0, 3, 1, 2)
        return images_grad, weight_grad, None


def patches(images_NCHW: Tensor, stride: int) -> Tensor:
    """patches_PQ: for each of the P positions of the outgoing maps its 3 x 3 x C inputs, channels last; zeros outside."""
    padded_NHWC = functional.pad(images_NCHW.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
    num, height, width, channels = padded_NHWC.shape
    out = [(size - 3) // stride + 1 for size in (height, width)]
    row = width * channels
    windows = padded_NHWC.as_strided((num, *out, 3, 3, channels),
                                     (height * row, stride * row, stride * channels, row, channels, 1))
    return windows.reshape(-1, 9 * channels)


class SmallMapConv2d(nn.Conv2d):
    """A Conv2d that takes the matrix product where it is the faster one: where it strides, and where its map is small."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride = self.stride[0]
        positions = input.shape[2] * input.shape[3] // stride**2
        if not torch.is_grad_enabled() or (stride == 1 and positions > FEW_POSITIONS):
            maps_NKHW: Tensor = super()._conv_forward(input, weight, bias)
            return maps_NKHW
        return Convolve.apply(input, weight, stride)  # type: ignore[no-any-return]


def speed_up_convolutions(model: nn.Module) -> None:
    """Let the model's convolutions of kernel 3 and padding 1 choose; names, weights and results stay as they are."""
    for part in model.modules():
        if type(part) is nn.Conv2d and part.kernel_size == (3, 3) and part.padding == (1, 1) and part.groups == 1 \
                and part.bias is None and part.dilation == (1, 1):
            # In place, because torchvision's model makes its own layers and published state dicts must still fit.
            part.__class__ = SmallMapConv2d
