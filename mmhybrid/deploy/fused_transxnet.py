"""TransXNet's block with everything folded that can be folded."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.backbones.transxnet import TransXNetBlock
from mmhybrid.deploy.folding import (
    affine_after,
    affine_before,
    fold_norms,
    identity_added,
    norm_as_affine,
)
from mmhybrid.layers.multi_scale_feed_forward import MultiScaleFeedForward
from mmhybrid.layers.relative_position import RelativePosition


class FusedTransXNetBlock(nn.Module):
    """A :class:`TransXNetBlock` for inference: fewer operations, the same result.

    The residual around the positional convolution is in its kernel. Batch normalisations are in the
    convolutions beside them, both layer scales in the last convolutions of their branches.

    Args:
        block: whose parameters to take.
    """

    def __init__(self, block: TransXNetBlock) -> None:
        super().__init__()
        fold_norms(block)
        self.pos_embed = identity_added(block.pos_embed)
        self.norm1 = block.norm1
        self.norm2 = block.norm2
        self.token_mixer = block.token_mixer
        scale, shift = _layer_scale(block.layer_scale_1)
        # scale * (z + f(z)) + shift: the last convolution of f takes its share, z keeps its own.
        self.token_mixer.proj[-2] = affine_after(self.token_mixer.proj[-2], scale, shift)
        self.scale = nn.Parameter(scale.to(block.layer_scale_1.weight.dtype).view(-1, 1, 1), False)
        self.mlp = FusedMultiScaleFeedForward(block.mlp, *_layer_scale(block.layer_scale_2))

    def forward(self, x: Tensor, position: RelativePosition) -> Tensor:
        x = self.pos_embed(x)
        z = self.token_mixer.mix(self.norm1(x), position)
        x = torch.addcmul(x, z, self.scale).add_(self.token_mixer.proj(z))
        return self.mlp(self.norm2(x)).add_(x)


class FusedMultiScaleFeedForward(nn.Module):
    """A :class:`MultiScaleFeedForward` for inference, its layer scale included.

    One kernel size after the other goes all the way from the input to the output, to which each
    adds its part. The hidden map, four to eight times as large as the input, is never whole in
    memory, nothing is split and nothing joined.

    Args:
        feed_forward: whose parameters to take.
        scale, shift: of the layer scale that follows, per channel.
    """

    def __init__(self, feed_forward: MultiScaleFeedForward, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.shares = feed_forward.dwconv.shares
        self.fc1 = feed_forward.fc1[0]
        dtype = self.fc1.weight.dtype
        norm_scale, norm_shift = norm_as_affine(feed_forward.fc1[2])
        self.norm_scale = nn.Parameter(norm_scale.to(dtype).view(-1, 1, 1), False)
        self.norm_shift = nn.Parameter(norm_shift.to(dtype).view(-1, 1, 1), False)
        self.depthwise = nn.ModuleList(identity_added(conv) for conv in feed_forward.dwconv.proj)
        fc2 = affine_before(*norm_as_affine(feed_forward.norm), feed_forward.fc2[0])
        self.fc2 = affine_after(fc2, scale, shift)

    def forward(self, x: Tensor) -> Tensor:
        out = None
        bias = self.fc2.bias
        parts = zip(
            self.fc1.weight.split(self.shares),
            self.norm_scale.split(self.shares),
            self.norm_shift.split(self.shares),
            self.depthwise,
            self.fc2.weight.split(self.shares, dim=1),
            strict=True,
        )
        for fc1, norm_scale, norm_shift, depthwise, fc2 in parts:
            hidden = F.gelu(F.conv2d(x, fc1))
            hidden = depthwise(torch.addcmul(norm_shift, hidden, norm_scale))
            part = F.conv2d(F.gelu(hidden), fc2, bias)
            out = part if out is None else out.add_(part)
            bias = None
        return out


def _layer_scale(layer_scale: nn.Module) -> tuple[Tensor, Tensor]:
    return layer_scale.weight.double().flatten(), layer_scale.bias.double()
