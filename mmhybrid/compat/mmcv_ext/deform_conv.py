"""Deformable convolutions v1 (arXiv 1703.06211) and v2, modulated (arXiv 1811.11168).

torchvision's kernels do the work. mmcv's `columns` and `ones` are working space of its own kernels,
and `im2col_step` only says how many images it treats at once; none of them is needed here.
"""

from functools import partial
from operator import itemgetter

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from mmhybrid.compat.mmcv_ext.precision import as_working_precision

# What torchvision takes after the tensors, in its order, under mmcv's names for v1 and v2.
_sizes_v1 = itemgetter(
    *("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
)
_sizes_v2 = itemgetter(
    *("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
    *("group", "deformable_group"),
)


def _forward(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, *sizes
) -> Tensor:
    use_mask = mask is not None
    mask = mask if use_mask else input.new_zeros(len(input), 1)
    bias = bias if bias is not None else input.new_zeros(len(weight))
    tensors = as_working_precision(input, weight, offset, mask, bias)
    return torch.ops.torchvision.deform_conv2d(*tensors, *sizes, use_mask)


def _backward(
    grad: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, *sizes
) -> tuple[Tensor, ...]:
    """Return the gradients of input, weight, offset, mask and bias."""
    use_mask = mask is not None
    mask = mask if use_mask else input.new_zeros(len(input), 1)
    bias = input.new_zeros(len(weight))
    input, *tensors = as_working_precision(input, weight, offset, mask, bias, grad)
    gradients = torch.ops.torchvision._deform_conv2d_backward(
        tensors[-1], input, *tensors[:-1], *sizes, use_mask
    )
    _clear_border(gradients[2], tensors[1], weight.shape[2:], *sizes[:6])
    return gradients


def _clear_border(
    grad_offset: Tensor, offset: Tensor, kernel_size: tuple[int, int], *sizes: int
) -> None:
    """Set the gradient of offsets to zero that point exactly one pixel before the image, or more.

    A sample at -1 reads nothing. torchvision takes the slope on its inner side there, mmcv takes
    zero, and offsets that start as zeros put every padded sample just there.
    """
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = sizes
    batch, _, height, width = offset.shape
    kernel_h, kernel_w = kernel_size
    shape = (batch, -1, kernel_h, kernel_w, 2, height, width)
    delta_y, delta_x = offset.reshape(shape).unbind(4)  # (B, groups, kh, kw, H, W)
    steps = partial(torch.arange, device=offset.device)
    tap_y = (steps(kernel_h) * dilation_h).view(-1, 1, 1, 1)
    tap_x = (steps(kernel_w) * dilation_w).view(-1, 1, 1)
    y = (steps(height) * stride_h - pad_h)[:, None] + tap_y
    x = steps(width) * stride_w - pad_w + tap_x
    outside = (y + delta_y <= -1) | (x + delta_x <= -1)
    grad_offset.view(shape).masked_fill_(outside.unsqueeze(4), 0)


def _read(x: Tensor, output: Tensor) -> Tensor:
    """The values of offsets or mask that mmcv's kernel reads: by the size of the output.

    mmdet's DyHead hands over those of the next larger level, and is trained with what mmcv makes of
    them: of each image the first values, as they lie in memory.
    """
    height, width = output.shape[-2:]
    needed = x.shape[1] * height * width
    if x.shape[-2:] == (height, width) or x[0].numel() < needed:
        return x
    return x.flatten(1)[:, :needed].view(len(x), -1, height, width)


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, *buffers: Tensor, **sizes: int
) -> None:
    """Write the convolution of `input` (B, C, H, W) into `output`."""
    output.copy_(_forward(input, weight, offset, None, None, *_sizes_v1(sizes)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    *buffers: Tensor,
    **sizes: int,
) -> None:
    """Add the gradients of the input and of the offsets."""
    gradients = _backward(gradOutput, input, weight, offset, None, *_sizes_v1(sizes))
    gradInput.add_(gradients[0])
    gradOffset.add_(gradients[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    *buffers: Tensor,
    scale: float,
    **sizes: int,
) -> None:
    """Add the gradient of the weight, times `scale`."""
    # The gradient of the weight does not depend on the weight, so zeros serve as well.
    gradients = _backward(gradOutput, input, gradWeight, offset, None, *_sizes_v1(sizes))
    gradWeight.add_(gradients[1], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **sizes: int,
) -> None:
    """Write the modulated convolution of `input` (B, C, H, W) into `output`."""
    bias = bias if with_bias else None
    offset, mask = _read(offset, output), _read(mask, output)
    output.copy_(_forward(input, weight, offset, mask, bias, *_sizes_v2(sizes)))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **sizes: int,
) -> None:
    """Add the gradients of all inputs."""
    offset, mask = _read(offset, grad_output), _read(mask, grad_output)
    gradients = _backward(grad_output, input, weight, offset, mask, *_sizes_v2(sizes))
    grad_offset, grad_mask = _read(grad_offset, grad_output), _read(grad_mask, grad_output)
    targets = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    for target, gradient in zip(targets[: 4 + with_bias], gradients, strict=False):
        target.add_(gradient)
