"""Depth-wise convolution of odd kernels on a GPU, and its gradients, in Triton.

PyTorch's own depth-wise kernels are slow for wide and dilated kernels and for the gradient of the
weight, cuDNN's for dilated ones channels last. Here a program computes a tile of one channel of one
image, in float32 (or float64), and rounds once. :mod:`mmhybrid.layers.depthwise_conv` chooses.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows and columns of a map that a program computes, the fastest of those tried on an H100.
TILE = (8, 64)
GRADIENT_TILE = (16, 64)


# Not compiled anew for every size of a map.
@triton.jit(do_not_specialize=["height", "width", "channels"])
def _correlate(
    x, weight, bias, out, height, width, channels,
    KERNEL: tl.constexpr, DILATION: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """out[map] = weight[map % channels] over x[map] (+ bias), a map a channel of an image."""
    image = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(width, COLUMNS)
    rows = (tl.program_id(1) // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = (tl.program_id(1) % tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    x += image * height * width
    weight += (image % channels) * KERNEL * KERNEL
    total = tl.zeros((ROWS, COLUMNS), TYPE)
    for i in tl.static_range(KERNEL):
        for j in tl.static_range(KERNEL):
            r = rows + (i - KERNEL // 2) * DILATION
            c = columns + (j - KERNEL // 2) * DILATION
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            values = tl.load(x + r * width + c, inside, other=0.0).to(TYPE)
            tap = KERNEL * KERNEL - 1 - (i * KERNEL + j) if FLIP else i * KERNEL + j
            total += values * tl.load(weight + tap).to(TYPE)
    if BIAS:
        total += tl.load(bias + image % channels).to(TYPE)
    inside = (rows < height) & (columns < width)
    tl.store(out + image * height * width + rows * width + columns, total, inside)


@triton.jit(do_not_specialize=["height", "width"])
def _weight_gradient(
    x, gradient, out, height, width,
    KERNEL: tl.constexpr, DILATION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """out[map, tile, tap] = sum over a tile of gradient[map] * x[map] moved by the tap."""
    image = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(width, COLUMNS)
    rows = (tl.program_id(1) // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = (tl.program_id(1) % tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (rows < height) & (columns < width)
    x += image * height * width
    gradient += image * height * width
    out += (image * tl.num_programs(1) + tl.program_id(1)) * KERNEL * KERNEL
    dy = tl.load(gradient + rows * width + columns, inside, other=0.0).to(TYPE)
    for i in tl.static_range(KERNEL):
        for j in tl.static_range(KERNEL):
            r = rows + (i - KERNEL // 2) * DILATION
            c = columns + (j - KERNEL // 2) * DILATION
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            values = tl.load(x + r * width + c, inside, other=0.0).to(TYPE)
            tl.store(out + i * KERNEL + j, tl.sum(values * dy))


class TritonDepthwiseConv(torch.autograd.Function):
    """``apply(x, weight, bias, dilation)``: (B, C, H, W) with (C, 1, K, K) and (C,) or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation, ctx.bias_type = dilation, None if bias is None else bias.dtype
        return _in_format_of(x, correlate(x.contiguous(), weight.contiguous(), bias, dilation))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        channels, _, _, kernel = weight.shape
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # these gradients will be differentiated again
            rim, dilation = [ctx.dilation * (kernel // 2)] * 2, [ctx.dilation] * 2
            grads = torch.ops.aten.convolution_backward(
                *(gradient, x, weight.to(x.dtype), [channels], [1, 1], rim, dilation, False),
                *([0, 0], channels, [needs_x, needs_weight, needs_bias]),
            )
            dx, dw, db = grads
        else:
            dx = dw = db = None
            plain = gradient.contiguous()
            if needs_x:
                dx = correlate(plain, weight.contiguous(), None, ctx.dilation, flip=True)
                dx = _in_format_of(x, dx)
            if needs_weight:
                dw = weight_gradient(x.contiguous(), plain, kernel, ctx.dilation)
            if needs_bias:
                db = plain.sum((0, 2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        dw = None if dw is None else dw.to(weight.dtype)
        return dx, dw, None if db is None else db.to(ctx.bias_type), None


def _in_format_of(x: Tensor, out: Tensor) -> Tensor:
    """``out`` channels last where ``x`` is, for what follows."""
    return out.contiguous(memory_format=torch.channels_last) if is_channels_last(x) else out


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a position lie side by side, also in a part of a map."""
    return x.stride(1) == 1 and x.shape[1] > 1


def correlate(
    x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, flip: bool = False
) -> Tensor:
    """Convolves (B, C, H, W), contiguous, with (C, 1, K, K), or with its kernels turned around."""
    out = torch.empty_like(x)
    grid, options = _tiles(x, TILE)
    options |= dict(KERNEL=weight.shape[-1], DILATION=dilation, FLIP=flip, BIAS=bias is not None)
    bias = weight if bias is None else bias.contiguous()
    with torch.cuda.device_of(x):  # Triton takes the current one
        _correlate[grid](x, weight, bias, out, *x.shape[2:], x.shape[1], **options)
    return out


def weight_gradient(x: Tensor, gradient: Tensor, kernel: int, dilation: int) -> Tensor:
    """The gradient of the (C, 1, K, K) weight from the input and that of the output, contiguous."""
    grid, options = _tiles(x, GRADIENT_TILE)
    options |= dict(KERNEL=kernel, DILATION=dilation)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    out = x.new_empty((*x.shape[:2], grid[1], kernel, kernel), dtype=dtype)
    with torch.cuda.device_of(x):
        _weight_gradient[grid](x, gradient, out, *x.shape[2:], **options)
    return out.sum((0, 2)).unsqueeze(1)


def _tiles(x: Tensor, largest: tuple[int, int]) -> tuple[tuple[int, int], dict[str, Any]]:
    """Maps and tiles of each, and the size of a tile."""
    height, width = x.shape[2:]
    rows = min(largest[0], triton.next_power_of_2(height))
    columns = min(largest[1], triton.next_power_of_2(width))
    tiles = triton.cdiv(height, rows) * triton.cdiv(width, columns)
    options = dict(ROWS=rows, COLUMNS=columns, TYPE=_type(x))
    return (x.shape[0] * x.shape[1], tiles), options


def _type(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32
