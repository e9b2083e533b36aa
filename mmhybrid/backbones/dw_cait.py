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

    Other arguments: see :class:`mmhybrid.backbones.dw_plain.DWPlainBackbone`.

    Args:
        arch (str | dict): ``'xxs12'`` or ``'xxs24'``, or any of their settings. Defaults to
            ``'xxs12'``.
        layer_dropout (float): Probability with which a sample skips a patch block in training.
            Shortcuts are never skipped. Published: 0. Defaults to 0.
        layer_scale (bool): Whether residuals are scaled by learned factors, which start at 0.1 up
            to the 18th block of a stage, at 1e-5 up to the 24th and at 1e-6 beyond. Defaults to
            True.
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
            return TransformerBlock(
                self.embed_dims,
                settings["num_heads"],
                mlp_ratio=settings["mlp_ratio"],
                talking_heads=talking_heads,
                layer_scale_init=_layer_scale_init(index) if layer_scale else None,
                **dropping,
            )

        rates = drop_path_rates(drop_path_rate, (self.depth,))[0]
        self.blocks.extend(
            block(i, drop_path_rate=rate, layer_dropout=layer_dropout)
            for i, rate in enumerate(rates)
        )
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


def _layer_scale_init(index: int) -> float:
    return 0.1 if index < 18 else 1e-5 if index < 24 else 1e-6
