"""Dual dynamic token mixer (D-Mixer)."""

from typing import Any

import torch
from torch import Tensor, nn

from mmhybrid.errors import ArgumentError
from mmhybrid.layers.conv_norm import prefer_channels_last
from mmhybrid.layers.depthwise_conv import DepthwiseConv
from mmhybrid.layers.dynamic_convolution import InputDependentDepthwiseConv
from mmhybrid.layers.layer_scale import LayerScale
from mmhybrid.layers.lean_training import is_lean, run_lean
from mmhybrid.layers.norm import build_norm
from mmhybrid.layers.overlapping_attention import OverlappingSpatialReductionAttention
from mmhybrid.layers.relative_position import RelativePosition


class DualDynamicTokenMixer(nn.Module):
    """Half of the channels through the dynamic convolution, half through attention, then mixed.

    TransXNet (https://arxiv.org/abs/2310.19380). The mixing is the squeezed token enhancer (STE): a
    3x3 depth-wise convolution and a bottleneck across channels, added to their input.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        sr_ratio: int,
        kernel_size: int,
        num_groups: int,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        if channels % 2:
            raise ArgumentError(f"the mixer halves its channels, and {channels} is odd")
        half = channels // 2
        squeezed = max(16, channels // 8)
        self.local_unit = InputDependentDepthwiseConv(
            half, kernel_size=kernel_size, num_groups=num_groups, norm_cfg=norm_cfg
        )
        self.global_unit = OverlappingSpatialReductionAttention(
            half, num_heads=num_heads, sr_ratio=sr_ratio, norm_cfg=norm_cfg
        )
        self.proj = nn.Sequential(
            DepthwiseConv(channels, 3),
            nn.GELU(),
            build_norm(norm_cfg, channels),
            nn.Conv2d(channels, squeezed, 1),
            nn.GELU(),
            build_norm(norm_cfg, squeezed),
            nn.Conv2d(squeezed, channels, 1),
            build_norm(norm_cfg, channels),
        )

    def forward(
        self, x: Tensor, position: RelativePosition, layer_scale: LayerScale | None = None
    ) -> Tensor:
        """Maps (B, C, H, W) to the same; ``layer_scale`` scales and shifts the output."""
        x = self.mix(x, position)
        if type(layer_scale) is not LayerScale or not is_lean(x, layer_scale):
            out = run_lean(x, self.proj).add_(x)
            return out if layer_scale is None else layer_scale(out)
        # The sum would be one more map to keep, where x is kept already.
        enhanced = run_lean(x, self.proj, layer_scale)
        return torch.addcmul(enhanced, x, layer_scale.weight.view(-1, 1, 1))

    def mix(self, x: Tensor, position: RelativePosition) -> Tensor:
        """The two halves side by side, before the enhancer."""
        # Each half is read several times, so it is taken out once.
        local, distant = (prefer_channels_last(half) for half in x.chunk(2, dim=1))
        return torch.cat([self.local_unit(local), self.global_unit(distant, position)], dim=1)
