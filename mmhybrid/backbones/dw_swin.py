"""Swin Transformer with depth-wise shortcuts."""

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmhybrid.backbones.base import HybridBackbone, Stage, resolve_arch
from mmhybrid.backbones.dw_names import (
    DW_PAPER,
    MLP_OF_MMCV,
    SWIN_HEAD,
    as_arguments,
    check_authors_have,
    names_in,
    shapes_of,
    shortcut_names,
)
from mmhybrid.backbones.family import PretrainedWeights, Published, Weights
from mmhybrid.layers.depthwise_shortcut import DepthwiseShortcuts
from mmhybrid.layers.drop_path import drop_path_rates
from mmhybrid.layers.initialisation import init_truncated
from mmhybrid.layers.padding import count_of, pad_to_multiple
from mmhybrid.layers.transformer_block import TransformerBlock
from mmhybrid.layers.window_attention import (
    WindowAttention,
    Windows,
    cut_windows,
    relative_position_index,
    resize_bias_table,
)

WINDOW = 7  # of the published models
SWIN_TABLE = r"^layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table"
TokensOfMap = tuple[Tensor, tuple[int, int]]  # (B, H * W, C), and H and W


class SwinBlock(TransformerBlock):
    """A transformer block with attention in windows, regular or shifted."""

    def __init__(self, attn: WindowAttention, shifted: bool, **options: float) -> None:
        super().__init__(attn.proj.in_features, attn.num_heads, attn=attn, **options)
        self.shifted = shifted

    def forward(self, x: Tensor, regular: Windows, shifted: Windows) -> Tensor:
        return super().forward(x, shifted if self.shifted else regular)


class PatchEmbed(nn.Module):
    """Patches and their normalisation: (B, in_channels, H, W) to tokens and their h and w."""

    def __init__(self, in_channels: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, channels, patch_size, patch_size)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> TokensOfMap:
        x = self.proj(pad_to_multiple(x, self.patch_size))
        return self.norm(x.flatten(2).transpose(1, 2)), tuple(x.shape[-2:])


class PatchMerging(nn.Module):
    """Halves a map: four neighbouring tokens of C channels become one of 2 C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: TokensOfMap) -> TokensOfMap:
        """Maps (B, H * W, C) to (B, H / 2 * W / 2, 2 C) and its size; odd sides are padded."""
        x, size = x
        rows, columns = (count_of(side, 2) for side in size)
        x = x.unflatten(1, size)
        x = F.pad(x, (0, 0, 0, columns * 2 - size[1], 0, rows * 2 - size[0]))
        # Column by column, as the published weights have it.
        x = x.unflatten(2, (columns, 2)).unflatten(1, (rows, 2)).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.flatten(3).flatten(1, 2))), (rows, columns)


@MODELS.register_module()
class DWSwinTransformer(HybridBackbone):
    """Swin Transformer with depth-wise shortcuts, https://arxiv.org/abs/2407.19394.

    The host is Microsoft's Swin (https://arxiv.org/abs/2103.14030), whose checkpoints and those of
    the authors (https://github.com/ZTX-100/Efficient_ViT_with_DW) map onto the names of its
    parameters. The shortcuts work on the whole map, without windows, shift or padding; they are
    not dropped by stochastic depth, nor skipped by gradient checkpointing. A side that fits in one
    window is not shifted. The published ``drop_path_rate`` is 0.2.

    It starts from pretrained Swin (Microsoft's, timm's, and mmdet's and mmpretrain's names) and
    computes what that does with ``zero_init=True``. The last output norm is the host's.

    Other arguments: see :class:`HybridBackbone`; ``dw_kernel_sizes`` and ``dw_span`` are those of
    :class:`mmhybrid.layers.depthwise_shortcut.DepthwiseShortcuts`, one a stage.

    Args:
        arch (str | dict): ``'tiny'``, or any of its settings. Defaults to ``'tiny'``.
        norm_cfg (dict): Batch normalisations of the shortcuts. Defaults to ``dict(type='BN')``.
        shifted_windows (bool): Whether every other block shifts its windows. Defaults to True.
        zero_init (bool): Whether shortcuts start at zero, so that the model computes what its host
            does whose weights it loads. Defaults to False, the paper's.

    Example:
        >>> from mmhybrid.backbones import DWSwinTransformer
        >>> DWSwinTransformer('t').feature_channels
        (96, 192, 384, 768)
    """

    family = "DW-Swin"
    paper = DW_PAPER
    signs = (r"layers\.\d+\.shortcuts\.\d+\.convs\.",)
    # All but the shortcuts has Microsoft's names.
    published = (
        Published(
            names=shortcut_names("layers.*.", "layers.*."),
            classifier=SWIN_HEAD,
            signs=(r"layers\.\d+\.batchnorms\.", "relative_position_bias_table"),
        ),
    )
    hosts = MappingProxyType(
        {
            "Swin (timm's names)": Published(
                names={  # downsampling begins the next stage there
                    **{f"layers.{i + 1}.downsample.": f"layers.{i}.downsample." for i in range(3)},
                    "norm.": "norm3.",
                },
                classifier={"norm.": "backbone.norm3.", "head.fc.": "head.fc."},
                signs=(SWIN_TABLE, r"^layers\.3\.downsample\."),
            ),
            "Swin": Published(names={"norm.": "norm3."}, classifier=SWIN_HEAD, signs=(SWIN_TABLE,)),
            "Swin (mmdet's names)": Published(
                names={
                    "patch_embed.projection.": "patch_embed.proj.",
                    "stages.*.blocks.*.attn.w_msa.": "layers.*.blocks.*.attn.",
                    **names_in("stages.*.blocks.*.", "layers.*.blocks.*.", MLP_OF_MMCV),
                    "stages.*.downsample.": "layers.*.downsample.unfolded_",
                    "stages.": "layers.",
                    "norm.": "norm3.",
                },
                signs=(r"^stages\.\d+\.blocks\.\d+\.attn\.w_msa\.",),
            ),
        }
    )
    pretrained = (
        PretrainedWeights(
            "dw_swin_tiny.in1k",
            "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
            "swin_tiny_patch4_window7_224.pth",
            "ImageNet-1K",
            # timm's results/results-imagenet.csv
            MappingProxyType({"top-1": 81.376, "top-5": 95.544}),
            "MIT",
            MappingProxyType(dict(arch="tiny", zero_init=True)),
            host="Swin-T",
        ),
        PretrainedWeights(
            "dw_swin_tiny.in22k_ft_in1k",
            "https://github.com/SwinTransformer/storage/releases/download/v1.0.8/"
            "swin_tiny_patch4_window7_224_22kto1k_finetune.pth",
            "ImageNet-22K, then ImageNet-1K",
            MappingProxyType({"top-1": 80.968, "top-5": 96.014}),
            "MIT",
            MappingProxyType(dict(arch="tiny", zero_init=True)),
            host="Swin-T",
        ),
    )
    no_weight_decay = (r"relative_position_bias_table$",)
    one_sided = r"\.(relative_position_index|attn_mask)$"  # made anew from the sizes
    may_be_new = (r"norm(\d)\.", r"layers\.\d+\.shortcuts\.")
    test_options = MappingProxyType(dict(arch=dict(embed_dims=24, depths=(2, 2, 2, 2))))
    # fmt: off
    presets = MappingProxyType({"tiny": dict(
        embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=WINDOW,
        patch_size=4, mlp_ratio=4)})
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
        dw_kernel_sizes: Sequence[int] | str = (3,),
        dw_span: int | str = 1,
        shifted_windows: bool = True,
        zero_init: bool = False,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        settings = resolve_arch(arch, self.presets, defaults="tiny")
        self.depths = settings["depths"]
        self.window_size = settings["window_size"]
        dims = [settings["embed_dims"] * 2**stage for stage in range(len(self.depths))]
        patch_size = settings["patch_size"]
        strides = [patch_size * 2**stage for stage in range(len(self.depths))]
        super().__init__(dims, strides, out_indices, frozen_stages, norm_eval, with_cp, init_cfg)
        self.patch_embed = PatchEmbed(in_channels, dims[0], patch_size)
        self.layers = nn.ModuleList()
        rates = drop_path_rates(drop_path_rate, self.depths)
        last = self.out_indices[-1]
        for stage in range(last + 1):
            dim, depth, heads = dims[stage], self.depths[stage], settings["num_heads"][stage]
            layer = nn.Module()  # holds the parts of a stage under their published names
            shortcuts = DepthwiseShortcuts(
                dim,
                depth,
                kernel_sizes=dw_kernel_sizes,
                span=dw_span,
                norm_cfg=norm_cfg,
                zero_init=zero_init,
            )
            layer.blocks = nn.ModuleList(
                SwinBlock(
                    WindowAttention(dim, heads, self.window_size),
                    shifted=shifted_windows and index % 2 == 1,
                    mlp_ratio=settings["mlp_ratio"],
                    drop_path_rate=rate,
                )
                for index, rate in enumerate(rates[stage])
            )
            layer.shortcuts = shortcuts
            layer.downsample = PatchMerging(dim) if stage < last else None  # of the next stage
            self.layers.append(layer)
            if stage in self.out_indices:
                self.add_module(f"norm{stage}", nn.LayerNorm(dim))
        init_truncated(self, nn.Linear)
        for module in self.modules():
            if isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
        self.freeze_stages()

    @property
    def stem(self) -> PatchEmbed:
        return self.patch_embed

    def get_stages(self) -> list[Stage]:
        return [
            Stage(
                layer.blocks,
                downsample=self.layers[i - 1].downsample if i > 0 else None,
                output=self.get_submodule(f"norm{i}") if i in self.out_indices else None,
                beside=[
                    (layer.shortcuts.last_bypassed(j), s) for j, s in enumerate(layer.shortcuts)
                ],
            )
            for i, layer in enumerate(self.layers)
        ]

    def run_stage(self, index: int, stage: Stage, x: TokensOfMap) -> TokensOfMap:
        tokens, size = x
        windows = [
            cut_windows(*size, self.window_size, shifted, tokens.device)
            for shifted in (False, True)
        ]
        shortcuts = self.layers[index].shortcuts
        return shortcuts.run(stage.blocks, tokens, size, self.run_block, *windows), size

    def output_of(self, stage: Stage, x: TokensOfMap) -> Tensor:
        tokens, size = x
        tokens = super().output_of(stage, tokens)
        return tokens.transpose(1, 2).unflatten(2, size).contiguous()

    @classmethod
    def suggest(cls, weights: Weights) -> dict[str, Any] | None:
        table = r"(?:layers|stages)\.(\d+)\.blocks\.(\d+)\.attn(?:\.w_msa)?\."
        tables = shapes_of(weights, table + "relative_position_bias_table")
        stem = shapes_of(weights, r"patch_embed\.proj(?:ection)?\.weight").get(())
        if not (tables and stem):
            return None
        depths = {stage: block + 1 for stage, block in sorted(tables)}  # the last one counts
        heads = {stage: shape[1] for (stage, _), shape in tables.items()}
        offsets = next(iter(tables.values()))[0]
        settings = dict(
            embed_dims=stem[0],
            depths=tuple(depths.values()),
            num_heads=tuple(heads[stage] for stage in depths),
            window_size=(math.isqrt(offsets) + 1) // 2,
            patch_size=stem[-1],
        )
        return as_arguments(cls, settings, **({} if stem[1] == 3 else {"in_channels": stem[1]}))

    @classmethod
    def from_published(cls, weights: Weights, prefix: str = "") -> Weights:
        """Brings back the order of channels that :class:`PatchMerging` has.

        mmdet's and mmpretrain's lets the four neighbours change fastest, row by row.
        """
        for key in [key for key in weights if ".downsample.unfolded_" in key]:
            if key.startswith(prefix):
                weight = weights.pop(key)
                if weight.ndim and weight.shape[-1] % 4 == 0:
                    weight = weight.unflatten(-1, (-1, 2, 2)).transpose(-1, -3).flatten(-3)
                weights[key.replace("unfolded_", "")] = weight
        return weights

    @classmethod
    def to_published(cls, weights: Weights, image_size: int = 224) -> Weights:
        """Adds the indices and masks of windows that the authors' models save."""
        check_authors_have(weights)
        for name in [name for name in weights if name.endswith("relative_position_bias_table")]:
            attention = name.rpartition(".")[0]
            _, stage, _, block, _ = attention.split(".")
            weights[f"{attention}.relative_position_index"] = relative_position_index(WINDOW)
            side = image_size // (4 * 2 ** int(stage))
            if int(block) % 2 and side > WINDOW:
                mask = cut_windows(side, side, WINDOW, True, torch.device("cpu")).mask
                weights[f"layers.{stage}.blocks.{block}.attn_mask"] = mask
        return weights

    def adapt_state_dict(self, state_dict: Weights, prefix: str = "") -> Weights:
        """:meth:`from_published`, without what we compute ourselves, for this ``window_size``."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            if re.search(self.one_sided, key):
                del state_dict[key]
        state_dict = self.from_published(state_dict, prefix)
        for name, own in self.named_parameters(prefix.removesuffix(".")):
            table = state_dict.get(name)
            if table is None or table.ndim != 2 or "bias_table" not in name:
                continue
            if table.shape != own.shape and math.isqrt(len(table)) ** 2 == len(table):
                state_dict[name] = resize_bias_table(table, self.window_size)
        return state_dict
