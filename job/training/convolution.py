"""A faster weight gradient on a CPU for convolutions with small feature maps.

On a feature map of few positions, oneDNN's kernel for the weight gradient is far from the limit of the processor: it
reorders the weights at each step, and they are larger than the map. One matrix product over the patches of the map
gives the same gradient up to three times as fast (ResNet18's last stage at batch 4: 1.2 against 3.5 ms; benchmarks.md).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Up to this many positions of the output map, copying the patches pays off; measured at batches of 4 to 64.
FEW_POSITIONS = 64


class Convolve(torch.autograd.Function):
    """conv2d with a kernel of 3, padding 1 and no bias, whose weight gradient is a matrix product."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, images_NCHW: Tensor, weight_KC33: Tensor, stride: int) -> Tensor:
        """Return maps_NKHW; they and both inputs are in channels_last order."""
        ctx.save_for_backward(images_NCHW, weight_KC33)
        ctx.stride = stride
        return torch.conv2d(images_NCHW, weight_KC33, None, stride, 1)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_NKHW: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of the images and of the weights, and None for the stride."""
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
    """Return patches_PQ: a row of 3 x 3 x C inputs, channels last, per position of the output maps; zeros outside."""
    padded_NHWC = functional.pad(images_NCHW.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
    num_images, height, width, channels = padded_NHWC.shape
    output_sizes = [(size - 3) // stride + 1 for size in (height, width)]
    row = width * channels
    windows = padded_NHWC.as_strided((num_images, *output_sizes, 3, 3, channels),
                                     (height * row, stride * row, stride * channels, row, channels, 1))
    return windows.reshape(-1, 9 * channels)


class SmallMapConv2d(nn.Conv2d):
    """A Conv2d that uses the matrix product where it is faster: with a stride, or on a small feature map."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride = self.stride[0]
        num_positions = input.shape[2] * input.shape[3] // stride**2
        if not torch.is_grad_enabled() or (stride == 1 and num_positions > FEW_POSITIONS):
            maps_NKHW: Tensor = super()._conv_forward(input, weight, bias)
            return maps_NKHW
        return Convolve.apply(input, weight, stride)  # type: ignore[no-any-return]


def speed_up_convolutions(model: nn.Module) -> None:
    """Turn each convolution of kernel 3 and padding 1 into a SmallMapConv2d; its name and its weights stay the same."""
    for part in model.modules():
        if type(part) is nn.Conv2d and part.kernel_size == (3, 3) and part.padding == (1, 1) and part.groups == 1 \
                and part.bias is None and part.dilation == (1, 1):
            # In place, because torchvision's model builds its own layers, and published state dicts must still fit.
            part.__class__ = SmallMapConv2d
