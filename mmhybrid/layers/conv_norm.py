"""A convolution and its batch normalisation, and what makes convolutions fast."""

from typing import Any

import torch
from torch import Tensor, nn

from mmhybrid.layers.norm import build_norm


def prefer_channels_last(x: Tensor) -> Tensor:
    """Puts (B, C, H, W) into the memory format in which a whole network runs fastest.

    A CPU's convolutions work on blocks of channels: channels last they read and write their maps as
    they are, otherwise they reorder them before and after. What follows keeps the format. On other
    devices the format of the input stays, so that ``model.to(memory_format=...)`` decides.
    """
    if x.device.type != "cpu" or torch.compiler.is_exporting():
        return x
    # Not contiguous(memory_format=...), which torch.func.vmap does not know.
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


class ChannelScale(nn.Conv2d):
    """A depth-wise 1x1 convolution, as the multiplication ``weight * x + bias`` that it is.

    PyTorch may run it as one matrix product a channel, which is many times as slow.
    """

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__(channels, channels, 1, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        # As a convolution under autocast, the result keeps the precision of the input.
        weight = self.weight.view(-1, 1, 1).to(x.dtype)
        if self.bias is None:
            return x * weight
        return torch.addcmul(self.bias.view(-1, 1, 1).to(x.dtype), x, weight)


class ConvNorm(nn.Module):
    """Convolution without bias that pads by half its kernel, normalisation, maybe an activation.

    mmcv's ``ConvModule`` does the same; a backbone here needs no mmcv.
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
        if kernel_size == 1 and groups == in_channels == out_channels and stride == 1:
            self.conv = ChannelScale(in_channels, bias=False)
        else:
            shape = in_channels, out_channels, kernel_size, stride, kernel_size // 2
            self.conv = nn.Conv2d(*shape, groups=groups, bias=False)
        self.bn = build_norm(norm_cfg, out_channels)
        self.activation = activation or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.bn(self.conv(x)))
