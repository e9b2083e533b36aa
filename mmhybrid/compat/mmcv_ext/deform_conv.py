"""Deformable convolutions v1 (arXiv 1703.06211) and v2, modulated (arXiv 1811.11168).

torchvision's kernels do the work. mmcv's `columns` and `ones` are working space of its own kernels,
and `im2col_step` only says how many images it treats at once; none of them is needed here.
"""

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from mmhybrid.compat.mmcv_ext.precision import as_working_precision


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
    tensors = as_working_precision(input, grad, weight, offset, mask, bias)
    input, grad, weight, offset, mask, bias = tensors
    gradients = torch.ops.torchvision._deform_conv2d_backward(
        grad, input, weight, offset, mask, bias, *sizes, use_mask
    )
    _clear_border(gradients[2], offset, weight.shape[2:], *sizes[:6])
    return gradients


def _clear_border(
    grad_offset: Tensor,
    offset: Tensor,
    kernel_size: tuple[int, int],
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
) -> None:
    """Set the gradient of offsets to zero that point exactly one pixel before the image, or more.

    A sample at -1 reads nothing. torchvision takes the slope on its inner side there, mmcv takes
    zero, and offsets that start as zeros put every padded sample just there.
    """
    batch, _, height, width = offset.shape
    kernel_h, kernel_w = kernel_size
    shape = (batch, -1, kernel_h, kernel_w, 2, height, width)
    delta_y, delta_x = offset.reshape(shape).unbind(4)  # (B, groups, kh, kw, H, W)

    def steps(count: int, size: int) -> Tensor:
        return torch.arange(count, device=offset.device) * size

    y = (steps(height, stride_h) - pad_h)[:, None] + steps(kernel_h, dilation_h).view(-1, 1, 1, 1)
    x = (steps(width, stride_w) - pad_w) + steps(kernel_w, dilation_w).view(-1, 1, 1)
    outside = (y + delta_y <= -1) | (x + delta_x <= -1)
    grad_offset.view(shape).masked_fill_(outside.unsqueeze(4), 0)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the convolution of `input` (B, C, H, W) into `output`."""
    sizes = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_forward(input, weight, offset, None, None, *sizes))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add the gradients of the input and of the offsets."""
    sizes = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grad_input, _, grad_offset, _, _ = _backward(gradOutput, input, weight, offset, None, *sizes)
    gradInput.add_(grad_input)
    gradOffset.add_(grad_offset)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add the gradient of the weight, times `scale`."""
    sizes = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # The gradient of the weight does not depend on the weight, so zeros serve as well.
    grad_weight = _backward(gradOutput, input, gradWeight, offset, None, *sizes)[1]
    gradWeight.add_(grad_weight, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the modulated convolution of `input` (B, C, H, W) into `output`."""
    sizes = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    output.copy_(_forward(input, weight, offset, mask, bias if with_bias else None, *sizes))


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
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add the gradients of all inputs."""
    sizes = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    gradients = _backward(grad_output, input, weight, offset, mask, *sizes)
    targets = (grad_input, grad_weight, grad_offset, grad_mask)
    for target, gradient in zip(targets, gradients[:4], strict=True):
        target.add_(gradient)
    if with_bias:
        grad_bias.add_(gradients[4])
