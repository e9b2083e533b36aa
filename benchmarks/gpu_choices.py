"""What may be computed in several ways on a GPU, each way timed: the reasons of our choices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.benchmark import Timer

from mmhybrid.layers.relative_position import attention_with_position, fit_relative_position

Row = dict[str, Any]
LARGEST_TABLE = 1e6
Way = Callable[..., Tensor]
# (B, C, H, W): maps of TransXNet-T's IDConv; then of its feed-forward networks and DMFormer-S.
DYNAMIC = ((128, 24, 56, 56), (128, 112, 14, 14), (2, 24, 200, 336), (2, 112, 50, 84))
DYNAMIC_SIZE = 7
STATIC = (
    ((128, 48, 56, 56), 3, 1),
    ((2, 48, 200, 336), 7, 1),
    ((2, 64, 200, 336), 7, 3),
    ((128, 320, 14, 14), 7, 3),
)
# Images, heads, queries, keys, channels of a head, and the table at 224 pixels.
NORM = ((128, 48, 56, 56), (2, 48, 200, 336), (2, 224, 50, 84))
ATTENTION = (
    (128, 1, 56 * 56, 7 * 7, 24, (56 * 56, 7 * 7)),
    (2, 1, 200 * 336, 25 * 42, 24, (56 * 56, 7 * 7)),
    (2, 4, 50 * 84, 25 * 42, 28, (14 * 14, 7 * 7)),
)


def choices(device: str, is_tiny: bool = False) -> list[Row]:
    """Milliseconds of each way, forward alone and with its gradients."""
    found = []
    for type in (torch.bfloat16, torch.float32):
        for about, ways, inputs in _cases(device, type, is_tiny):
            for name, way in ways.items():
                row = dict(operation=about, precision=str(type)[6:], way=name)
                try:
                    row |= _times(way, inputs, 0.01 if is_tiny else 0.05)
                except Exception as error:
                    row |= dict(forward_ms="", both_ms=f"{error.__class__.__name__}"[:60])
                found.append(row)
                print(*row.values(), flush=True)
                if device == "cuda":
                    torch.cuda.empty_cache()
    return found


def _times(way: Way, inputs: tuple[Tensor, ...], seconds: float) -> Row:
    gradient = torch.randn_like(way(*inputs))

    def both() -> None:
        torch.autograd.grad(way(*inputs), inputs, gradient)

    def forward() -> None:
        with torch.no_grad():
            way(*inputs)

    return {
        name: 1e3 * Timer("f()", globals=dict(f=f)).blocked_autorange(min_run_time=seconds).median
        for name, f in (("forward_ms", forward), ("both_ms", both))
    }


def _cases(
    device: str, type: torch.dtype, is_tiny: bool
) -> Iterator[tuple[str, dict[str, Way], tuple[Tensor, ...]]]:
    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=type, requires_grad=True)

    few = 1 if is_tiny else None
    for shape in itertools.islice(DYNAMIC, few):
        shape = (2, 4, 8, 8) if is_tiny else shape
        kernel = (*shape[:2], DYNAMIC_SIZE, DYNAMIC_SIZE)
        ways = dict(whole=_whole, one_by_one=_one_by_one) | _triton(device, 1)
        yield f"dynamic 7x7 of {shape}", ways, (some(*shape), some(*kernel))
    for shape, kernel, dilation in itertools.islice(STATIC, few):
        shape = (2, 4, 8, 8) if is_tiny else shape

        def static(x: Tensor, weight: Tensor, d: int = dilation, k: int = kernel) -> Tensor:
            weight = weight.transpose(0, 1)
            return F.conv2d(x, weight, padding=d * (k // 2), dilation=d, groups=x.shape[1])

        weight = some(1, shape[1], kernel, kernel)
        about = f"static {kernel}x{kernel}, dilation {dilation}, of {shape}"
        yield about, dict(cudnn=static) | _triton(device, dilation), (some(*shape), weight)
        x = some(*shape).detach().to(memory_format=torch.channels_last).requires_grad_()
        ways = dict(cudnn=static) | _triton(device, dilation)
        yield f"{about}, channels last", ways, (x, weight)
    for shape in itertools.islice(NORM, few):
        shape = (2, 4, 8, 8) if is_tiny else shape
        ways = dict(pytorch=partial(F.group_norm, num_groups=1), by_parts=_norm_by_parts)
        yield f"group normalisation of {shape}", ways, (some(*shape),)
    for images, heads, queries, keys, dim, learned in itertools.islice(ATTENTION, few):
        if is_tiny:
            images, queries, keys, learned = 1, 64, 9, (64, 9)
        q, k, v = (
            some(images, heads, queries, dim),
            *(some(images, heads, keys, dim) for _ in range(2)),
        )
        table = some(1, heads, *learned)
        ways: dict[str, Way] = dict(ours=_ours)
        if queries * keys < LARGEST_TABLE:  # the gradient of the resizing takes seconds
            ways |= dict(scores=_scores, masked=_masked)
        yield f"attention of {queries} to {keys}", ways, (q, k, v, table)


def _whole(x: Tensor, weight: Tensor) -> Tensor:
    maps = x.reshape(1, -1, *x.shape[2:])
    weight = weight.reshape(-1, 1, *weight.shape[2:])
    padding = weight.shape[-1] // 2
    return F.conv2d(maps, weight, padding=padding, groups=maps.shape[1]).view(x.shape)


def _one_by_one(x: Tensor, weight: Tensor) -> Tensor:
    pairs = zip(x.split(1), weight.split(1), strict=True)
    return torch.cat([_whole(*pair) for pair in pairs])


def _triton(device: str, dilation: int) -> dict[str, Way]:
    if device != "cuda":
        return {}
    from mmhybrid.layers.triton_depthwise import TritonDepthwiseConv

    def run(x: Tensor, weight: Tensor) -> Tensor:
        kernels = weight.reshape(-1, 1, *weight.shape[2:])
        maps = x.reshape(1, -1, *x.shape[2:]) if len(weight) > 1 else x
        return TritonDepthwiseConv.apply(maps, kernels, None, dilation).view(x.shape)

    return dict(triton=run)


def _norm_by_parts(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x.float(), (1, 2, 3), correction=0, keepdim=True)
    scale = torch.rsqrt(variance + 1e-5)
    return torch.addcmul(-mean * scale, x, scale).to(x.dtype)


def _ours(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    return attention_with_position(q, k, v, fit_relative_position(table, q.shape[2], k.shape[2]))


def _table(q: Tensor, k: Tensor, table: Tensor) -> Tensor:
    size = (q.shape[2], k.shape[2])
    return table if table.shape[2:] == size else F.interpolate(table, size=size, mode="bicubic")


def _scores(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + _table(q, k, table)
    return scores.softmax(dim=-1) @ v


def _masked(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_table(q, k, table))
