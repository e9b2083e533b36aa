"""Feed-forward networks with depth-wise convolutions."""

from typing import Any

import torch
from torch import Tensor, nn

from mmhybrid.layers.conv_norm import ChannelScale
from mmhybrid.layers.depthwise_conv import DepthwiseConv
from mmhybrid.layers.lean_training import run_lean
from mmhybrid.layers.norm import build_norm


class DepthwiseFeedForward(nn.Module):
    """1x1 convolution, 3x3 depth-wise convolution, GELU, 1x1 convolution.

    The form of PVTv2 (https://arxiv.org/abs/2106.13797) and VAN (https://arxiv.org/abs/2202.09741).
    """

    def __init__(self, channels: int, hidden_channels: int, depthwise: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden_channels, 1)
        self.dwconv = DepthwiseConv(hidden_channels, 3) if depthwise else nn.Identity()
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden_channels, channels, 1)

    def forward(self, x: Tensor, *after: nn.Module) -> Tensor:
        """Maps (B, C, H, W) to the same, and runs ``after`` on it."""
        return run_lean(self.dwconv(self.fc1(x)), self.act, self.fc2, *after)


class MultiScaleDepthwiseConv(nn.Module):
    """Depth-wise convolutions of several kernel sizes, each over its share of the channels.

    The first share takes the remainder.
    """

    def __init__(self, channels: int, kernel_sizes: tuple[int, ...] = (1, 3, 5, 7)) -> None:
        super().__init__()
        share = channels // len(kernel_sizes)
        self.shares = [channels - share * (len(kernel_sizes) - 1)]
        self.shares += [share] * (len(kernel_sizes) - 1)
        self.proj = nn.ModuleList(
            DepthwiseConv(width, size) if size > 1 else ChannelScale(width)
            for width, size in zip(self.shares, kernel_sizes, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        shares = zip(self.proj, x.split(self.shares, dim=1), strict=True)
        return torch.cat([conv(share) for conv, share in shares], dim=1)


class MultiScaleFeedForward(nn.Module):
    """Multi-scale feed-forward network (MS-FFN): depth-wise convolutions between its two layers.

    TransXNet (https://arxiv.org/abs/2310.19380).
    """

    def __init__(self, channels: int, hidden_channels: int, *, norm_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(
            nn.Conv2d(channels, hidden_channels, 1, bias=False),
            nn.GELU(),
            build_norm(norm_cfg, hidden_channels),
        )
        self.dwconv = MultiScaleDepthwiseConv(hidden_channels)
        self.act = nn.GELU()
        self.norm = build_norm(norm_cfg, hidden_channels)
        self.fc2 = nn.Sequential(
            nn.Conv2d(hidden_channels, channels, 1, bias=False), build_norm(norm_cfg, channels)
        )

    def forward(self, x: Tensor, *after: nn.Module) -> Tensor:
        """Maps (B, C, H, W) to the same, and runs ``after`` on it."""
        x = run_lean(x, self.fc1, tail=lambda y: self.dwconv(y).add_(y))
        return run_lean(x, self.act, self.norm, self.fc2, *after)
