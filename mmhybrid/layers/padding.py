"""Padding of maps to whole patches and whole windows."""

from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def are_odd(kernel_sizes: Any) -> bool:
    """Whether these are several odd numbers: a kernel of an even size keeps no height and width."""
    return isinstance(kernel_sizes, list | tuple) and all(
        isinstance(size, Integral) and size > 0 and size % 2 for size in kernel_sizes
    )


def pad_to_multiple(x: Tensor, multiple: int, value: float = 0.0) -> Tensor:
    """Pads (B, C, H, W) with ``value`` below and right until ``multiple`` divides H and W."""
    below, right = (count_of(side, multiple) * multiple - side for side in x.shape[-2:])
    return F.pad(x, (0, right, 0, below), value=value)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """Cuts (..., H, W) to its first rows and columns, as a new contiguous tensor."""
    rows = torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


def count_of(side: int, multiple: int) -> int:
    """How many patches or windows of this size it takes to cover a side."""
    # The one way to divide and round up that PyTorch simplifies when sides are symbolic and divided
    # again and again. Others make torch.compile and torch.export very slow.
    return (side - 1) // multiple + 1
