"""ViT and CaiT, the plain (single-scale) hosts of depth-wise shortcuts."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmhybrid.backbones.base import HybridBackbone, Part, Stage, resolve_arch
from mmhybrid.backbones.dw_names import (
    DW_PAPER,
    VIT_PYTORCH_HEAD,
    check_one_kernel,
    shortcut_names,
    vit_pytorch_names,
)
from mmhybrid.backbones.family import Published, Weights
from mmhybrid.errors import ArgumentError
from mmhybrid.layers.depthwise_shortcut import DepthwiseShortcuts
from mmhybrid.layers.drop_path import drop_path_rates
from mmhybrid.layers.feature_pyramid import SimpleFeaturePyramid
from mmhybrid.layers.padding import count_of, crop, pad_to_multiple
from mmhybrid.layers.transformer_block import TransformerBlock

NUM_STAGES = 4
OUT_TYPES = ("featmap", "cls_token")


class DWPlainBackbone(HybridBackbone):
    """Patch embedding, positions, blocks with shortcuts around them, and a feature pyramid.

    The blocks count as four stages of equal length for ``frozen_stages``. All subclasses take these
    arguments and those of :class:`HybridBackbone`.

    Args:
        patch_size (int): Side of a patch, in pixels; a multiple of 4. Defaults to 16.
        image_size (int): Side of the images, in pixels, that the position embedding is made for.
            Defaults to 224.
        out_type (str): ``'featmap'`` for a pyramid of four maps, made of the last block's patches
            (ViTDet's simple feature pyramid; strides 1/4, 1/2, 1 and 2 times ``patch_size``), or
            ``'cls_token'`` for one (B, C) vector, which is what mmpretrain's ``LinearClsHead``
            takes. Defaults to ``'featmap'``.
        out_indices (Sequence[int]): Levels of the pyramid to return. Defaults to (0, 1, 2, 3).
        norm_cfg (dict): Batch normalisations of the shortcuts. Defaults to ``dict(type='BN')``.
        dw_kernel_sizes, dw_span: See
            :class:`mmhybrid.layers.depthwise_shortcut.DepthwiseShortcuts`.
        position_embedding (bool): Whether learned positions are added. With shortcuts, small data
            sets lose little without. Defaults to True.
    """

    paper = DW_PAPER
    one_sided = r"^pyramid\."
    may_be_new = (r"shortcuts\.", r"pyramid\.levels\.(\d)\.")
    num_class_tokens = 0  # among the tokens that the blocks take

    def __init__(
        self,
        settings: dict[str, Any],
        patch_size: int,
        out_type: str,
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        with_cp: bool,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None,
    ) -> None:
        dims = settings["embed_dims"]
        if out_type not in OUT_TYPES:
            raise ArgumentError(f"out_type={out_type!r} is unknown; choose from {OUT_TYPES}")
        if patch_size % 4 or dims % 4:
            raise ArgumentError(
                f"patch_size={patch_size} and embed_dims={dims} must be multiples of 4: the "
                "pyramid's first map is four times as large as that of the patches"
            )
        channels = SimpleFeaturePyramid.level_channels(dims)
        strides = (patch_size // 4, patch_size // 2, patch_size, patch_size * 2)
        super().__init__(
            channels, strides, out_indices, frozen_stages, norm_eval, with_cp, init_cfg
        )
        self.embed_dims, self.depth = dims, settings["depth"]
        self.patch_size = patch_size
        self.out_type = out_type

    def build_parts(
        self,
        in_channels: int,
        image_size: int,
        position_embedding: bool,
        dw_kernel_sizes: Sequence[int] | str,
        dw_span: int | str,
        norm_cfg: dict[str, Any],
    ) -> None:
        """Makes all but the blocks and the class token."""
        dims = self.embed_dims
        self.grid_size = image_size // self.patch_size
        self.patch_embed = nn.Conv2d(in_channels, dims, self.patch_size, self.patch_size)
        self.pos_embedding = None
        if position_embedding:
            num_positions = self.grid_size**2 + self.num_class_tokens
            self.pos_embedding = nn.Parameter(torch.randn(1, num_positions, dims))
        self.blocks = nn.ModuleList()
        self.shortcuts = DepthwiseShortcuts(
            dims, self.depth, kernel_sizes=dw_kernel_sizes, span=dw_span, norm_cfg=norm_cfg
        )
        self.norm = nn.LayerNorm(dims)
        self.pyramid = None
        if self.out_type == "cls_token":
            self.feature_channels, self.feature_strides = (dims,), ()
        else:
            self.pyramid = SimpleFeaturePyramid(dims, self.out_indices)

    def embed_patches(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Maps (B, in_channels, H, W) to tokens (B, h * w, C) and their (h, w)."""
        self.check_input(x)
        x = self.patch_embed(pad_to_multiple(x, self.patch_size))
        return x.flatten(2).transpose(1, 2), tuple(x.shape[-2:])

    def positions(self, size: tuple[int, int], num_class_tokens: int = 0) -> Tensor:
        """The position embedding for a grid of this size: (1, num_class_tokens + h * w, C)."""
        return resize_positions(self.pos_embedding, size, num_class_tokens)

    def run_blocks(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Adds positions to tokens of a grid of this size, and runs the blocks."""
        if self.pos_embedding is not None:
            tokens = tokens + self.positions(size, self.num_class_tokens).to(tokens)
        return self.shortcuts.run(
            self.blocks, tokens, size, self.run_block, num_class_tokens=self.num_class_tokens
        )

    def feature_maps(
        self, tokens: Tensor, size: tuple[int, int], image_size: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        """Maps (B, h * w, C) to the levels of the pyramid, without what lies outside the image."""
        grid = self.norm(tokens).transpose(1, 2).unflatten(2, size).contiguous()
        return tuple(
            crop(level, *(count_of(side, stride) for side in image_size))
            for level, stride in zip(self.pyramid(grid), self.feature_strides, strict=True)
        )

    def stem_parts(self) -> list[Part]:
        return [part for part in (self.patch_embed, self.pos_embedding) if part is not None]

    def end_parts(self) -> list[Part]:
        """What comes after the blocks."""
        return [part for part in (self.norm, self.pyramid) if part is not None]

    def get_stages(self) -> list[Stage]:
        blocks, beside = ([[] for _ in range(NUM_STAGES)] for _ in range(2))
        places = []  # the stage of each block, and its index there
        for i, block in enumerate(self.blocks):
            stage = i * NUM_STAGES // self.depth
            places.append((stage, len(blocks[stage])))
            blocks[stage].append(block)
        for i, shortcut in enumerate(self.shortcuts):
            stage, index = places[self.shortcuts.last_bypassed(i)]
            beside[stage].append((index, shortcut))
        beside[-1] += [(len(blocks[-1]), part) for part in self.end_parts()]
        return [Stage(b, beside=s) for b, s in zip(blocks, beside, strict=True)]

    @classmethod
    def from_published(cls, weights: Weights, prefix: str = "") -> Weights:
        """Their patch embedding is a linear layer, and ViT makes queries, keys, values at once."""
        weight = weights.get(f"{prefix}patch_embed.weight")
        if weight is not None and weight.ndim == 2:
            side = math.isqrt(weight.shape[1] // 3)  # colours
            weights[f"{prefix}patch_embed.weight"] = _patches(weight, side)
        for key in [key for key in weights if key.endswith(".attn.qkv.weight")]:
            if key.startswith(f"{prefix}blocks."):
                qkv, name = weights.pop(key), key.removesuffix("qkv.weight")
                third = len(qkv) // 3
                weights[f"{name}q.weight"] = qkv[:third].clone()
                weights[f"{name}kv.weight"] = qkv[third:].clone()
        return weights

    @classmethod
    def to_published(cls, weights: Weights, image_size: int = 224) -> Weights:
        check_one_kernel(weights)
        patches = weights["patch_embed.weight"]
        weights["patch_embed.weight"] = patches.permute(0, 2, 3, 1).flatten(1)
        return weights

    def adapt_state_dict(self, state_dict: Weights, prefix: str = "") -> Weights:
        """:meth:`from_published`, and resizes positions of another ``image_size``."""
        weight = state_dict.get(f"{prefix}patch_embed.weight")
        if weight is not None and weight.ndim == 2 and len(weight) == len(self.patch_embed.weight):
            state_dict[f"{prefix}patch_embed.weight"] = _patches(weight, self.patch_size)
        state_dict = self.from_published(state_dict, prefix)
        table, own = state_dict.get(f"{prefix}pos_embedding"), self.pos_embedding
        if table is not None and own is not None and table.shape != own.shape:
            places = table.shape[1] - self.num_class_tokens
            if math.isqrt(places) ** 2 == places:
                table = resize_positions(table, (self.grid_size,) * 2, self.num_class_tokens)
                state_dict[f"{prefix}pos_embedding"] = table
        return state_dict


def _patches(weight: Tensor, side: int) -> Tensor:
    """The convolution that a linear layer is, on patches whose channels change fastest."""
    return weight.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2).contiguous()


def resize_positions(table: Tensor, size: tuple[int, int], num_class_tokens: int) -> Tensor:
    """Resizes (1, num_class_tokens + side * side, C) positions of a square grid bicubically.

    The result is (1, num_class_tokens + h * w, C); for (side, side) the values stay as they are.
    """
    side = round((table.shape[1] - num_class_tokens) ** 0.5)  # PyTorch 2.7 compiles no math.isqrt
    # No question whether the size fits already: an exported graph serves all sizes.
    grid = table[:, num_class_tokens:].transpose(1, 2).unflatten(2, (side, side))
    grid = F.interpolate(grid, size=size, mode="bicubic").flatten(2).transpose(1, 2)
    return torch.cat([table[:, :num_class_tokens], grid], dim=1)


@MODELS.register_module()
class DWVisionTransformer(DWPlainBackbone):
    """ViT with depth-wise shortcuts, https://arxiv.org/abs/2407.19394, for small data sets.

    The host is that of the authors' code (https://github.com/ZTX-100/Efficient_ViT_with_DW), in the
    manner of vit-pytorch: no bias on queries, keys and values, positions added to the class token
    too. Beyond theirs it takes any size (the position embedding is resized bicubically, images
    are padded to whole patches) and gives dense maps.

    Other arguments: see :class:`DWPlainBackbone`.

    Args:
        arch (str | dict): ``'tiny'`` (the default), ``'small'``, or any of their settings.
        out_type (str): ``'featmap'`` or ``'cls_token'``. With the vector of ``'cls_token'``, the
            last shortcut cannot change the output (it leaves the class token alone): its gradient
            is zero, not None. Defaults to ``'featmap'``.
        class_token (bool): Whether there is one. Defaults to True.

    Example:
        >>> from mmhybrid.backbones import DWVisionTransformer
        >>> DWVisionTransformer('t').feature_channels
        (48, 96, 192, 192)
    """

    family = "DW-ViT"
    signs = (r"shortcuts\.\d+\.convs\.", "cls_token")
    published = (
        Published(
            names={
                "to_patch_embedding.1.": "patch_embed.",
                **shortcut_names("transformer."),
                **vit_pytorch_names("transformer", "blocks"),
            },
            classifier=VIT_PYTORCH_HEAD,
            signs=(r"^transformer\.convs\.", r"^transformer\.batchnorms\."),
        ),
    )
    test_options = MappingProxyType(dict(arch=dict(embed_dims=48, depth=4)))
    presets = MappingProxyType(
        {
            "tiny": dict(embed_dims=192, depth=12, num_heads=3, mlp_ratio=4),
            "small": dict(embed_dims=384, depth=12, num_heads=6, mlp_ratio=4),
        }
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "tiny",
        in_channels: int = 3,
        patch_size: int = 16,
        image_size: int = 224,
        out_type: str = "featmap",
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] = MappingProxyType(dict(type="BN")),
        drop_path_rate: float = 0.0,
        dw_kernel_sizes: Sequence[int] | str = (3,),
        dw_span: int | str = 1,
        position_embedding: bool = True,
        class_token: bool = True,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        if out_type == "cls_token" and not class_token:
            raise ArgumentError("out_type='cls_token' needs class_token=True")
        settings = resolve_arch(arch, self.presets, defaults="tiny")
        super().__init__(
            settings, patch_size, out_type, out_indices, frozen_stages, norm_eval, with_cp, init_cfg
        )
        self.num_class_tokens = int(class_token)
        self.build_parts(
            in_channels, image_size, position_embedding, dw_kernel_sizes, dw_span, norm_cfg
        )
        dims, heads, ratio = self.embed_dims, settings["num_heads"], settings["mlp_ratio"]
        self.cls_token = nn.Parameter(torch.randn(1, 1, dims)) if class_token else None
        self.blocks.extend(
            TransformerBlock(dims, heads, mlp_ratio=ratio, drop_path_rate=rate)
            for rate in drop_path_rates(drop_path_rate, (self.depth,))[0]
        )
        self.freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, in_channels, H, W) to one (B, C, h, w) a level, or to one (B, C)."""
        tokens, size = self.embed_patches(x)
        if self.cls_token is not None:
            cls_tokens = self.cls_token.to(tokens).expand(x.shape[0], -1, -1)
            tokens = torch.cat([cls_tokens, tokens], dim=1)
        tokens = self.run_blocks(tokens, size)
        if self.out_type == "cls_token":
            return (self.norm(tokens[:, 0]),)
        return self.feature_maps(tokens[:, self.num_class_tokens :], size, x.shape[-2:])

    def stem_parts(self) -> list[Part]:
        return [*super().stem_parts(), *([] if self.cls_token is None else [self.cls_token])]

    @classmethod
    def to_published(cls, weights: Weights, image_size: int = 224) -> Weights:
        for key in [key for key in weights if key.endswith(".attn.q.weight")]:
            name = key.removesuffix("q.weight")
            parts = [weights.pop(f"{name}{part}.weight") for part in ("q", "kv")]
            weights[f"{name}qkv.weight"] = torch.cat(parts)
        return super().to_published(weights, image_size)


@MODELS.register_module()
class DWCaiT(DWPlainBackbone):
    """CaiT with depth-wise shortcuts, https://arxiv.org/abs/2407.19394, for small data sets.

    The host is that of the authors' code (https://github.com/ZTX-100/Efficient_ViT_with_DW), in the
    manner of vit-pytorch; it differs from Facebook's CaiT (https://arxiv.org/abs/2103.17239) in
    that queries, keys and values have no bias and that class attention takes the patches
    unnormalised. Blocks of the class stage have no shortcuts; dense maps, which the authors' code
    does not give, need no class stage, which is then not built.

    The paper's models for small data sets have ``layer_scale=False``, ``talking_heads=False`` and
    ``position_embedding=False``, those for ImageNet ``layer_scale=False``.

    Other arguments: see :class:`DWPlainBackbone`.

    Args:
        arch (str | dict): ``'xxs12'`` (the default), ``'xxs24'``, or any of their settings.
        layer_dropout (float): Probability with which a sample skips a patch block in training.
            Shortcuts are never skipped. Published: 0. Defaults to 0.
        layer_scale (bool): Whether residuals have learned factors. They start at 0.1 up to the 18th
            block of a stage, at 1e-5 up to the 24th, at 1e-6 beyond. Defaults to True.
        talking_heads (bool): Whether heads are mixed around the softmax. Without, attention is
            fused and much faster. Defaults to True.

    Example:
        >>> from mmhybrid.backbones import DWCaiT
        >>> DWCaiT('xxs12').feature_channels
        (48, 96, 192, 192)
    """

    family = "DW-CaiT"
    signs = (r"shortcuts\.\d+\.convs\.", r"(cls_blocks\.\d|blocks\.\d+\.(scale1|attn\.mix_heads))")
    published = tuple(
        Published(
            names={
                "to_patch_embedding.1.": "patch_embed.",
                **shortcut_names("patch_transformer."),
                **vit_pytorch_names("patch_transformer", "blocks", layer_scale),
                **vit_pytorch_names("cls_transformer", "cls_blocks", layer_scale),
            },
            classifier=VIT_PYTORCH_HEAD,
            signs=(r"^patch_transformer\.convs\.", r"^patch_transformer\.layers\.\d+\.0\." + sign),
        )
        for layer_scale, sign in ((True, "scale"), (False, "norm"))
    )
    test_options = MappingProxyType(dict(arch=dict(embed_dims=48, depth=4)))
    presets = MappingProxyType(
        {
            "xxs12": dict(embed_dims=192, depth=12, cls_depth=2, num_heads=4, mlp_ratio=4),
            "xxs24": dict(embed_dims=192, depth=24, cls_depth=2, num_heads=4, mlp_ratio=4),
        }
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "xxs12",
        in_channels: int = 3,
        patch_size: int = 16,
        image_size: int = 224,
        out_type: str = "featmap",
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] = MappingProxyType(dict(type="BN")),
        drop_path_rate: float = 0.0,
        layer_dropout: float = 0.0,
        dw_kernel_sizes: Sequence[int] | str = (3,),
        dw_span: int | str = 1,
        position_embedding: bool = True,
        layer_scale: bool = True,
        talking_heads: bool = True,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        settings = resolve_arch(arch, self.presets, defaults="xxs12")
        super().__init__(
            settings, patch_size, out_type, out_indices, frozen_stages, norm_eval, with_cp, init_cfg
        )
        self.build_parts(
            in_channels, image_size, position_embedding, dw_kernel_sizes, dw_span, norm_cfg
        )

        def block(index: int, **dropping: float) -> TransformerBlock:
            scale = 0.1 if index < 18 else 1e-5 if index < 24 else 1e-6
            return TransformerBlock(
                self.embed_dims,
                settings["num_heads"],
                mlp_ratio=settings["mlp_ratio"],
                talking_heads=talking_heads,
                layer_scale_init=scale if layer_scale else None,
                **dropping,
            )

        for i, rate in enumerate(drop_path_rates(drop_path_rate, (self.depth,))[0]):
            self.blocks.append(block(i, drop_path_rate=rate, layer_dropout=layer_dropout))
        self.cls_token = None
        self.cls_blocks = nn.ModuleList()
        if out_type == "cls_token":
            self.cls_token = nn.Parameter(torch.randn(1, 1, self.embed_dims))
            self.cls_blocks.extend(map(block, range(settings["cls_depth"])))
        self.freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, in_channels, H, W) to one (B, C, h, w) a level, or to one (B, C)."""
        tokens, size = self.embed_patches(x)
        tokens = self.run_blocks(tokens, size)
        if self.out_type == "featmap":
            return self.feature_maps(tokens, size, x.shape[-2:])
        cls_token = self.cls_token.to(tokens).repeat(x.shape[0], 1, 1)
        for block in self.cls_blocks:
            cls_token = self.run_block(block, cls_token, tokens)
        return (self.norm(cls_token[:, 0]),)

    def end_parts(self) -> list[Part]:
        class_stage = [] if self.cls_token is None else [self.cls_token, self.cls_blocks]
        return [*super().end_parts(), *class_stage]
