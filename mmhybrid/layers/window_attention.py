"""Attention within (shifted) windows, of Swin Transformer."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.errors import ArgumentError
from mmhybrid.layers.attention import attention
from mmhybrid.layers.padding import count_of


class Windows(NamedTuple):
    """How windows of N tokens cut a map of H x W tokens, made once for all blocks of a stage.

    Attributes:
        gather: (windows * N,), which token each place holds: 0 to H * W - 1, or H * W for zeros.
        scatter: (H * W,), for every token, its place in the windows.
        mask: (windows, N, N), added to the scores; None for windows that are not shifted.
    """

    gather: Tensor
    scatter: Tensor
    mask: Tensor | None


def cut_windows(
    height: int, width: int, window_size: int, shifted: bool, device: torch.device
) -> Windows:
    """Cuts a map into windows; those that hang over its lower and right edge are filled with zeros.

    ``shifted`` ones are moved by half their size, except along a side that fits in one window. What
    is cut off on one edge shares windows with what is missing at the other; a mask separates them.
    """
    rows, columns = count_of(height, window_size), count_of(width, window_size)
    shift = window_size // 2 if shifted else 0
    # 0 for one window a side, 1 for more: no branch on the size, so that one compiled graph serves
    # all sizes, and nothing that torch.jit.trace, to which sizes are tensors, does not know.
    down = shift * (1 - 1 // rows)
    right = shift * (1 - 1 // columns)

    place = torch.arange(rows * columns * window_size**2, device=device)
    window, inside = place // window_size**2, place % window_size**2
    row = window // columns * window_size + inside // window_size
    column = window % columns * window_size + inside % window_size
    source_row = (row + down) % (rows * window_size)
    source_column = (column + right) % (columns * window_size)
    outside = (source_row >= height) | (source_column >= width)
    gather = torch.where(outside, height * width, source_row * width + source_column)

    token = torch.arange(height * width, device=device)
    row_to = (token // width - down) % (rows * window_size)
    column_to = (token % width - right) % (columns * window_size)
    window_to = row_to // window_size * columns + column_to // window_size
    scatter = window_to * window_size**2
    scatter = scatter + row_to % window_size * window_size + column_to % window_size
    if not shifted:
        return Windows(gather, scatter, None)
    region = 3 * _region(row, rows, down, window_size)
    region = region + _region(column, columns, right, window_size)
    region = region.unflatten(0, (rows * columns, window_size**2))
    # The published -100, not minus infinity: pretrained weights know it.
    return Windows(gather, scatter, (region[:, None] != region[:, :, None]) * -100.0)


def _region(place: Tensor, windows: int, shift: int, window_size: int) -> Tensor:
    """Numbers the neighbourhoods that meet in the last window of a side."""
    last = (windows - 1) * window_size
    return (place >= last).long() + (place >= last + window_size - shift).long()


def relative_position_index(window_size: int, device: torch.device | None = None) -> Tensor:
    """(N, N): which of the (2 * window_size - 1)**2 offsets lies between two of N tokens."""
    place = torch.arange(window_size**2, device=device)
    row, column = place // window_size, place % window_size
    index = (row[:, None] - row + window_size - 1) * (2 * window_size - 1)
    return index + column[:, None] - column + window_size - 1


def resize_bias_table(table: Tensor, window_size: int) -> Tensor:
    """Fits ((2 M - 1)**2, heads) biases of windows of M tokens a side to another ``window_size``.

    As timm does, after BEiT: known offsets lie in a geometric progression that reaches as far as
    the new ones, dense near zero, and what is between them is interpolated linearly. So biases of
    near neighbours stay what they are.
    """
    side, reach = math.isqrt(len(table)), window_size - 1
    low, high = 1.01, 1.5  # the ratio of the progression
    while high - low > 1e-6:
        ratio = (low + high) / 2
        too_far = (1 - ratio ** (side // 2)) / (1 - ratio) > reach
        low, high = (low, ratio) if too_far else (ratio, high)
    known = (ratio ** torch.arange(side // 2, dtype=torch.double, device=table.device)).cumsum(0)
    known = torch.cat([-known.flip(0), known.new_zeros(1), known])
    new = torch.arange(-reach, reach + 1).to(known)
    right = torch.searchsorted(known, new).clamp(1, side - 1)
    t = ((new - known[right - 1]) / (known[right] - known[right - 1])).clamp(0, 1)[:, None]
    weight = (1 - t) * F.one_hot(right - 1, side) + t * F.one_hot(right, side)  # (new side, side)
    grid = table.to(weight.dtype).t().unflatten(1, (side, side))  # (heads, side, side)
    return (weight @ grid @ weight.t()).flatten(1).t().to(table.dtype)


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias for each relative position.

    Swin Transformer, https://arxiv.org/abs/2103.14030.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        if channels % num_heads:
            raise ArgumentError(f"{num_heads} heads do not divide {channels} channels")
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        offsets = 2 * window_size - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets**2, num_heads))

    @property
    def relative_position_index(self) -> Tensor:
        """That of its windows. It is made of sizes anew, and so right whatever device the module
        was made on: a buffer that no checkpoint holds would stay empty on the meta device."""
        return relative_position_index(self.window_size, self.relative_position_bias_table.device)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Maps (B, H * W, C) to the same; ``windows`` come from :func:`cut_windows`."""
        size = self.window_size**2
        x = F.pad(x, (0, 0, 0, 1)).index_select(1, windows.gather)
        # 3 x (B, windows, heads, N, C / heads)
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.unflatten(1, (-1, size)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        # Fused kernels want four dimensions. All windows share the bias; where they have masks of
        # their own, these are the same for all samples.
        if windows.mask is None:
            fold, mask = (0, 1), bias[None]
        else:
            fold, mask = (1, 2), (windows.mask.to(bias.dtype)[:, None] + bias).flatten(0, 1)[None]
        q, k, v = (t.flatten(*fold) for t in (q, k, v))
        out = attention(q, k, v, mask)
        # In four dimensions: OpenVINO 2026.4 fails at five, two of them free. No -1 where an empty
        # batch would leave it open.
        count = x.shape[1] // size
        out = out.reshape(x.shape[0] * count, self.num_heads, size, q.shape[-1]).transpose(1, 2)
        out = self.proj(out.reshape(x.shape[0], x.shape[1], out.shape[2] * out.shape[3]))
        return out.index_select(1, windows.scatter)
