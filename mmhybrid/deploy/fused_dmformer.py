"""DMFormer's block with everything folded that can be folded."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.backbones.dmformer import DMFormerBlock
from mmhybrid.deploy.folding import (
    affine_after,
    affine_before,
    fuses,
    is_affine,
    norm_as_affine,
    with_parameters,
)
from mmhybrid.layers.dynamic_multi_level_attention import DynamicMultiLevelAttention


class FusedDMFormerBlock(nn.Module):
    """A :class:`DMFormerBlock`, whose normalisations can be folded, for inference.

    The normalisations before the two branches are in the 1x1 convolutions that read them, that of
    the levels is in the depth-wise convolutions, both layer scales are in the last convolutions of
    their branches. Between the levels and the gate the attention is linear,

        proj(z + reduce(levels)) = [proj reduce, proj] [levels, z],

    so that one 1x1 convolution does the work of two and of the addition.
    """

    def __init__(self, block: DMFormerBlock) -> None:
        super().__init__()
        attention = block.attention
        self.merge = attention.merge
        self.widths = attention.widths
        norm1, norm2 = norm_as_affine(block.norm1), norm_as_affine(block.norm2)
        self.expand = affine_before(*norm1, attention.expand)
        self.branches = _normalised_branches(attention)
        self.proj = _with_layer_scale(_joined_projection(attention, *norm1), block.layer_scale_1)
        self.gate = attention.gate
        if self.gate is not None:
            self.gate[1] = affine_before(*norm1, self.gate[1])
        self.fc1 = affine_before(*norm2, block.mlp.fc1)
        self.dwconv = block.mlp.dwconv
        self.fc2 = _with_layer_scale(block.mlp.fc2, block.layer_scale_2)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.proj(torch.cat([*self.levels(x), x], dim=1))
        x = x + branch if self.gate is None else torch.addcmul(x, branch, self.gate(x))
        return self.fc2(F.gelu(self.dwconv(self.fc1(x)))).add_(x)

    def levels(self, x: Tensor) -> list[Tensor]:
        """What the attention concatenates before it reduces, the activation included."""
        x = self.expand(x)
        inputs = x.split(self.widths, dim=1) if self.merge == "split" else [x] * len(self.widths)
        levels = [branch(part) for branch, part in zip(self.branches, inputs, strict=True)]
        if self.merge == "sum":
            levels = [sum(levels[1:], levels[0])]
        return [level.relu_() for level in levels]


@fuses(DMFormerBlock)
def fused_block(block: DMFormerBlock) -> nn.Module:
    norms = (block.norm1, block.attention.norm, block.norm2)
    return FusedDMFormerBlock(block) if all(map(is_affine, norms)) else block


def _normalised_branches(attention: DynamicMultiLevelAttention) -> nn.ModuleList:
    scale, shift = norm_as_affine(attention.norm)
    count = len(attention.branches)
    if attention.merge == "sum":
        affine = [(scale, shift)] + [(scale, torch.zeros_like(shift))] * (count - 1)
    else:
        affine = zip(scale.split(attention.widths), shift.split(attention.widths), strict=True)
    return nn.ModuleList(
        affine_after(branch, *both) for branch, both in zip(attention.branches, affine, strict=True)
    )


def _joined_projection(
    attention: DynamicMultiLevelAttention, scale: Tensor, shift: Tensor
) -> nn.Conv2d:
    """The 1x1 convolution of levels and x: ``proj(scale * x + shift + reduce(levels))``."""
    reduce, proj = attention.reduce, attention.proj
    weight = torch.cat([reduce.weight.double().flatten(1), torch.diag(scale)], dim=1)
    bias = reduce.bias.double() + shift
    if isinstance(proj, nn.Conv2d):
        matrix = proj.weight.double().flatten(1)
        weight, bias = matrix @ weight, matrix @ bias + proj.bias.double()
    return with_parameters(reduce, weight[..., None, None], bias)


def _with_layer_scale(conv: nn.Conv2d, layer_scale: nn.Module) -> nn.Conv2d:
    if isinstance(layer_scale, nn.Identity):
        return conv
    scale = layer_scale.weight.double().flatten()
    return affine_after(conv, scale, torch.zeros_like(scale))
