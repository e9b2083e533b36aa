"""DMFormer: dynamic multi-level attention in place of self-attention. A reconstruction."""

from collections.abc import Mapping, Sequence
from functools import partial
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
from mmhybrid.layers.depthwise_feed_forwards import DepthwiseFeedForward
from mmhybrid.layers.drop_path import DropPath, drop_path_rates
from mmhybrid.layers.dynamic_multi_level_attention import DynamicMultiLevelAttention
from mmhybrid.layers.initialisation import init_convolutions
from mmhybrid.layers.layer_scale import LayerScale
from mmhybrid.layers.lean_training import run_lean
from mmhybrid.layers.norm import build_norm

WIDTHS = (64, 128, 320, 512)  # of both presets


class DMFormerBlock(nn.Module):
    """Dynamic multi-level attention and a feed-forward network, each a residual after a norm.

    Arguments are those of :class:`DMFormer` and, ``attention``, of
    :class:`DynamicMultiLevelAttention`.
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: float,
        drop_path_rate: float,
        *,
        depthwise_ffn: bool,
        layer_scale_init: float | None,
        block_norm_cfg: dict[str, Any],
        **attention: Any,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm(block_norm_cfg, channels)
        self.attention = DynamicMultiLevelAttention(channels, **attention)
        self.norm2 = build_norm(block_norm_cfg, channels)
        self.mlp = DepthwiseFeedForward(channels, int(channels * mlp_ratio), depthwise_ffn)
        self.drop_path = DropPath(drop_path_rate)
        scaled = layer_scale_init is not None
        self.layer_scale_1, self.layer_scale_2 = (
            LayerScale(channels, layer_scale_init, bias=False) if scaled else nn.Identity()
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        mixed = run_lean(x, self.norm1, tail=lambda y: self.attention(y, self.layer_scale_1))
        x = x + self.drop_path(mixed)
        made = run_lean(x, self.norm2, tail=lambda y: self.mlp(y, self.layer_scale_2))
        return x + self.drop_path(made)


@MODELS.register_module()
class DMFormer(HybridBackbone):
    """A reconstruction of DMFormer, https://arxiv.org/abs/2209.07738 (ICASSP 2023).

    No code of the paper is public, nor its table of layers. ``docs/reconstructions.md`` says where
    each default comes from.

    Other arguments: see :class:`HybridBackbone`, and for ``expand`` to ``output_conv``
    :class:`mmhybrid.layers.dynamic_multi_level_attention.DynamicMultiLevelAttention`.

    Args:
        arch (str | dict): ``'small'`` or ``'large'``, or any of the settings of :attr:`presets`,
            each a tuple of four. Defaults to ``'small'``.
        block_norm_cfg (dict | None): Normalisations before attention and feed-forward network,
            e.g. ``dict(type='LN2d')``. Defaults to None, which is ``norm_cfg``.
        layer_scale_init (float | None): Initial scale of the residuals; None for no scale. Defaults
            to 1e-2.
        depthwise_ffn (bool): Whether the feed-forward network has a depth-wise convolution.
        stem_convs (int): Number of 3x3 convolutions in the stem. Defaults to 1.
        downsample_kernel (int): 3 or 2, of the convolutions between stages. Defaults to 3.

    Example:
        >>> from mmhybrid.backbones import DMFormer
        >>> DMFormer('s').feature_channels
        (64, 128, 320, 512)
    """

    paper = Paper(
        "DMFormer",
        "DMFormer: Closing the Gap Between CNN and Vision Transformers",
        "https://arxiv.org/abs/2209.07738",
        "mmhybrid/backbones/dmformer.py",
        ("Dynamic Multi-level Attention",),
    )
    signs = (r"stages\.\d+\.\d+\.attention\.branches\.\d",)
    test_options = MappingProxyType(
        dict(arch=dict(embed_dims=(16, 32, 48, 64), depths=(2, 1, 1, 1)))
    )
    presets = MappingProxyType(
        {
            "small": dict(embed_dims=WIDTHS, depths=(3, 3, 12, 3), mlp_ratios=(3, 3, 3, 3)),
            "large": dict(embed_dims=WIDTHS, depths=(3, 5, 27, 3), mlp_ratios=(3, 3, 3, 3)),
        }
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "small",
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] = MappingProxyType(dict(type="BN")),
        block_norm_cfg: dict[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        layer_scale_init: float | None = 1e-2,
        expand: int = 1,
        merge: str = "concat",
        kernel_sizes: Sequence[int] = (3, 5, 7),
        dilations: Sequence[int] = (1, 2, 3),
        gate_reduction: int | None = 8,
        output_conv: bool = True,
        depthwise_ffn: bool = True,
        stem_convs: int = 1,
        downsample_kernel: int = 3,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        settings = resolve_arch(arch, self.presets, defaults="small")
        self.depths = settings["depths"]
        dims = settings["embed_dims"]
        super().__init__(
            dims, (4, 8, 16, 32), out_indices, frozen_stages, norm_eval, with_cp, init_cfg
        )
        if downsample_kernel not in (2, 3):
            raise ArgumentError(f"downsample_kernel={downsample_kernel}: choose 2 or 3")
        convs = [
            ConvNorm(dims[0], dims[0], 3, norm_cfg=norm_cfg, activation=nn.ReLU())
            for _ in range(stem_convs)
        ]
        self.stem = nn.Sequential(
            ConvNorm(in_channels, dims[0], 7, stride=2, norm_cfg=norm_cfg, activation=nn.ReLU()),
            *convs,
            *strided_conv(dims[0], dims[0], 2, norm_cfg),
        )
        built = range(self.out_indices[-1] + 1)
        self.downsamplings = nn.ModuleList(
            strided_conv(dims[i - 1], dims[i], downsample_kernel, norm_cfg) for i in built[1:]
        )
        block = partial(
            DMFormerBlock,
            depthwise_ffn=depthwise_ffn,
            layer_scale_init=layer_scale_init,
            block_norm_cfg=block_norm_cfg or norm_cfg,
            expand=expand,
            merge=merge,
            kernel_sizes=kernel_sizes,
            dilations=dilations,
            gate_reduction=gate_reduction,
            output_conv=output_conv,
            norm_cfg=norm_cfg,
        )
        rates = drop_path_rates(drop_path_rate, self.depths)
        ratios = settings["mlp_ratios"]
        self.stages = nn.ModuleList(
            nn.ModuleList(block(dims[i], ratios[i], rate) for rate in rates[i]) for i in built
        )
        self.norms = nn.ModuleList(build_norm(norm_cfg, dims[i]) for i in built)
        init_convolutions(self)
        self.freeze_stages()

    def get_stages(self) -> list[Stage]:
        # The next stage too starts from the normalised map, as in VAN: the norm is one more block.
        return [
            Stage([*blocks, self.norms[i]], downsample=self.downsamplings[i - 1] if i > 0 else None)
            for i, blocks in enumerate(self.stages)
        ]


class PadRim(nn.Module):
    """Zeros to the right of and below an odd map, whose rim a 2x2 convolution would drop."""

    def forward(self, x: Tensor) -> Tensor:
        # A compiled graph serves all sizes, so it does not ask; the rim of an even map is not read.
        if not torch.compiler.is_compiling() and x.shape[-2] % 2 == x.shape[-1] % 2 == 0:
            return x
        return F.pad(x, (0, 1, 0, 1))


def strided_conv(
    in_channels: int, channels: int, kernel_size: int, norm_cfg: dict[str, Any]
) -> nn.Sequential:
    """A convolution of stride 2 that halves a map, rounded up, and its normalisation."""
    return nn.Sequential(
        PadRim() if kernel_size == 2 else nn.Identity(),
        nn.Conv2d(in_channels, channels, kernel_size, stride=2, padding=(kernel_size - 1) // 2),
        build_norm(norm_cfg, channels),
    )
