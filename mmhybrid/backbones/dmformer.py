"""DMFormer: dynamic multi-level attention in place of self-attention. A reconstruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from mmhybrid.layers.depthwise_feed_forward import DepthwiseFeedForward
from mmhybrid.layers.drop_path import DropPath, drop_path_rates
from mmhybrid.layers.dynamic_multi_level_attention import DynamicMultiLevelAttention
from mmhybrid.layers.initialisation import init_convolutions
from mmhybrid.layers.layer_scale import LayerScale
from mmhybrid.layers.norm import build_norm


class DMFormerBlock(nn.Module):
    """Dynamic multi-level attention and a feed-forward network, each a residual after a norm.

    Args:
        channels: C of the (B, C, H, W) input and output.
        mlp_ratio: hidden channels of the feed-forward network over C.
        depthwise_ffn: whether the feed-forward network has a depth-wise convolution.
        drop_path_rate: of both residuals.
        layer_scale_init: of both residuals; None for no scale.
        block_norm_cfg: of the normalisations before the residual branches.
        **attention: of
            :class:`mmhybrid.layers.dynamic_multi_level_attention.DynamicMultiLevelAttention`.
    """

    def __init__(
        self,
        channels: int,
        *,
        mlp_ratio: float,
        depthwise_ffn: bool,
        drop_path_rate: float,
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
        x = x + self.drop_path(self.layer_scale_1(self.attention(self.norm1(x))))
        return x + self.drop_path(self.layer_scale_2(self.mlp(self.norm2(x))))


@MODELS.register_module()
class DMFormer(HybridBackbone):
    """A reconstruction of DMFormer, https://arxiv.org/abs/2209.07738 (ICASSP 2023).

    No code of the paper is public. What is built here follows the abstracts of its versions (the
    first calls the model ConvFormer) and readers' accounts, not the full text. They give

    * the stem: 7x7 convolution of stride 2, 3x3, 2x2 of stride 2;
    * the gate of the attention: mean, FC, ReLU, FC, sigmoid, times a 1x1 convolution of the fused
      levels;
    * for the first version: 1x1 convolution that expands, parallel depth-wise 3x3, 5x5 and 7x7
      convolutions with dilations 1, 2 and 3, batch normalisation, ReLU, 1x1 convolution that
      reduces, and a residual inside the attention;
    * that it takes the place of self-attention in a transformer block.

    They do not give widths, depths, hidden ratios, how levels are merged, nor the totals of the
    paper's table. The presets take widths and depths of VAN (https://arxiv.org/abs/2202.09741). Of
    all settings that were tried on those, only these meet the parameters and multiply-accumulates
    that are recalled for both sizes, without a source at hand: 26.7 M, 5.0 G and 45.0 M, 8.7 G.
    Every choice is an argument: whoever has the paper can set it right in a config.

    ======= =========================== ================= =================
    preset  parameters, 1000 classes    GMACs at 224x224  GMACs at 512x512
    ======= =========================== ================= =================
    small   26,670,736                  4.947             25.84
    large   45,007,624                  8.667             45.27
    ======= =========================== ================= =================

    Args:
        arch: ``'small'`` or ``'large'`` (short ``'s'``, ``'l'``), or a dict with any of the
            settings ``embed_dims``, ``depths`` and ``mlp_ratios``, each a tuple of four; the rest
            is taken from ``'small'``. Reconstruction: the paper's stage table is not known, and
            widths and depths are VAN's; the ratio of 3 is what the totals ask for.
        in_channels: channels of the images.
        out_indices: stages to return, at strides 4, 8, 16 and 32. Later ones are not built.
        frozen_stages: -1 trains everything, 0 freezes the stem, k freezes the stem and the first k
            stages.
        norm_eval: keep the running statistics of batch normalisations as they are in training.
        norm_cfg: of all normalisations, e.g. ``dict(type='BN')`` or ``dict(type='SyncBN')``. Batch
            normalisation inside the attention is in readers' accounts; elsewhere it follows VAN.
        block_norm_cfg: of the normalisations before attention and feed-forward network;
            ``norm_cfg`` if None. Reconstruction: not known; batch normalisation as inside the
            attention and in VAN. ``dict(type='LN2d')`` is the other candidate.
        drop_path_rate: of the last block, rising linearly from 0. The paper's is not known; VAN's
            are 0.1 (small) and 0.2 (large) for ImageNet.
        layer_scale_init: initial scale of the residuals; None for no scale. Reconstruction: nothing
            says that there is one; 1e-2 is VAN's.
        expand: channels that the expanding 1x1 convolution makes, over its input's. Readers name
            the convolution, not the factor; 1 fits the recalled totals.
        merge: ``'concat'``, ``'sum'`` or ``'split'``, how the levels meet; see
            :class:`mmhybrid.layers.dynamic_multi_level_attention.DynamicMultiLevelAttention`.
            Reconstruction: not known; ``'concat'`` fits the recalled totals.
        kernel_sizes: of the levels. Readers give 3, 5 and 7 for the first version of the paper.
        dilations: of the levels. Readers give 1, 2 and 3 for the first version of the paper.
        gate_reduction: channels over hidden channels of the gate; None for no gate. Readers give
            the gate, and call it light, not the number; 8 fits the recalled totals.
        output_conv: whether the 1x1 convolution comes after the inner residual. It is in a reader's
            equations.
        depthwise_ffn: whether the feed-forward network has a 3x3 depth-wise convolution, as VAN's.
            Reconstruction: not known.
        stem_convs: 3x3 convolutions in the stem. Readers give 1; batch normalisation and ReLU
            after each follow the Shunted Transformer (https://arxiv.org/abs/2111.15193), whose stem
            is the same.
        downsample_kernel: 3 (overlapping) or 2, of the convolutions of stride 2 between stages.
            Reconstruction: not known; 3 as in VAN.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
        init_cfg: MMEngine's, e.g. ``dict(type='Pretrained', checkpoint=...)``. Without it,
            convolutions start from a normal distribution scaled to their outputs, as in VAN.

    Example:
        >>> import torch
        >>> from mmhybrid.backbones import DMFormer
        >>> [tuple(y.shape) for y in DMFormer('s')(torch.zeros(2, 3, 64, 64))]
        [(2, 64, 16, 16), (2, 128, 8, 8), (2, 320, 4, 4), (2, 512, 2, 2)]
    """

    paper = Paper(
        "DMFormer",
        "DMFormer: Closing the Gap Between CNN and Vision Transformers",
        "https://arxiv.org/abs/2209.07738",
        "mmhybrid/backbones/dmformer.py",
        ("Dynamic Multi-level Attention",),
    )
    signs = (r"stages\.\d+\.\d+\.attention\.branches\.\d",)
    test_options: Mapping[str, Any] = MappingProxyType(
        dict(arch=dict(embed_dims=(16, 32, 48, 64), depths=(2, 1, 1, 1)))
    )
    # fmt: off
    presets: Mapping[str, Mapping[str, tuple[int, ...]]] = MappingProxyType({
        "small": dict(
            embed_dims=(64, 128, 320, 512), depths=(3, 3, 12, 3), mlp_ratios=(3, 3, 3, 3)),
        "large": dict(
            embed_dims=(64, 128, 320, 512), depths=(3, 5, 27, 3), mlp_ratios=(3, 3, 3, 3)),
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
            channels=dims,
            strides=(4, 8, 16, 32),
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        if downsample_kernel not in (2, 3):
            raise ArgumentError(f"downsample_kernel={downsample_kernel}: choose 2 or 3")
        self.stem = stem(in_channels, dims[0], stem_convs, norm_cfg)
        last = self.out_indices[-1]
        self.downsamplings = nn.ModuleList(
            strided_conv(dims[i], dims[i + 1], downsample_kernel, norm_cfg) for i in range(last)
        )
        rates = drop_path_rates(drop_path_rate, self.depths)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                DMFormerBlock(
                    dim,
                    mlp_ratio=mlp_ratio,
                    depthwise_ffn=depthwise_ffn,
                    drop_path_rate=rate,
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
                for rate in stage_rates
            )
            for dim, mlp_ratio, stage_rates in list(
                zip(dims, settings["mlp_ratios"], rates, strict=True)
            )[: last + 1]
        )
        self.norms = nn.ModuleList(build_norm(norm_cfg, dim) for dim in dims[: last + 1])
        init_convolutions(self)
        self.freeze_stages()

    def get_stages(self) -> list[Stage]:
        # The next stage too starts from the normalised map, as in VAN: the norm is one more block.
        return [
            Stage([*blocks, self.norms[i]], downsample=self.downsamplings[i - 1] if i > 0 else None)
            for i, blocks in enumerate(self.stages)
        ]


def stem(in_channels: int, channels: int, num_convs: int, norm_cfg: dict[str, Any]) -> nn.Module:
    """7x7 convolution of stride 2, ``num_convs`` 3x3 convolutions, 2x2 convolution of stride 2."""
    return nn.Sequential(
        ConvNorm(
            in_channels,
            channels,
            7,
            stride=2,
            padding=3,
            norm_cfg=norm_cfg,
            activation=nn.ReLU(),
        ),
        *(
            ConvNorm(channels, channels, 3, padding=1, norm_cfg=norm_cfg, activation=nn.ReLU())
            for _ in range(num_convs)
        ),
        *strided_conv(channels, channels, 2, norm_cfg),
    )


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
