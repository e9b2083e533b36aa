"""CaiT with depth-wise shortcuts."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmhybrid.backbones.base import Part, resolve_arch
from mmhybrid.backbones.dw_names import (
    LINEAR_HEAD,
    TIMM_STEM,
    VIT_PYTORCH_HEAD,
    as_arguments,
    host_options,
    names_in,
    shapes_of,
    shortcut_names,
    vit_pytorch_names,
)
from mmhybrid.backbones.dw_plain import DWPlainBackbone
from mmhybrid.backbones.family import PretrainedWeights, Published, Weights
from mmhybrid.errors import ArgumentError
from mmhybrid.layers.drop_path import drop_path_rates
from mmhybrid.layers.transformer_block import TransformerBlock

HOST_BLOCK = {
    "gamma_1": "scale1",
    "gamma_2": "scale2",
    "attn.proj_l.bias": "attn.mix_heads_pre_attn_bias",
    "attn.proj_w.bias": "attn.mix_heads_post_attn_bias",
    "attn.proj_l.": "attn.mix_heads_pre_attn.",
    "attn.proj_w.": "attn.mix_heads_post_attn.",
}


@MODELS.register_module()
class DWCaiT(DWPlainBackbone):
    """CaiT with depth-wise shortcuts, https://arxiv.org/abs/2407.19394, for small data sets.

    The host is that of the authors' code (https://github.com/ZTX-100/Efficient_ViT_with_DW), in the
    manner of vit-pytorch; it differs from Facebook's CaiT (https://arxiv.org/abs/2103.17239) in
    that queries, keys, values and talking heads have no bias and that class attention takes the
    patches unnormalised and mixes heads. Blocks of the class stage have no shortcuts; dense maps,
    which the authors' code does not give, need no class stage, which is then not built.

    The paper's models for small data sets have ``layer_scale=False``, ``talking_heads=False`` and
    ``position_embedding=False``, those for ImageNet ``layer_scale=False``.

    It starts from Facebook's CaiT (timm's and their names, which are the same) and computes what
    that does with ``qkv_bias=True, norm_eps=1e-6, talking_heads_bias=True,
    facebook_class_stage=True, zero_init=True``.

    Other arguments: see :class:`DWPlainBackbone`.

    Args:
        arch (str | dict): ``'xxs12'`` (the default), ``'xxs24'``, or any of their settings.
        layer_dropout (float): Probability with which a sample skips a patch block in training.
            Shortcuts are never skipped. Published: 0. Defaults to 0.
        layer_scale (bool): Whether residuals have learned factors. They start at 0.1 up to the 18th
            block of a stage, at 1e-5 up to the 24th, at 1e-6 beyond. Defaults to True.
        talking_heads (bool): Whether heads are mixed around the softmax. Without, attention is
            fused and much faster. Defaults to True.
        talking_heads_bias (bool): Whether mixing heads adds a bias. Defaults to False, the paper's.
        facebook_class_stage (bool): Whether class attention normalises the patches too and never
            mixes heads, as in Facebook's CaiT. Defaults to False, the paper's.

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
    hosts = MappingProxyType(
        {
            "CaiT": Published(
                names={
                    **TIMM_STEM,
                    **names_in("blocks.*.", "blocks.*.", HOST_BLOCK),
                    **names_in("blocks_token_only.*.", "cls_blocks.*.", HOST_BLOCK),
                    "blocks_token_only.": "cls_blocks.",
                },
                classifier={"norm.": "backbone.norm.", **LINEAR_HEAD},
                # Dense maps need no class stage, and a file may have none.
                signs=(r"blocks_token_only\.\d|^blocks\.\d+\.attn\.proj_l\.",),
            ),
        }
    )
    pretrained = (
        PretrainedWeights(
            "dw_cait_xxs24.in1k",
            "https://dl.fbaipublicfiles.com/deit/XXS24_224.pth",
            "ImageNet-1K, distilled",
            # timm's results/results-imagenet.csv
            MappingProxyType({"top-1": 78.384, "top-5": 94.316}),
            "Apache-2.0",
            MappingProxyType(
                dict(
                    arch="xxs24",
                    qkv_bias=True,
                    norm_eps=1e-6,
                    talking_heads_bias=True,
                    facebook_class_stage=True,
                    zero_init=True,
                )
            ),
            host="CaiT-XXS24",
            preprocessing=MappingProxyType(dict(crop_pct=1.0)),
        ),
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
        zero_init: bool = False,
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
        talking_heads_bias: bool = False,
        facebook_class_stage: bool = False,
        position_antialias: bool = False,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        settings = resolve_arch(arch, self.presets, defaults="xxs12")
        super().__init__(
            embed_dims=settings["embed_dims"],
            depth=settings["depth"],
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
            position_embedding=position_embedding,
            zero_init=zero_init,
            norm_eps=norm_eps,
            position_antialias=position_antialias,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )

        def block(index: int, in_class_stage: bool = False, **dropping: float) -> TransformerBlock:
            facebook = in_class_stage and facebook_class_stage
            scale = 0.1 if index < 18 else 1e-5 if index < 24 else 1e-6
            return TransformerBlock(
                self.embed_dims,
                settings["num_heads"],
                mlp_ratio=settings["mlp_ratio"],
                norm_eps=norm_eps,
                qkv_bias=qkv_bias,
                talking_heads=talking_heads and not facebook,
                talking_heads_bias=talking_heads_bias,
                normalise_context=facebook,
                layer_scale_init=scale if layer_scale else None,
                **dropping,
            )

        for i, rate in enumerate(drop_path_rates(drop_path_rate, (self.depth,))[0]):
            self.blocks.append(block(i, drop_path_rate=rate, layer_dropout=layer_dropout))
        self.cls_token = None
        self.cls_blocks = nn.ModuleList()
        if out_type == "cls_token":
            self.cls_token = nn.Parameter(torch.randn(1, 1, self.embed_dims))
            self.cls_blocks.extend(block(i, True) for i in range(settings["cls_depth"]))
        self.freeze_stages()

    def class_vector(self, tokens: Tensor) -> Tensor:
        cls_token = self.cls_token.to(tokens).repeat(tokens.shape[0], 1, 1)
        for block in self.cls_blocks:
            cls_token = self.run_block(block, cls_token, tokens)
        return self.norm(cls_token[:, 0])

    @classmethod
    def suggest(cls, weights: Weights) -> dict[str, Any] | None:
        options = host_options(weights, num_class_tokens=0)
        heads = shapes_of(weights, r"blocks\.(\d+)\.attn\.proj_l\.bias")
        class_stage = shapes_of(weights, r"blocks_token_only\.(\d+)\.attn\.q\.weight")
        if not (options and heads and class_stage):
            return None
        settings = dict(
            embed_dims=next(iter(class_stage.values()))[0],
            depth=max(heads)[0] + 1,
            cls_depth=max(class_stage)[0] + 1,
            num_heads=next(iter(heads.values()))[0],
        )
        return as_arguments(
            cls, settings, **options, talking_heads_bias=True, facebook_class_stage=True
        )

    @classmethod
    def to_published(cls, weights: Weights, image_size: int = 224) -> Weights:
        mixed = {name.partition("blocks.")[0] for name in weights if ".attn.mix_heads_" in name}
        if mixed == {""} and any(name.startswith("cls_blocks.") for name in weights):
            raise ArgumentError("the authors' class attention mixes heads where the others do")
        return super().to_published(weights, image_size)

    def block_names(self) -> list[str]:
        return super().block_names() + [f"cls_blocks.{i}" for i in range(len(self.cls_blocks))]

    def end_parts(self) -> list[Part]:
        class_stage = [] if self.cls_token is None else [self.cls_token, self.cls_blocks]
        return [*super().end_parts(), *class_stage]
