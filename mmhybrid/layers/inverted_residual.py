"""The block of MobileNetV3."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mmhybrid.layers.channel_gate import ChannelGate, convolve_each
from mmhybrid.layers.conv_norm import ConvNorm
from mmhybrid.layers.lean_training import is_lean, run_lean


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depth-wise one, squeeze and excitation, 1x1 to fewer.

    MobileNetV3 (https://arxiv.org/abs/1905.02244). The input is added where the shapes agree.

    Args:
        stride, kernel_size (int): Of the depth-wise convolution. Default to 1 and 3.
        expand_ratio (int): Hidden channels over ``in_channels``. Defaults to 4.
        squeeze_excitation (bool): Whether hidden channels are weighted by a gate of a quarter of
            them, rounded to a multiple of 8. Defaults to True.
        activation (Callable[[], nn.Module]): Makes what follows the first two convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        expand_ratio: int = 4,
        kernel_size: int = 3,
        squeeze_excitation: bool = True,
        activation: Callable[[], nn.Module] = nn.Hardswish,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        hidden = expand_ratio * in_channels
        self.has_residual = stride == 1 and in_channels == out_channels
        self.expand = ConvNorm(in_channels, hidden, 1, norm_cfg=norm_cfg, activation=activation())
        self.dwconv = ConvNorm(
            hidden,
            hidden,
            kernel_size,
            stride=stride,
            groups=hidden,
            norm_cfg=norm_cfg,
            activation=activation(),
        )
        squeezed = max(8, (hidden // 4 + 4) // 8 * 8)
        self.gate = ChannelGate(hidden, squeezed, nn.Hardsigmoid()) if squeeze_excitation else None
        self.reduce = ConvNorm(hidden, out_channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        out = run_lean(x, self.expand, self.dwconv, tail=self._gated)
        return x + out if self.has_residual else out

    def _gated(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.reduce(x)
        gate, conv = self.gate(x), self.reduce.conv
        is_plain = type(self.reduce) is ConvNorm and type(conv) is nn.Conv2d and conv.bias is None
        if not is_plain or not is_lean(x, self.reduce, conv):
            return self.reduce(x * gate)
        weight = conv.weight.flatten(1) * gate.flatten(2).mT  # (B, O, C)
        return self.reduce.activation(self.reduce.bn(convolve_each(x, weight)))
