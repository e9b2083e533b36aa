"""A convolution and its batch normalisation."""

from typing import Any

from torch import Tensor, nn

from mmhybrid.layers.channel_scale import ChannelScale
from mmhybrid.layers.norm import build_norm


class ConvNorm(nn.Module):
    """Convolution without bias, normalisation, optionally an activation.

    mmcv's ``ConvModule`` does the same; a backbone here needs no mmcv.

    Args:
        in_channels, out_channels, kernel_size, stride, groups (int): Of the convolution, which pads
            by half the kernel.
        norm_cfg (dict): Normalisation, see :func:`mmhybrid.layers.norm.build_norm`.
        activation (nn.Module | None): Applied last. Defaults to None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm_cfg: dict[str, Any],
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        if kernel_size == 1 and groups == in_channels == out_channels and stride == 1:
            self.conv = ChannelScale(in_channels, bias=False)
        else:
            self.conv = nn.Conv2d(
                in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False
            )
        self.bn = build_norm(norm_cfg, out_channels)
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.bn(self.conv(x)))
