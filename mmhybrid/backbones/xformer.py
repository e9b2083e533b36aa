"""XFormer: a light-weight hybrid with cross feature attention. A reconstruction."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmhybrid.backbones.base import HybridBackbone, Stage, resolve_arch
from mmhybrid.backbones.family import Paper
from mmhybrid.errors import ArgumentError
from mmhybrid.layers.conv_norm import ConvNorm
from mmhybrid.layers.cross_feature_attention import CROSS_FEATURE_ATTENTIONS
from mmhybrid.layers.drop_path import DropPath, drop_path_rates
from mmhybrid.layers.initialisation import init_convolutions, init_truncated
from mmhybrid.layers.inverted_residual import InvertedResidual
from mmhybrid.layers.padding import are_odd

ACTIVATIONS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {"hard_swish": nn.Hardswish, "silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU}
)


class EncoderLayer(nn.Module):
    """Attention and a perceptron on (..., N, D), each a residual after a layer normalisation."""

    def __init__(
        self, channels: int, attention: nn.Module, mlp: nn.Module, drop: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = attention
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = mlp
        self.dropout = nn.Dropout(drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.dropout(self.attention(self.norm1(x))))
        return x + self.drop_path(self.dropout(self.mlp(self.norm2(x))))


class XFBlock(nn.Module):
    """Convolutions around encoder layers, as in MobileViT (https://arxiv.org/abs/2110.02178).

    Pixels at the same place of their p x p patch form a group of tokens of their own. A map that p
    does not divide is resized to the next that it divides, and back.

    Encoder ``layers`` have ``embed_dims`` channels, p is ``patch_size``, and
    ``fusion_kernel_size``, odd, is of the convolution that fuses input and result.
    """

    def __init__(
        self,
        channels: int,
        layers: Iterable[nn.Module],
        embed_dims: int,
        patch_size: int,
        fusion_kernel_size: int,
        *,
        activation: Callable[[], nn.Module],
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.local = nn.Sequential(
            ConvNorm(channels, channels, 3, norm_cfg=norm_cfg, activation=activation()),
            nn.Conv2d(channels, embed_dims, 1, bias=False),
        )
        self.layers = nn.Sequential(*layers, nn.LayerNorm(embed_dims))
        self.proj = ConvNorm(embed_dims, channels, 1, norm_cfg=norm_cfg, activation=activation())
        self.fusion = ConvNorm(
            2 * channels, channels, fusion_kernel_size, norm_cfg=norm_cfg, activation=activation()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fusion(torch.cat([x, self.proj(self.encode(self.local(x)))], dim=1))

    def encode(self, x: Tensor) -> Tensor:
        """The encoder layers over (B, D, H, W), any H and W."""
        patch = self.patch_size
        height, width = x.shape[-2:]
        rows, columns = (height + patch - 1) // patch, (width + patch - 1) // patch
        # A compiled graph serves all sizes, so it does not ask whether a map is divisible; resizing
        # to the size that it has changes nothing.
        resized = torch.compiler.is_compiling() or height % patch or width % patch
        if resized:
            x = F.interpolate(x, (rows * patch, columns * patch), mode="bilinear")
        # (B, D, rows * p, columns * p) -> (B, p * p, rows * columns, D). Slices, as torch.export
        # cannot see that a pixel shuffle fits a map of unknown size.
        groups = [x[:, :, i::patch, j::patch] for i in range(patch) for j in range(patch)]
        x = self.layers(torch.stack(groups, dim=1).flatten(3).transpose(2, 3))
        # and back
        x = x.unflatten(2, (rows, columns)).unflatten(1, (patch, patch))
        x = x.permute(0, 5, 3, 1, 4, 2).contiguous().flatten(4).flatten(2, 3)
        return F.interpolate(x, (height, width), mode="bilinear") if resized else x


@MODELS.register_module()
class XFormer(HybridBackbone):
    """A reconstruction of XFormer, https://arxiv.org/abs/2207.07268.

    Light-weight Vision Transformer with Cross Feature Attention; not the library xformers. A stage
    is MobileNetV3 blocks, and from the second on an :class:`XFBlock`; the stem holds the first
    convolution and the first block. No code of the paper is public, nor its table of layers.
    ``docs/reconstructions.md`` says where each default comes from.

    Other arguments: see :class:`HybridBackbone`. ``norm_cfg`` is of convolutions; tokens have layer
    normalisations. ``expand_ratio``, ``kernel_size`` and ``squeeze_excitation`` are of
    :class:`mmhybrid.layers.inverted_residual.InvertedResidual`, ``activation`` follows convolutions
    and ``mlp_activation`` is of perceptrons, as is ``mlp_ratio`` (hidden channels over channels).

    Args:
        arch (str | dict): ``'small'``, or any of its settings: ``stem_channels`` (two),
            ``channels`` (four), ``mobile_depths`` (four, MobileNetV3 blocks a stage),
            ``embed_dims`` and ``xf_depths`` (three each, channels and number of encoder layers).
        drop_rate (float): Dropout rate in encoder layers. Defaults to 0.
        attention (str): ``'cross_covariance'`` or ``'context_score'``, see
            :mod:`mmhybrid.layers.cross_feature_attention`. Their learned ``temperature`` and
            ``scale`` should have no weight decay. Defaults to ``'cross_covariance'``.
        num_heads (int): Heads of ``'cross_covariance'``. Defaults to 4.
        output_projection (bool): Whether a linear layer follows the attention. Defaults to False.
        patch_size (int): 2 lets the four pixels of a 2x2 patch attend in groups of their own, 1
            lets all attend together, at the same cost. Defaults to 2.
        head_channels (int | None): Channels of a 1x1 convolution with normalisation and activation
            after the last stage, for a classifier: 640. Defaults to None, for dense prediction.

    Example:
        >>> from mmhybrid.backbones import XFormer
        >>> XFormer('s').feature_channels
        (64, 96, 128, 160)
    """

    paper = Paper(
        "XFormer",
        "Lightweight Vision Transformer with Cross Feature Attention",
        "https://arxiv.org/abs/2207.07268",
        "mmhybrid/backbones/xformer.py",
        ("Cross Feature Attention",),
    )
    signs = (r"stages\.\d+\.\d+\.fusion\.",)
    classifier_options = MappingProxyType(dict(head_channels=640))
    no_weight_decay = (r"temperature$", r"attention\.scale$")
    # fmt: off
    test_options = MappingProxyType(dict(arch=dict(
        stem_channels=(8, 16), channels=(16, 24, 32, 40), mobile_depths=(1, 1, 1, 1),
        embed_dims=(16, 24, 32), xf_depths=(1, 1, 1))))
    presets = MappingProxyType({
        "small": dict(
            stem_channels=(16, 32), channels=(64, 96, 128, 160), mobile_depths=(3, 1, 1, 1),
            embed_dims=(144, 192, 240), xf_depths=(2, 4, 3)),
    })
    # fmt: on

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "small",
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] = MappingProxyType(dict(type="BN")),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        attention: str = "cross_covariance",
        num_heads: int = 4,
        output_projection: bool = False,
        mlp_ratio: float = 2,
        mlp_activation: str = "silu",
        patch_size: int = 2,
        fusion_kernel_size: int = 3,
        expand_ratio: int = 4,
        kernel_size: int = 3,
        squeeze_excitation: bool = True,
        activation: str = "hard_swish",
        head_channels: int | None = None,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        settings = resolve_arch(arch, self.presets, defaults="small")
        channels = settings["channels"]
        super().__init__(
            channels, (4, 8, 16, 32), out_indices, frozen_stages, norm_eval, with_cp, init_cfg
        )
        for name, size in (
            ("kernel_size", kernel_size),
            ("fusion_kernel_size", fusion_kernel_size),
        ):
            if not are_odd([size]):
                raise ArgumentError(f"{name}={size!r}: give an odd number")
        attention_class = _named(CROSS_FEATURE_ATTENTIONS, "attention", attention)
        activation_class = _named(ACTIVATIONS, "activation", activation)
        mlp_activation_class = _named(ACTIVATIONS, "mlp_activation", mlp_activation)
        mobile = dict(
            expand_ratio=expand_ratio,
            kernel_size=kernel_size,
            squeeze_excitation=squeeze_excitation,
            activation=activation_class,
            norm_cfg=norm_cfg,
        )
        first, second = settings["stem_channels"]
        self.stem = nn.Sequential(
            ConvNorm(
                in_channels, first, 3, stride=2, norm_cfg=norm_cfg, activation=activation_class()
            ),
            InvertedResidual(first, second, **mobile),
        )
        rates = [[], *drop_path_rates(drop_path_rate, settings["xf_depths"])]
        self.stages = nn.ModuleList()
        for stage in range(self.out_indices[-1] + 1):
            dim, depth = channels[stage], settings["mobile_depths"][stage]
            previous = channels[stage - 1] if stage > 0 else second
            blocks = nn.ModuleList([InvertedResidual(previous, dim, stride=2, **mobile)])
            blocks.extend(InvertedResidual(dim, dim, **mobile) for _ in range(depth - 1))
            if stage > 0:
                embed_dims = settings["embed_dims"][stage - 1]
                hidden = int(embed_dims * mlp_ratio)
                layers = []
                for rate in rates[stage]:
                    attending = attention_class(embed_dims, num_heads, output_projection)
                    first, last = nn.Linear(embed_dims, hidden), nn.Linear(hidden, embed_dims)
                    mlp = nn.Sequential(first, mlp_activation_class(), last)
                    layers.append(EncoderLayer(embed_dims, attending, mlp, drop_rate, rate))
                convs = dict(activation=activation_class, norm_cfg=norm_cfg)
                sizes = embed_dims, patch_size, fusion_kernel_size
                blocks.append(XFBlock(dim, layers, *sizes, **convs))
            self.stages.append(blocks)
        self.head = None
        if head_channels is not None:
            if self.out_indices[-1] != self.num_stages - 1:
                raise ArgumentError(
                    f"head_channels={head_channels} widens the last stage, which "
                    f"out_indices={self.out_indices} leaves out; set head_channels=None"
                )
            self.head = ConvNorm(
                channels[-1], head_channels, 1, norm_cfg=norm_cfg, activation=activation_class()
            )
            self.feature_channels = (*self.feature_channels[:-1], head_channels)
            self.stage_channels = (*self.stage_channels[:-1], head_channels)
        init_convolutions(self)
        init_truncated(self, nn.Linear)
        self.freeze_stages()

    def get_stages(self) -> list[Stage]:
        *stages, last = super().get_stages()
        return [*stages, last._replace(output=self.head)]


def _named(choices: Mapping[str, Any], argument: str, name: str) -> Any:
    if name not in choices:
        raise ArgumentError(f"{argument}={name!r} is unknown; choose from {', '.join(choices)}")
    return choices[name]
