"""CaiT with depth-wise shortcuts."""

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
from mmhybrid.layers.drop_path import drop_path_rates
from mmhybrid.layers.transformer_block import TransformerBlock


@MODELS.register_module()
class DWCaiT(DWPlainBackbone):
    """CaiT with depth-wise shortcuts, https://arxiv.org/abs/2407.19394, for small data sets.

    The host is that of the authors' code (https://github.com/ZTX-100/Efficient_ViT_with_DW), in the
    manner of vit-pytorch; it differs from Facebook's CaiT (https://arxiv.org/abs/2103.17239) in
    that queries, keys and values have no bias and that class attention takes the patches
    unnormalised. All blocks of the patch stage have shortcuts, those of the class stage none.
    Beyond the authors' code it takes any size and gives dense maps; these need no class stage,
    which is then not built.

    The paper's models for small data sets have ``layer_scale=False``, ``talking_heads=False`` and
    ``position_embedding=False``, those for ImageNet ``layer_scale=False``.

    Arguments that are not listed are those of :class:`mmhybrid.backbones.HybridBackbone`.

    Args:
        arch (str | dict): ``'xxs12'`` or ``'xxs24'``, or any of their settings; the rest is taken
            from ``'xxs12'``. Defaults to ``'xxs12'``.
        in_channels (int): Channels of the images. Defaults to 3.
        patch_size (int): Side of a patch, in pixels; a multiple of 4. Defaults to 16.
        image_size (int): Side of the images, in pixels, that the position embedding is made for.
            Defaults to 224.
        out_type (str): ``'featmap'`` for a pyramid of four maps, made of the last patch block
            (ViTDet's simple feature pyramid; strides 1/4, 1/2, 1 and 2 times ``patch_size``), or
            ``'cls_token'`` for the (B, C) vector of the class stage, which is what mmpretrain's
            ``LinearClsHead`` takes. Defaults to ``'featmap'``.
        out_indices (Sequence[int]): Levels of the pyramid to return; ``'cls_token'`` has none.
            Defaults to (0, 1, 2, 3).
        norm_cfg (dict): Batch normalisations of the shortcuts. Defaults to ``dict(type='BN')``.
        drop_path_rate (float): Stochastic depth rate of the last patch block, rising linearly from
            0. Published: 0. Defaults to 0.
        layer_dropout (float): Probability with which a sample skips a patch block in training.
            Shortcuts are never skipped. Published: 0. Defaults to 0.
        dw_kernel_sizes (Sequence[int] | str): Kernel sizes of each shortcut's parallel branches;
            ``()`` is the plain host, ``'identity'`` adds the blocks' inputs once more (the paper's
            ablation). Defaults to (3,).
        dw_span (int | str): Blocks that one shortcut bypasses, or ``'stage'`` for all of them; a
            remainder of blocks gets a shortcut of its own. Defaults to 1.
        position_embedding (bool): Whether learned positions are added. Defaults to True.
        layer_scale (bool): Whether residuals are scaled by learned factors, which start at 0.1 up
            to the 18th block of a stage, at 1e-5 up to the 24th and at 1e-6 beyond. Defaults to
            True.
        talking_heads (bool): Whether heads are mixed around the softmax. Without, attention is
            fused and much faster. Defaults to True.

    Example:
        >>> import torch
        >>> from mmhybrid.backbones import DWCaiT
        >>> [tuple(y.shape) for y in DWCaiT('xxs12')(torch.zeros(2, 3, 64, 64))]
        [(2, 48, 16, 16), (2, 96, 8, 8), (2, 192, 4, 4), (2, 192, 2, 2)]
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
    test_options: Mapping[str, Any] = MappingProxyType(dict(arch=dict(embed_dims=48, depth=4)))
    presets: Mapping[str, Mapping[str, Any]] = MappingProxyType(
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
        dims, depth = settings["embed_dims"], settings["depth"]
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
            num_positions=(image_size // patch_size) ** 2 if position_embedding else 0,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )

        def block(index: int, drop_path_rate: float, layer_dropout: float) -> TransformerBlock:
            return TransformerBlock(
                dims,
                settings["num_heads"],
                mlp_ratio=settings["mlp_ratio"],
                drop_path_rate=drop_path_rate,
                talking_heads=talking_heads,
                layer_scale_init=_layer_scale_init(index) if layer_scale else None,
                layer_dropout=layer_dropout,
            )

        for index, rate in enumerate(drop_path_rates(drop_path_rate, (depth,))[0]):
            self.blocks.append(block(index, rate, layer_dropout))
        self.cls_token = None
        self.cls_blocks = nn.ModuleList()
        if out_type == "cls_token":
            self.cls_token = nn.Parameter(torch.randn(1, 1, dims))
            self.cls_blocks.extend(block(i, 0.0, 0.0) for i in range(settings["cls_depth"]))
        self.freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, in_channels, H, W) to one (B, C, h, w) a level, or to one (B, C)."""
        tokens, size = self.embed_patches(x)
        if self.pos_embedding is not None:
            tokens = tokens + self.positions(size).to(tokens)
        tokens = self.shortcuts.run(self.blocks, tokens, size, self.run_block)
        if self.out_type == "featmap":
            return self.feature_maps(tokens, size, x.shape[-2:])
        cls_token = self.cls_token.to(tokens).repeat(x.shape[0], 1, 1)
        for block in self.cls_blocks:
            cls_token = self.run_block(block, cls_token, tokens)
        return (self.norm(cls_token[:, 0]),)

    def end_parts(self) -> list[Part]:
        class_stage = [] if self.cls_token is None else [self.cls_token, self.cls_blocks]
        return [*super().end_parts(), *class_stage]


def _layer_scale_init(index: int) -> float:
    return 0.1 if index < 18 else 1e-5 if index < 24 else 1e-6
