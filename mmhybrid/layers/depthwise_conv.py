"""Depth-wise convolutions that a CPU computes fast for every kernel, and whose gradients too.

oneDNN's fast kernels know zeros up to six on each side in the forward pass, no dilation in the
gradient of the input, and for that of the weight neither dilation nor kernels wider than three.
What they refuse took 1.3 to 18 times as long as what is done here, by shape. But

* a map that has its zeros already needs none;
* the gradient of the input is a convolution with the flipped kernel;
* the gradient of a wide kernel is that of strips of three columns, each over a map that starts some
  columns later. Channels last that is the same memory at an offset, and with dilation d the rows r,
  r + d, r + 2d, ... are a map of their own: columns fold into channels, rows lie side by side.

On a GPU a kernel in Triton takes its place where it was measured to be faster.
"""

import functools
import importlib.util
import os
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from mmhybrid.layers.transforms import is_transformed

# Zeros on each side, up to which oneDNN's fast kernel supplies them itself.
WIDEST_RIM = 6
SMALLEST_IN_TRITON = 2**21  # values of a map
# Columns of a kernel, up to which oneDNN's gradient of the weight is fast.
STRIP = 3


class DepthwiseConv(nn.Conv2d):
    """A depth-wise convolution of odd size that keeps height and width, padding with zeros."""

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1) -> None:
        rim = dilation * (kernel_size // 2)
        super().__init__(
            channels, channels, kernel_size, padding=rim, dilation=dilation, groups=channels
        )

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv(x, self.weight, self.bias, self.padding[0], self.dilation[0])


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, dilation: int = 1
) -> Tensor:
    """Convolves (B, C, H, W) with (C, 1, K, K), K odd, and keeps height and width.

    So ``padding`` is ``dilation * (K // 2)``. In a graph (compiled, exported, traced) and under
    ``torch.func``, and on a CPU without gradients, it is PyTorch's own convolution. Everywhere its
    gradients can be differentiated again.
    """
    looked_on = is_transformed() or isinstance(x, FakeTensor)  # such as by who counts
    if x.is_cuda and not looked_on and _is_faster_in_triton(x, weight, dilation):
        return _in_triton(x, weight, bias, dilation)
    if x.device.type != "cpu":
        return _plain(x, weight, bias, padding, dilation)
    needs_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    is_fast = padding <= 1  # 3x3 and not dilated, or 1x1
    if is_fast or not needs_grad or is_transformed() or x.numel() == 0:
        return _padded(x, weight, bias, padding, dilation)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = (_cast(t, dtype) for t in (x, weight, bias))
    return _DepthwiseConv.apply(x, weight, bias, padding, dilation)


@functools.cache
def _has_triton(device: torch.device) -> bool:
    """Whether Triton is there (it comes with PyTorch on Linux) and works.

    It compiles for a GPU by a C compiler, which not every machine has.
    """
    if os.environ.get("MMHYBRID_TRITON", "1") == "0" or not importlib.util.find_spec("triton"):
        return False
    from mmhybrid.layers.triton_depthwise import correlate

    try:
        x = torch.ones(1, 1, 8, 8, device=device)
        correlate(x, x[..., :3, :3].contiguous(), None, 1)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        warnings.warn(
            f"Triton does not work on {device} ({type(error).__name__}: {reason}): depth-wise "
            "convolutions take PyTorch's own kernels, which are slower",
            stacklevel=2,
        )
        return False
    return True


def _is_faster_in_triton(x: Tensor, weight: Tensor, dilation: int) -> bool:
    """Whether PyTorch's own kernels are slower, by ``choices`` of ``results/gpu.md`` (an H100).

    Channels last they are fast for small kernels, and in half precision for all, without dilation;
    and a small map is done before Triton's programs are started.
    """
    if x.numel() < SMALLEST_IN_TRITON or not _has_triton(x.device):
        return False
    from mmhybrid.layers.triton_depthwise import is_channels_last

    half = x.dtype != torch.float32 or torch.is_autocast_enabled("cuda")
    return not is_channels_last(x) or dilation > 1 or (weight.shape[-1] > STRIP and not half)


def _in_triton(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    from mmhybrid.layers.triton_depthwise import TritonDepthwiseConv

    if torch.is_autocast_enabled("cuda"):
        x = _cast(x, torch.get_autocast_dtype("cuda"))
    return TritonDepthwiseConv.apply(x, weight, bias, dilation)


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return tensor.to(dtype) if tensor is not None and tensor.dtype == torch.float32 else tensor


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, dilation: int) -> Tensor:
    return F.conv2d(x, weight, bias, 1, padding, dilation, groups=x.shape[1])


def _padded(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, dilation: int) -> Tensor:
    if padding > WIDEST_RIM:
        x, padding = F.pad(x, (padding,) * 4), 0
    return _plain(x, weight, bias, padding, dilation)


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, padding, dilation):
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return _padded(x, weight, bias, padding, dilation)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        padding, dilation, channels = ctx.padding, ctx.dilation, len(weight)
        needs = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # these gradients will be differentiated again
            geometry = [1, 1], [padding] * 2, [dilation] * 2, False, [0, 0], channels
            grads = torch.ops.aten.convolution_backward(
                grad, x, weight, [channels], *geometry, needs
            )
        else:
            grads = (
                _padded(grad, weight.flip(2, 3), None, padding, dilation) if needs[0] else None,
                _weight_grad(x, grad, weight.shape[-1], dilation) if needs[1] else None,
                grad.sum((0, 2, 3)) if needs[2] else None,
            )
        return *grads, None, None


def _weight_grad(x: Tensor, grad: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """The gradient of the weight, strip by strip, from the input and the output's gradient."""
    batch, channels, height, width = x.shape
    rim = dilation * (kernel_size // 2)
    rows, columns = (-(-(side + 2 * rim) // dilation) for side in (height, width))
    wide = dilation * channels  # columns that dilation skips lie beside a column as channels
    # Both maps channels last, in rows of one length, with zeros around.
    size = batch * rows * dilation * columns * wide
    room = x.new_zeros(size + (kernel_size - STRIP) * wide)
    inner = room[:size].view(batch, rows * dilation, columns * dilation, channels)
    inner[:, rim : rim + height, rim : rim + width] = x.permute(0, 2, 3, 1)
    rows_out = rows - kernel_size + 1
    grads = grad.new_zeros(batch, rows_out * dilation, columns * dilation, channels)
    # One column late, so that a strip has a neighbour to its left.
    grads[:, :height, dilation : dilation + width] = grad.permute(0, 2, 3, 1)
    # Of all rows that share a remainder by the dilation, one after the other.
    grads = grads.view(batch, rows_out, dilation * columns, wide).permute(0, 3, 1, 2)
    weight = x.new_empty(wide, 1, kernel_size, STRIP)  # its shape alone is read
    result = x.new_empty(channels, 1, kernel_size, kernel_size)
    for first in range(0, kernel_size, STRIP):
        first = min(first, kernel_size - STRIP)
        shifted = room[first * wide :][:size].view(batch, rows, dilation * columns, wide)
        strip = torch.ops.aten.convolution_backward(
            *(grads, shifted.permute(0, 3, 1, 2), weight, None, [1, 1], [0, 1], [1, 1]),
            *(False, [0, 0], wide, [False, True, False]),
        )[1]
        strip = strip.view(dilation, channels, 1, kernel_size, STRIP).sum(0)
        result[..., first : first + STRIP] = strip
    return result
