"""Overlapping spatial reduction attention (OSRA)."""

from typing import Any

from torch import Tensor, nn

from mmhybrid.errors import ArgumentError
from mmhybrid.layers.conv_norm import ConvNorm
from mmhybrid.layers.depthwise_conv import DepthwiseConv
from mmhybrid.layers.relative_position import RelativePosition, attention_with_position


class OverlappingSpatialReductionAttention(nn.Module):
    """Self-attention whose keys and values come from overlapping patches.

    TransXNet (https://arxiv.org/abs/2310.19380). The map that keys and values are made of is
    reduced by a depth-wise convolution with kernel ``sr_ratio + 3`` and stride ``sr_ratio``, then
    refined by a 3x3 depth-wise convolution that is added to it.
    """

    def __init__(
        self, channels: int, *, num_heads: int, sr_ratio: int, norm_cfg: dict[str, Any]
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ArgumentError(f"{num_heads} heads do not divide {channels} channels")
        self.num_heads = num_heads
        self.q = nn.Conv2d(channels, channels, 1)
        self.kv = nn.Conv2d(channels, 2 * channels, 1)
        if sr_ratio > 1:
            self.sr = nn.Sequential(
                ConvNorm(
                    channels,
                    channels,
                    sr_ratio + 3,
                    stride=sr_ratio,
                    groups=channels,
                    norm_cfg=norm_cfg,
                    activation=nn.GELU(),
                ),
                ConvNorm(channels, channels, 1, groups=channels, norm_cfg=norm_cfg),
            )
        else:
            self.sr = nn.Identity()
        self.local_conv = DepthwiseConv(channels, 3)

    def forward(self, x: Tensor, position: RelativePosition) -> Tensor:
        k, v = self.kv(self.reduce(x)).chunk(2, dim=1)
        out = attention_with_position(
            self._split_heads(self.q(x)), self._split_heads(k), self._split_heads(v), position
        )
        return out.transpose(-1, -2).reshape(x.shape)

    def reduce(self, x: Tensor) -> Tensor:
        """The smaller map that keys and values are made of."""
        x = self.sr(x)
        return x + self.local_conv(x)

    def _split_heads(self, x: Tensor) -> Tensor:
        # (B, C, H, W) -> (B, heads, H * W, C / heads). Channels first go last: OpenVINO does not
        # fuse an attention whose values are transposed last (0.8 of the time).
        x = x.permute(0, 2, 3, 1).flatten(1, 2)
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
