"""What ViT and CaiT share, the plain (single-scale) hosts of depth-wise shortcuts."""

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.backbones.base import HybridBackbone, Part, Stage, check_image_size
from mmhybrid.backbones.dw_names import (
    DW_PAPER,
    check_authors_have,
)
from mmhybrid.backbones.family import Weights
from mmhybrid.errors import ArgumentError
from mmhybrid.layers.depthwise_shortcut import DepthwiseShortcuts
from mmhybrid.layers.feature_pyramid import SimpleFeaturePyramid
from mmhybrid.layers.padding import count_of, crop, pad_to_multiple

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
        zero_init (bool): Whether shortcuts start at zero, so that the model computes what its host
            does whose weights it loads. Defaults to False, the paper's.
        qkv_bias (bool): Whether queries, keys and values have a bias, as in ViT, DeiT, DINO and
            Facebook's CaiT. Defaults to False, the paper's.
        norm_eps (float): Added to the variance in layer normalisations; 1e-6 in those hosts.
            Defaults to 1e-5, the paper's.
        position_antialias (bool): Whether positions for images of other than ``image_size`` are
            resized as timm does (bicubically with antialiasing, another cubic even where they
            grow). Weights of another ``image_size`` are always loaded so. Defaults to False.
    """

    paper = DW_PAPER
    one_sided = r"^pyramid\."
    may_be_new = (r"shortcuts\.", r"pyramid\.levels\.(\d)\.")
    classifier_options = MappingProxyType(dict(out_type="cls_token"))
    no_weight_decay = ("cls_token$", "pos_embedding$")

    def __init__(
        self,
        *,
        embed_dims: int,
        depth: int,
        in_channels: int,
        patch_size: int,
        image_size: int,
        out_type: str,
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        norm_cfg: dict[str, Any],
        dw_kernel_sizes: Sequence[int] | str,
        dw_span: int | str,
        position_embedding: bool,
        zero_init: bool,
        norm_eps: float,
        position_antialias: bool,
        with_cp: bool,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None,
        num_class_tokens: int = 0,  # among the tokens that the blocks take
    ) -> None:
        """Makes all but the blocks and the class token."""
        if out_type not in OUT_TYPES:
            raise ArgumentError(f"out_type={out_type!r} is unknown; choose from {OUT_TYPES}")
        if patch_size % 4 or embed_dims % 4:
            raise ArgumentError(
                f"patch_size={patch_size} and embed_dims={embed_dims} must be multiples of 4: the "
                "pyramid's first map is four times as large as that of the patches"
            )
        check_image_size(image_size)
        channels = SimpleFeaturePyramid.level_channels(embed_dims)
        strides = (patch_size // 4, patch_size // 2, patch_size, patch_size * 2)
        super().__init__(
            channels, strides, out_indices, frozen_stages, norm_eval, with_cp, init_cfg
        )
        self.embed_dims, self.depth = embed_dims, depth
        self.patch_size = patch_size
        self.out_type = out_type
        self.position_antialias = position_antialias
        self.num_class_tokens = num_class_tokens
        self.grid_size = image_size // patch_size
        self.patch_embed = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)
        self.pos_embedding = None
        if position_embedding:
            num_positions = self.grid_size**2 + num_class_tokens
            self.pos_embedding = nn.Parameter(torch.randn(1, num_positions, embed_dims))
        self.blocks = nn.ModuleList()
        self.shortcuts = DepthwiseShortcuts(
            embed_dims,
            depth,
            kernel_sizes=dw_kernel_sizes,
            span=dw_span,
            norm_cfg=norm_cfg,
            zero_init=zero_init,
        )
        self.norm = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.pyramid = None
        if out_type == "cls_token":
            self.feature_channels, self.feature_strides = (embed_dims,), ()
            self.stage_channels, self.stage_strides = (embed_dims,), (patch_size,)
        else:
            self.pyramid = SimpleFeaturePyramid(embed_dims, self.out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, in_channels, H, W) to one (B, C, h, w) a level, or to one (B, C)."""
        tokens, size = self.run_tokens(x)
        if self.out_type == "cls_token":
            return (self.class_vector(tokens),)
        return self.feature_maps(tokens[:, self.num_class_tokens :], size, x.shape[-2:])

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """The last output of :meth:`forward`, and levels of the pyramid.

        For ``out_type='cls_token'``, which has no pyramid, index 0 is the map of the last block's
        patches, (B, C, h, w), before the output norm.
        """
        if self.out_type == "cls_token":
            tokens, size = self.run_tokens(x)
            patches = tokens[:, self.num_class_tokens :].transpose(1, 2).unflatten(2, size)
            return self.class_vector(tokens), [patches for _ in indices]
        levels = dict(zip(self.out_indices, self(x), strict=True))
        return levels[self.out_indices[-1]], [levels[index] for index in indices]

    def run_tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Maps images to all tokens after the blocks, class tokens first, and the grid's (h, w)."""
        tokens, size = self.embed_patches(x)
        return self.run_blocks(tokens, size), size

    def class_vector(self, tokens: Tensor) -> Tensor:
        """Maps all tokens after the blocks to the normalised class token, (B, C)."""
        return self.norm(tokens[:, 0])

    def embed_patches(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Maps (B, in_channels, H, W) to tokens (B, h * w, C) and their (h, w)."""
        self.check_input(x)
        x = self.patch_embed(pad_to_multiple(x, self.patch_size))
        return x.flatten(2).transpose(1, 2), tuple(x.shape[-2:])

    def positions(self, size: tuple[int, int], num_class_tokens: int = 0) -> Tensor:
        """The position embedding for a grid of this size: (1, num_class_tokens + h * w, C)."""
        return resize_positions(self.pos_embedding, size, num_class_tokens, self.position_antialias)

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
        """Gives our shapes to what others have in one tensor or in several, or transposed."""
        weight = weights.get(f"{prefix}patch_embed.weight")
        if weight is not None and weight.ndim == 2:  # vit-pytorch's, a linear layer
            side = math.isqrt(weight.shape[1] // 3)  # colours
            weights[f"{prefix}patch_embed.weight"] = _patches(weight, side)
        for key in [key for key in weights if key.startswith(prefix)]:
            name, _, part = key.rpartition(".")  # blocks.0.attn.qkv, weight
            attn, _, layer = name.rpartition(".")
            if part in ("scale1", "scale2"):
                weights[key] = weights[key].reshape(1, 1, -1)
            elif not attn.endswith(".attn"):
                continue
            elif layer == "qkv":  # at once in ViT
                qkv = weights.pop(key)
                third = len(qkv) // 3
                weights[f"{attn}.q.{part}"] = qkv[:third].clone()
                weights[f"{attn}.kv.{part}"] = qkv[third:].clone()
            elif layer == "k" and f"{attn}.v.{part}" in weights:  # each by itself in CaiT
                kv = [weights.pop(f"{attn}.{layer}.{part}") for layer in "kv"]
                weights[f"{attn}.kv.{part}"] = torch.cat(kv)
            elif layer.startswith("mix_heads_"):  # a linear layer in CaiT
                weights[name] = weights.pop(key).t().clone()
        return weights

    @classmethod
    def to_published(cls, weights: Weights, image_size: int = 224) -> Weights:
        check_authors_have(weights)
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
        if table is not None and table.ndim == 3 and own is not None and table.shape != own.shape:
            places = table.shape[1] - self.num_class_tokens
            if math.isqrt(places) ** 2 == places:
                size = (self.grid_size,) * 2
                table = resize_positions(table.float(), size, self.num_class_tokens, antialias=True)
                state_dict[f"{prefix}pos_embedding"] = table
        return state_dict


def _patches(weight: Tensor, side: int) -> Tensor:
    """The convolution that a linear layer is, on patches whose channels change fastest."""
    return weight.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2).contiguous()


def resize_positions(
    table: Tensor, size: tuple[int, int], num_class_tokens: int, antialias: bool = False
) -> Tensor:
    """Resizes (1, num_class_tokens + side * side, C) positions of a square grid bicubically.

    The result is (1, num_class_tokens + h * w, C); for (side, side) the values stay as they are.
    ``antialias`` resizes as timm does.
    """
    # PyTorch 2.7 compiles no math.isqrt; torch.jit.trace has tensors for sizes.
    side = round(int(table.shape[1] - num_class_tokens) ** 0.5)
    # No question whether the size fits already: an exported graph serves all sizes.
    grid = table[:, num_class_tokens:].transpose(1, 2).unflatten(2, (side, side))
    grid = F.interpolate(grid, size=size, mode="bicubic", antialias=antialias)
    return torch.cat([table[:, :num_class_tokens], grid.flatten(2).transpose(1, 2)], dim=1)
