"""TransXNet with everything folded that can be folded, and its positions fitted once."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from mmhybrid.backbones.transxnet import TransXNet, TransXNetBlock
from mmhybrid.deploy.folding import (
    affine_after,
    affine_before,
    fold_norms,
    fuses,
    identity_added,
    is_affine,
    merged_depthwise,
    norm_as_affine,
)
from mmhybrid.layers.depthwise_feed_forwards import MultiScaleFeedForward
from mmhybrid.layers.dynamic_convolution import InputDependentDepthwiseConv
from mmhybrid.layers.overlapping_attention import OverlappingSpatialReductionAttention
from mmhybrid.layers.relative_position import RelativePosition

# Positions up to which the merged kernel is faster, on two threads of a CPU.
LARGEST_MERGED_MAP = 64 * 64


class FusedTransXNetBlock(nn.Module):
    """A :class:`TransXNetBlock`, whose normalisations can be folded, for inference.

    The residual around the positional convolution is in its kernel. Batch normalisations are in the
    convolutions beside them, both layer scales in the last convolutions of their branches. Under
    autocast the residual stream takes the precision of the convolutions.
    """

    def __init__(self, block: TransXNetBlock) -> None:
        super().__init__()
        fold_norms(block)
        self.pos_embed = identity_added(block.pos_embed)
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.token_mixer = mixer = block.token_mixer
        mixer.local_unit = FusedInputDependentDepthwiseConv(mixer.local_unit)
        mixer.global_unit = FusedOverlappingAttention(mixer.global_unit)
        scale, shift = _layer_scale(block.layer_scale_1)
        # scale * (z + f(z)) + shift: the last convolution of f takes its share, z keeps its own.
        mixer.proj[-2] = affine_after(mixer.proj[-2], scale, shift)
        self.scale = _frozen(scale.to(block.layer_scale_1.weight.dtype).view(-1, 1, 1))
        self.mlp = FusedMultiScaleFeedForward(block.mlp, *_layer_scale(block.layer_scale_2))

    def forward(self, x: Tensor, position: RelativePosition) -> Tensor:
        x = self.pos_embed(x)
        z = self.token_mixer.mix(self.norm1(x), position)
        x = torch.addcmul(x, z, self.scale).add_(self.token_mixer.proj(z))
        return self.mlp(self.norm2(x)).add_(x)


@fuses(TransXNetBlock)
def fused_block(block: TransXNetBlock) -> nn.Module:
    # All its normalisations are alike.
    return FusedTransXNetBlock(block) if is_affine(block.mlp.norm) else block


@fuses(TransXNet)
def with_cached_positions(backbone: TransXNet) -> TransXNet:
    backbone.relative_position = CachedRelativePosition(backbone)
    return backbone


class CachedRelativePosition:
    """Takes the place of :meth:`TransXNet.relative_position` in a fused model.

    That does not change, so what was fitted for the last image size serves the next image of it.
    """

    def __init__(self, backbone: TransXNet) -> None:
        self.backbone = backbone
        self.fit = backbone.relative_position
        self.kept: dict[int, tuple[tuple, RelativePosition]] = {}

    def __call__(self, stage: int, height: int, width: int) -> RelativePosition:
        if torch.compiler.is_compiling():
            return self.fit(stage, height, width)
        table = self.backbone.relative_pos_enc[stage]
        # What it was made of and for; loading other weights changes the version.
        made_for = (height, width, table.device, table.dtype, table.data_ptr(), table._version)
        # Another thread may put another size there at any moment.
        kept = self.kept.get(stage)
        if kept is None or kept[0] != made_for:
            kept = None
            self.kept.pop(stage, None)
            # Tensors of inference mode could not be used outside of it.
            with torch.inference_mode(False), torch.no_grad():
                position = self.fit(stage, height, width)
            if any(isinstance(part, FakeTensor) for part in position):  # someone counts
                return position
            kept = self.kept[stage] = made_for, position
        return kept[1]


class FusedInputDependentDepthwiseConv(InputDependentDepthwiseConv):
    """The dynamic convolution with a gate of two linear layers and a bank in one tensor."""

    def __init__(self, conv: InputDependentDepthwiseConv) -> None:
        nn.Module.__init__(self)
        self.kernel_size = conv.kernel_size
        self.num_groups = conv.num_groups
        squeeze, excite = conv.proj[0].conv, conv.proj[1]
        self.squeeze_weight, self.squeeze_bias = _frozen(squeeze.weight.flatten(1)), squeeze.bias
        self.excite_weight, self.excite_bias = _frozen(excite.weight.flatten(1)), excite.bias
        bank = torch.cat([conv.weight.flatten(2), conv.bias.unsqueeze(-1)], dim=2)
        self.bank = _frozen(bank.permute(2, 0, 1))  # (K * K + 1, G, C)

    def kernels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size = self.kernel_size
        pooled = F.adaptive_avg_pool2d(x, size).flatten(2).transpose(1, 2)  # (B, K * K, C)
        pooled = torch.cat([pooled, x.mean(dim=(2, 3)).unsqueeze(1)], dim=1)
        gate = F.gelu(F.linear(pooled, self.squeeze_weight, self.squeeze_bias))
        gate = F.linear(gate, self.excite_weight, self.excite_bias)
        gate = gate.unflatten(-1, (self.num_groups, -1)).softmax(dim=2)
        mixed = (gate * self.bank).sum(dim=2)  # (B, K * K + 1, C)
        kernels = mixed[:, :-1].transpose(1, 2).unflatten(-1, (size, size))
        return kernels, mixed[:, -1]


class FusedOverlappingAttention(OverlappingSpatialReductionAttention):
    """The attention for inference: what makes its map smaller is two convolutions."""

    def __init__(self, attention: OverlappingSpatialReductionAttention) -> None:
        nn.Module.__init__(self)
        self.num_heads = attention.num_heads
        self.q, self.kv = attention.q, attention.kv
        self.local_conv = identity_added(attention.local_conv)
        self.shrink = None
        if not isinstance(attention.sr, nn.Identity):
            self.shrink = attention.sr[0].conv
            scaling = attention.sr[1].conv  # depth-wise and 1x1: a scale and a shift
            self.scale = _frozen(scaling.weight.view(-1, 1, 1))
            self.shift = _frozen(scaling.bias.view(-1, 1, 1))

    def reduce(self, x: Tensor) -> Tensor:
        if self.shrink is not None:
            x = torch.addcmul(self.shift, F.gelu(self.shrink(x)), self.scale)
        return self.local_conv(x)


class FusedMultiScaleFeedForward(nn.Module):
    """A :class:`MultiScaleFeedForward` for inference, its layer scale included.

    On a large map one kernel size after the other goes all the way from the input to the output, to
    which each adds its part: the hidden map, four to eight times as large, is never whole in
    memory. On a small map the number of operations matters: the kernels, padded to one size, are
    one.
    """

    def __init__(self, feed_forward: MultiScaleFeedForward, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.shares = feed_forward.dwconv.shares
        self.fc1 = feed_forward.fc1[0]
        affine = norm_as_affine(feed_forward.fc1[2])
        self.norm_scale, self.norm_shift = (
            _frozen(one.to(self.fc1.weight.dtype).view(-1, 1, 1)) for one in affine
        )
        self.depthwise = nn.ModuleList(identity_added(conv) for conv in feed_forward.dwconv.proj)
        fc2 = affine_before(*norm_as_affine(feed_forward.norm), feed_forward.fc2[0])
        self.fc2 = affine_after(fc2, scale, shift)
        self.merged = merged_depthwise(self.depthwise)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.shape[-2] * x.shape[-1]
        # An exported graph for all sizes cannot choose.
        is_unknown = torch.compiler.is_exporting() and not isinstance(pixels, int)
        if is_unknown or pixels <= LARGEST_MERGED_MAP:
            hidden = torch.addcmul(self.norm_shift, F.gelu(self.fc1(x)), self.norm_scale)
            return self.fc2(F.gelu(self.merged(hidden)))
        out, bias = None, self.fc2.bias
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


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().contiguous(), requires_grad=False)


def _layer_scale(layer_scale: nn.Module) -> tuple[Tensor, Tensor]:
    return layer_scale.weight.double().flatten(), layer_scale.bias.double()
