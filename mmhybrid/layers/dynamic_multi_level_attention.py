"""Dynamic multi-level attention (DMA)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmhybrid.errors import ArgumentError
from mmhybrid.layers.channel_gate import ChannelGate, convolve_each
from mmhybrid.layers.depthwise_conv import DepthwiseConv
from mmhybrid.layers.layer_scale import LayerScale
from mmhybrid.layers.lean_training import is_lean, run_lean
from mmhybrid.layers.norm import build_norm
from mmhybrid.layers.padding import are_odd

MERGES = ("concat", "sum", "split")


class DynamicMultiLevelAttention(nn.Module):
    r"""Parallel dilated depth-wise convolutions, fused and weighted by a gate over channels.

    A reconstruction of the attention of DMFormer (https://arxiv.org/abs/2209.07738), from readers'
    accounts of the paper: with input :math:`X`,

    .. math:: X' &= X + Conv_{1x1}(ReLU(BN(merge_i\, DW_i(Conv_{1x1}(X))))) \\
              Y &= Sigmoid(FC(ReLU(FC(mean(X))))) \cdot Conv_{1x1}(X')

    ``docs/reconstructions.md`` says of each argument why it is what it is.

    Args:
        channels (int): C of the (B, C, H, W) input and output.
        expand (int): Channels of the first 1x1 convolution over C. Defaults to 1.
        merge (str): ``'concat'`` and ``'sum'`` give every branch all channels, and concatenate or
            add what they make of them; ``'split'`` gives each branch a share of the channels, the
            first one the remainder. Defaults to ``'concat'``.
        kernel_sizes, dilations (Sequence[int]): Of the branches; kernel sizes are odd. Default to
            (3, 5, 7) and (1, 2, 3).
        gate_reduction (int | None): C over hidden channels of the gate; None for no gate. Defaults
            to 8.
        output_conv (bool): Whether a 1x1 convolution follows the inner residual. Defaults to True.
        norm_cfg (dict): Normalisation after the branches.
    """

    def __init__(
        self,
        channels: int,
        *,
        expand: int = 1,
        merge: str = "concat",
        kernel_sizes: Sequence[int] = (3, 5, 7),
        dilations: Sequence[int] = (1, 2, 3),
        gate_reduction: int | None = 8,
        output_conv: bool = True,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        if merge not in MERGES:
            raise ArgumentError(f"merge={merge!r} is unknown; choose from {', '.join(MERGES)}")
        if len(kernel_sizes) != len(dilations):
            raise ArgumentError(
                f"kernel_sizes={tuple(kernel_sizes)} and dilations={tuple(dilations)} differ in "
                "number; give one of each a branch"
            )
        if not are_odd(kernel_sizes):
            raise ArgumentError(f"kernel_sizes={kernel_sizes!r}: give odd numbers")
        self.merge = merge
        expanded = expand * channels
        branches = len(kernel_sizes)
        if merge == "split":
            share = expanded // branches
            self.widths = [expanded - share * (branches - 1)] + [share] * (branches - 1)
        else:
            self.widths = [expanded] * branches
        merged = expanded if merge == "sum" else sum(self.widths)
        self.expand = nn.Conv2d(channels, expanded, 1)
        self.branches = nn.ModuleList(
            DepthwiseConv(width, size, dilation)
            for width, size, dilation in zip(self.widths, kernel_sizes, dilations, strict=True)
        )
        self.norm = build_norm(norm_cfg, merged)
        self.act = nn.ReLU()
        self.reduce = nn.Conv2d(merged, channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1) if output_conv else nn.Identity()
        self.gate = None
        if gate_reduction:
            self.gate = ChannelGate(channels, max(channels // gate_reduction, 1), nn.Sigmoid())

    def levels(self, x: Tensor) -> Tensor:
        """The merged output of the branches: (B, C, H, W) to (B, M, H, W)."""
        x = self.expand(x)
        inputs = x.split(self.widths, dim=1) if self.merge == "split" else [x] * len(self.widths)
        levels = [branch(part) for branch, part in zip(self.branches, inputs, strict=True)]
        return sum(levels[1:], levels[0]) if self.merge == "sum" else torch.cat(levels, dim=1)

    def forward(self, x: Tensor, layer_scale: nn.Module | None = None) -> Tensor:
        """Maps (B, C, H, W) to the same; ``layer_scale`` is of the output."""
        layer_scale = layer_scale or nn.Identity()
        fused = x + run_lean(self.levels(x), self.norm, self.act, self.reduce)
        if self.gate is None:
            return layer_scale(self.proj(fused))
        gate, proj = self.gate(x), self.proj
        is_factor = type(layer_scale) is LayerScale and layer_scale.bias is None
        is_plain = type(proj) is nn.Conv2d and proj.bias is not None
        if not (is_factor and is_plain and is_lean(x, proj, layer_scale)):
            return layer_scale(proj(fused) * gate)
        gate = layer_scale(gate).flatten(1)  # (B, C)
        return convolve_each(fused, proj.weight.flatten(1) * gate[..., None], proj.bias * gate)
