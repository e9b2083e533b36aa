"""A vision transformer with depth-wise shortcuts."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmhybrid.backbones.base import Part, resolve_arch
from mmhybrid.backbones.dw_names import VIT_PYTORCH_HEAD, shortcut_names, vit_pytorch_names
from mmhybrid.backbones.dw_plain import DWPlainBackbone
from mmhybrid.backbones.family import Published
from mmhybrid.errors import ArgumentError
from mmhybrid.layers.drop_path import drop_path_rates
from mmhybrid.layers.transformer_block import TransformerBlock


@MODELS.register_module()
class DWVisionTransformer(DWPlainBackbone):
    """ViT with depth-wise shortcuts, https://arxiv.org/abs/2407.19394, for small data sets.

    The host is that of the authors' code (https://github.com/ZTX-100/Efficient_ViT_with_DW), in the
    manner of vit-pytorch: no bias on queries, keys and values, positions added to the class token
    too. Beyond theirs it takes any size (the position embedding is resized bicubically, images
    are padded to whole patches) and gives dense maps.

    Arguments that are not listed are those of :class:`mmhybrid.backbones.HybridBackbone`.

    Args:
        arch (str | dict): ``'tiny'`` or ``'small'`` (short ``'t'``, ``'s'``), or any of their
            settings; the rest is taken from ``'tiny'``. Defaults to ``'tiny'``.
        in_channels (int): Channels of the images. Defaults to 3.
        patch_size (int): Side of a patch, in pixels; a multiple of 4. Defaults to 16.
        image_size (int): Side of the images, in pixels, that the position embedding is made for.
            Defaults to 224.
        out_type (str): ``'featmap'`` for a pyramid of four maps, made of the last block's tokens
            without the class token (ViTDet's simple feature pyramid; strides 1/4, 1/2, 1 and 2
            times ``patch_size``), or ``'cls_token'`` for one (B, C) vector, which is what
            mmpretrain's ``LinearClsHead`` takes. With the vector, the last shortcut cannot change
            the output (it leaves the class token alone): its gradient is zero, not None. Defaults
            to ``'featmap'``.
        out_indices (Sequence[int]): Levels of the pyramid to return; ``'cls_token'`` has none.
            Defaults to (0, 1, 2, 3).
        norm_cfg (dict): Batch normalisations of the shortcuts. Defaults to ``dict(type='BN')``.
        drop_path_rate (float): Stochastic depth rate of the last patch block, rising linearly from
            0. Published: 0. Defaults to 0.
        dw_kernel_sizes (Sequence[int] | str): Kernel sizes of each shortcut's parallel branches;
            ``()`` is the plain host, ``'identity'`` adds the blocks' inputs once more (the paper's
            ablation). Defaults to (3,).
        dw_span (int | str): Blocks that one shortcut bypasses, or ``'stage'`` for all of them; a
            remainder of blocks gets a shortcut of its own. Defaults to 1.
        position_embedding (bool): Whether learned positions are added. With shortcuts, small data
            sets lose little without. Defaults to True.
        class_token (bool): Whether there is one. Defaults to True.

    Example:
        >>> import torch
        >>> from mmhybrid.backbones import DWVisionTransformer
        >>> [tuple(y.shape) for y in DWVisionTransformer('t')(torch.zeros(2, 3, 64, 64))]
        [(2, 48, 16, 16), (2, 96, 8, 8), (2, 192, 4, 4), (2, 192, 2, 2)]
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
    test_options: Mapping[str, Any] = MappingProxyType(dict(arch=dict(embed_dims=48, depth=4)))
    presets: Mapping[str, Mapping[str, Any]] = MappingProxyType(
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
        dims, depth = settings["embed_dims"], settings["depth"]
        self.num_class_tokens = int(class_token)
        num_positions = (image_size // patch_size) ** 2 + self.num_class_tokens
        super().__init__(
            embed_dims=dims,
            depth=depth,
            in_channels=in_channels,
            patch_size=patch_size,
            image_size=image_size,
            out_type=out_type,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            norm_cfg=norm_cfg,
            dw_kernel_sizes=dw_kernel_sizes,
            dw_span=dw_span,
            num_positions=num_positions if position_embedding else 0,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        self.cls_token = nn.Parameter(torch.randn(1, 1, dims)) if class_token else None
        for rate in drop_path_rates(drop_path_rate, (depth,))[0]:
            self.blocks.append(
                TransformerBlock(
                    dims,
                    settings["num_heads"],
                    mlp_ratio=settings["mlp_ratio"],
                    drop_path_rate=rate,
                )
            )
        self.freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, in_channels, H, W) to one (B, C, h, w) a level, or to one (B, C)."""
        tokens, size = self.embed_patches(x)
        if self.cls_token is not None:
            tokens = torch.cat(
                [self.cls_token.to(tokens).expand(x.shape[0], -1, -1), tokens], dim=1
            )
        if self.pos_embedding is not None:
            tokens = tokens + self.positions(size, self.num_class_tokens).to(tokens)
        tokens = self.shortcuts.run(
            self.blocks,
            tokens,
            size,
            self.run_block,
            num_class_tokens=self.num_class_tokens,
        )
        if self.out_type == "cls_token":
            return (self.norm(tokens[:, 0]),)
        return self.feature_maps(tokens[:, self.num_class_tokens :], size, x.shape[-2:])

    def stem_parts(self) -> list[Part]:
        return [*super().stem_parts(), *([] if self.cls_token is None else [self.cls_token])]

    @classmethod
    def to_published(cls, weights: dict[str, Tensor], image_size: int = 224) -> dict[str, Tensor]:
        for key in [key for key in weights if key.endswith(".attn.q.weight")]:
            name = key.removesuffix("q.weight")
            parts = [weights.pop(f"{name}{part}.weight") for part in ("q", "kv")]
            weights[f"{name}qkv.weight"] = torch.cat(parts)
        return super().to_published(weights, image_size)
