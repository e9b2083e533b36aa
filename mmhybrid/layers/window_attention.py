"""Attention within (shifted) windows, of Swin Transformer."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WindowShift(NamedTuple):
    """How far windows are shifted, and what keeps apart what the shift brings together.

    Attributes:
        rows, columns: of the shift.
        mask: (windows, N, N) for windows of N tokens, added to the scores.
    """

    rows: int
    columns: int
    mask: Tensor


def shift_windows(height: int, width: int, window_size: int, device: torch.device) -> WindowShift:
    """Shifts windows by half their size, once for all blocks of a stage.

    A side that fits in one window is not shifted.

    Args:
        height, width: of the map.
        window_size: side of the windows.
        device: of the mask.
    """
    # Written without a branch on the size, so that one exported graph serves all sizes.
    rows = window_size // 2 * torch.sym_min(1, (height - 1) // window_size)
    columns = window_size // 2 * torch.sym_min(1, (width - 1) // window_size)
    regions = 3 * _regions(height, rows, window_size, device)[:, None]
    regions = regions + _regions(width, columns, window_size, device)
    regions = regions.unflatten(1, (-1, window_size)).unflatten(0, (-1, window_size))
    regions = regions.transpose(1, 2).flatten(2).flatten(0, 1)  # (windows, N)
    # The published -100, not minus infinity: pretrained weights know it.
    mask = (regions[:, None] != regions[:, :, None]) * -100.0
    return WindowShift(rows, columns, mask)


def _regions(length: int, shift: int, window_size: int, device: torch.device) -> Tensor:
    """Numbers the positions of a shifted, padded side by the neighbourhood that they come from."""
    length = length + -length % window_size
    place = torch.arange(length, device=device)
    return (place >= length - window_size).long() + (place >= length - shift).long()


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias for each relative position.

    Swin Transformer, https://arxiv.org/abs/2103.14030. Maps that windows do not tile are padded
    with zeros below and on the right.

    Args:
        channels: C of the (B, H, W, C) map.
        num_heads: must divide C.
        window_size: side of the square windows.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{num_heads} heads do not divide {channels} channels")
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        offsets = 2 * window_size - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets**2, num_heads))
        place = torch.arange(window_size**2)
        row, column = place // window_size, place % window_size
        index = (row[:, None] - row + window_size - 1) * offsets
        index = index + column[:, None] - column + window_size - 1
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: Tensor, shift: WindowShift | None = None) -> Tensor:
        """Maps (B, H, W, C) to the same; ``shift`` comes from :func:`shift_windows`."""
        batch, height, width, _ = x.shape
        window, heads = self.window_size, self.num_heads
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        rows, columns = x.shape[1] // window, x.shape[2] // window
        if shift is not None:
            x = x.roll((-shift.rows, -shift.columns), (1, 2))
        # (B, rows * columns, window * window, C)
        x = x.unflatten(2, (columns, window)).unflatten(1, (rows, window)).transpose(2, 3)
        x = x.flatten(3, 4).flatten(1, 2)
        # 3 x (B, windows, heads, window * window, C / heads)
        q, k, v = self.qkv(x).unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        bias = bias.to(q.dtype)
        # Fused kernels want four dimensions. All windows share the bias; where they have masks of
        # their own, these are the same for all samples.
        if shift is None:
            fold, mask = (0, 1), bias[None]
        else:
            fold, mask = (1, 2), (shift.mask.to(q.dtype)[:, None] + bias).flatten(0, 1)[None]
        out = F.scaled_dot_product_attention(*(t.flatten(*fold) for t in (q, k, v)), attn_mask=mask)
        out = out.reshape(q.shape).transpose(2, 3).flatten(3)
        out = self.proj(out).unflatten(1, (rows, columns)).unflatten(3, (window, window))
        out = out.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if shift is not None:
            out = out.roll((shift.rows, shift.columns), (1, 2))
        return out[:, :height, :width]
