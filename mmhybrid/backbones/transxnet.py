"""TransXNet: Learning both global and local dynamics with a dual dynamic token mixer."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmhybrid.backbones.base import HybridBackbone, Stage, check_image_size, resolve_arch
from mmhybrid.backbones.family import Paper, Published, Weights
from mmhybrid.backbones.transxnet_weights import published_weights
from mmhybrid.errors import ArgumentError
from mmhybrid.layers.conv_norm import ConvNorm, prefer_channels_last
from mmhybrid.layers.depthwise_conv import DepthwiseConv
from mmhybrid.layers.depthwise_feed_forwards import MultiScaleFeedForward
from mmhybrid.layers.drop_path import DropPath, drop_path_rates
from mmhybrid.layers.initialisation import init_truncated
from mmhybrid.layers.layer_scale import LayerScale
from mmhybrid.layers.norm import GroupNorm
from mmhybrid.layers.padding import are_odd
from mmhybrid.layers.relative_position import RelativePosition, fit_relative_position
from mmhybrid.layers.token_mixer import DualDynamicTokenMixer


class TransXNetBlock(nn.Module):
    """Positional convolution, token mixer and multi-scale feed-forward network, each a residual.

    ``drop_path_rate`` and ``layer_scale_init`` are of the last two residuals, ``mixer`` of
    :class:`DualDynamicTokenMixer`.
    """

    def __init__(
        self,
        channels: int,
        *,
        mlp_ratio: int,
        drop_path_rate: float,
        layer_scale_init: float,
        norm_cfg: dict[str, Any],
        **mixer: Any,
    ) -> None:
        super().__init__()
        self.pos_embed = DepthwiseConv(channels, 7)
        self.norm1 = GroupNorm(1, channels)
        self.token_mixer = DualDynamicTokenMixer(channels, norm_cfg=norm_cfg, **mixer)
        self.norm2 = GroupNorm(1, channels)
        self.mlp = MultiScaleFeedForward(channels, channels * mlp_ratio, norm_cfg=norm_cfg)
        self.drop_path = DropPath(drop_path_rate)
        self.layer_scale_1 = LayerScale(channels, layer_scale_init)
        self.layer_scale_2 = LayerScale(channels, layer_scale_init)

    def forward(self, x: Tensor, position: RelativePosition) -> Tensor:
        x = x + self.pos_embed(x)
        # Nothing else needs the output of a branch: what comes in is added to it in place.
        mixed = self.token_mixer(self.norm1(x), position, self.layer_scale_1)
        x = self.drop_path(mixed).add_(x)
        return self.drop_path(self.mlp(self.norm2(x), self.layer_scale_2)).add_(x)


class PatchEmbed(nn.Module):
    """A strided convolution that makes the map smaller, and its normalisation."""

    def __init__(self, *sizes: int, stride: int, norm_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.proj = ConvNorm(*sizes, stride=stride, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return prefer_channels_last(self.proj(x))


@MODELS.register_module()
class TransXNet(HybridBackbone):
    """TransXNet, https://arxiv.org/abs/2310.19380.

    Parts and parameters carry the names of the authors' checkpoints
    (https://github.com/LMMMEng/TransXNet, Apache-2.0). Outputs equal theirs; the table of relative
    positions is folded into queries and keys (:mod:`mmhybrid.layers.relative_position`) instead of
    being resized in every block.

    The published recipes have SyncBN in ``norm_cfg``, and as ``drop_path_rate`` 0.1, 0.2, 0.4
    (tiny, small, base) for ImageNet, 0.1, 0.2, 0.3 for dense prediction.

    Other arguments: see :class:`HybridBackbone`.

    Args:
        arch (str | dict): ``'tiny'``, ``'small'`` or ``'base'``, or any of the settings of
            :attr:`presets`, each a tuple of four. Defaults to ``'tiny'``.
        layer_scale_init (float): Initial scale of the residuals. Defaults to 1e-5.
        image_size (int): Height and width, in pixels, that the tables of relative positions are
            made for. Defaults to 224.

    Example:
        >>> from mmhybrid.backbones import TransXNet
        >>> TransXNet('t').feature_channels
        (48, 96, 224, 448)
    """

    paper = Paper(
        "TransXNet",
        "TransXNet: Learning Both Global and Local Dynamics with a Dual Dynamic Token Mixer for "
        "Visual Recognition",
        "https://arxiv.org/abs/2310.19380",
        "mmhybrid/backbones/transxnet.py",
        ("Dual Dynamic Token Mixer", "Input-dependent Depthwise Convolution"),
    )
    signs = (r"network\.\d+\.\d+\.token_mixer\.",)
    # Parts have the authors' names; only their classifier differs.
    published = (
        Published(
            classifier={"classifier.0.": "backbone.norm6.", "classifier.2.": "head.fc."},
            signs=signs,
        ),
    )
    pretrained = published_weights()
    may_be_new = (r"norm([0246])\.",)  # dense models alone have them
    # fmt: off
    test_options = MappingProxyType(dict(image_size=64, arch=dict(
        depths=(2, 1, 1, 1), embed_dims=(16, 32, 48, 64), num_heads=(1, 2, 3, 4),
        mlp_ratios=(2, 2, 2, 2))))
    presets = MappingProxyType({
        "tiny": dict(
            depths=(3, 3, 9, 3), embed_dims=(48, 96, 224, 448), num_heads=(1, 2, 4, 8),
            sr_ratios=(8, 4, 2, 1), kernel_sizes=(7, 7, 7, 7), num_groups=(2, 2, 2, 2),
            mlp_ratios=(4, 4, 4, 4)),
        "small": dict(
            depths=(4, 4, 12, 4), embed_dims=(64, 128, 320, 512), num_heads=(1, 2, 5, 8),
            sr_ratios=(8, 4, 2, 1), kernel_sizes=(7, 7, 7, 7), num_groups=(2, 2, 3, 4),
            mlp_ratios=(6, 6, 4, 4)),
        "base": dict(
            depths=(4, 4, 21, 4), embed_dims=(76, 152, 336, 672), num_heads=(2, 4, 8, 16),
            sr_ratios=(8, 4, 2, 1), kernel_sizes=(7, 7, 7, 7), num_groups=(2, 2, 4, 4),
            mlp_ratios=(8, 8, 4, 4)),
    })
    # fmt: on

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] = MappingProxyType(dict(type="BN")),
        drop_path_rate: float = 0.0,
        layer_scale_init: float = 1e-5,
        image_size: int = 224,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        settings = resolve_arch(arch, self.presets, defaults="tiny")
        check_image_size(image_size)
        if not are_odd(sizes := settings["kernel_sizes"]):
            raise ArgumentError(f"kernel_sizes={sizes!r} of arch: give odd numbers")
        self.depths = settings["depths"]
        self.sr_ratios = settings["sr_ratios"]
        dims = settings["embed_dims"]
        strides = (4, 8, 16, 32)
        super().__init__(dims, strides, out_indices, frozen_stages, norm_eval, with_cp, init_cfg)
        self.patch_embed = PatchEmbed(in_channels, dims[0], 7, stride=4, norm_cfg=norm_cfg)
        self.relative_pos_enc = nn.ParameterList()
        # The authors' numbering: stages at even places, what makes the map smaller between them.
        self.network = nn.ModuleList()
        rates = drop_path_rates(drop_path_rate, self.depths)
        for stage in range(self.out_indices[-1] + 1):
            dim, heads = dims[stage], settings["num_heads"][stage]
            if stage > 0:
                self.network.append(
                    PatchEmbed(dims[stage - 1], dim, 3, stride=2, norm_cfg=norm_cfg)
                )
            side = math.ceil(image_size / strides[stage])
            keys = math.ceil(side / self.sr_ratios[stage]) ** 2
            self.relative_pos_enc.append(nn.Parameter(torch.zeros(1, heads, side * side, keys)))
            blocks = (
                TransXNetBlock(
                    dim,
                    mlp_ratio=settings["mlp_ratios"][stage],
                    drop_path_rate=rate,
                    layer_scale_init=layer_scale_init,
                    norm_cfg=norm_cfg,
                    num_heads=heads,
                    sr_ratio=self.sr_ratios[stage],
                    kernel_size=settings["kernel_sizes"][stage],
                    num_groups=settings["num_groups"][stage],
                )
                for rate in rates[stage]
            )
            self.network.append(nn.ModuleList(blocks))
            if stage in self.out_indices:
                self.add_module(f"norm{2 * stage}", GroupNorm(1, dim))
        init_truncated(self, nn.Conv2d)
        self.freeze_stages()

    @property
    def stem(self) -> PatchEmbed:
        return self.patch_embed

    def get_stages(self) -> list[Stage]:
        return [
            Stage(
                self.network[2 * i],
                downsample=self.network[2 * i - 1] if i > 0 else None,
                output=self.get_submodule(f"norm{2 * i}") if i in self.out_indices else None,
                beside=[(0, self.relative_pos_enc[i])],
            )
            for i in range(self.out_indices[-1] + 1)
        ]

    def run_stage(self, index: int, stage: Stage, x: Tensor) -> Tensor:
        return super().run_stage(index, stage, x, self.relative_position(index, *x.shape[-2:]))

    def relative_position(self, stage: int, height: int, width: int) -> RelativePosition:
        """The relative positions of a stage for a map of this size."""
        ratio = self.sr_ratios[stage]
        keys = ((height + ratio - 1) // ratio) * ((width + ratio - 1) // ratio)
        return fit_relative_position(self.relative_pos_enc[stage], height * width, keys)

    @classmethod
    def from_published(cls, weights: Weights, prefix: str = "") -> Weights:
        if (head := weights.get("head.fc.weight")) is not None:  # a 1x1 convolution of theirs
            weights["head.fc.weight"] = head.flatten(1)
        return weights

    @classmethod
    def to_published(cls, weights: Weights, image_size: int = 224) -> Weights:
        if (head := weights.get("head.fc.weight")) is not None:
            weights["head.fc.weight"] = head[..., None, None]
        return weights

    def adapt_state_dict(self, state_dict: Weights, prefix: str = "") -> Weights:
        """Resizes tables of relative positions that were learned at another ``image_size``."""
        for stage, own in enumerate(self.relative_pos_enc):
            key = f"{prefix}relative_pos_enc.{stage}"
            table = state_dict.get(key)
            if table is None or table.ndim != own.ndim or table.shape == own.shape:
                continue
            if table.shape[:2] == own.shape[:2]:
                state_dict[key] = F.interpolate(table, size=own.shape[-2:], mode="bicubic")
        return state_dict
