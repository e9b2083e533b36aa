"""Depth-wise convolution of odd kernels on a GPU, with kernels of each image's own, in Triton.

PyTorch's depth-wise kernels take one set of weights for the whole batch: an input-dependent
convolution must go through them as one image of ``B * C`` channels, and the gradient of its weights
is what a training step of TransXNet waits for. Here a program computes a tile of one channel of one
image, in float32 (or float64), and rounds once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = (16, 64)  # rows and columns of a map


@triton.jit
def _correlate(
    x, weight, bias, out, height, width, weights,
    KERNEL: tl.constexpr, DILATION: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """out[map] = weight[map % weights] over x[map] (+ bias), a map a channel of an image."""
    image = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(width, COLUMNS)
    rows = (tl.program_id(1) // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = (tl.program_id(1) % tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    x += image * height * width
    weight += (image % weights) * KERNEL * KERNEL
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
        total += tl.load(bias + image % weights).to(TYPE)
    inside = (rows < height) & (columns < width)
    tl.store(out + image * height * width + rows * width + columns, total, inside)


@triton.jit
def _weight_gradient(
    x, gradient, out, height, width,
    KERNEL: tl.constexpr, DILATION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """out[map, tile, tap] = sum over the tile of gradient[map] * x[map] moved by the tap."""
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


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    """Depth-wise convolution that keeps height and width, padding with zeros.

    Args:
        x (Tensor): (B, C, H, W), on a GPU.
        weight (Tensor): (B, C, K, K), a kernel an image and channel, or (1, C, K, K), a kernel a
            channel; K is odd.
        bias (Tensor, optional): (B, C) or (1, C), as ``weight``.
        dilation (int): Distance between the taps of a kernel. Defaults to 1.

    Returns:
        Tensor: (B, C, H, W), of the type of ``x``, under autocast of that of autocast.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return _DepthwiseConv2d.apply(x, weight, bias, dilation)


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.dilation, ctx.bias_type = dilation, None if bias is None else bias.dtype
        return _launch(x, weight, bias, dilation, flip=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = _launch(gradient, weight, None, ctx.dilation, flip=True)
        if ctx.needs_input_grad[1]:
            parts = _weight_gradients(x, gradient, weight, ctx.dilation)
            dw = parts.sum_to_size(weight.shape).to(weight.dtype)
        if ctx.bias_type is not None and ctx.needs_input_grad[2]:
            type = _accumulator(x)
            db = gradient.sum(dim=(2, 3), dtype=type).sum_to_size(weight.shape[:2])
            db = db.to(ctx.bias_type)
        return dx, dw, db, None


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _options(x: Tensor) -> tuple[tuple[int, int], dict[str, Any]]:
    """The grid over maps and their tiles, and the sizes of a tile."""
    height, width = x.shape[2:]
    rows = min(TILE[0], triton.next_power_of_2(height))
    columns = min(TILE[1], triton.next_power_of_2(width))
    tiles = triton.cdiv(height, rows) * triton.cdiv(width, columns)
    type = tl.float64 if _accumulator(x) == torch.float64 else tl.float32
    return (x.shape[0] * x.shape[1], tiles), dict(ROWS=rows, COLUMNS=columns, TYPE=type)


def _launch(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, flip: bool) -> Tensor:
    out = torch.empty_like(x)
    grid, options = _options(x)
    height, width = x.shape[2:]
    options |= dict(KERNEL=weight.shape[-1], DILATION=dilation, FLIP=flip, BIAS=bias is not None)
    bias = weight if bias is None else bias.contiguous()
    maps = weight.shape[0] * weight.shape[1]
    _correlate[grid](x, weight, bias, out, height, width, maps, **options)
    return out


def _weight_gradients(x: Tensor, gradient: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """(B, C, K, K), of each image."""
    grid, options = _options(x)
    height, width = x.shape[2:]
    kernel = weight.shape[-1]
    parts = torch.empty(*grid, kernel * kernel, dtype=_accumulator(x), device=x.device)
    options |= dict(KERNEL=kernel, DILATION=dilation)
    _weight_gradient[grid](x, gradient, parts, height, width, **options)
    return parts.sum(dim=1).view(*x.shape[:2], kernel, kernel)
