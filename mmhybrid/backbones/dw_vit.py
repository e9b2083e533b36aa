"""ViT with depth-wise shortcuts."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmhybrid.backbones.base import Part, resolve_arch
from mmhybrid.backbones.dw_names import (
    LINEAR_HEAD,
    MLP_OF_MMCV,
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

TIMM = "https://huggingface.co/timm"
DINO = "https://dl.fbaipublicfiles.com/dino"
AUGREG = MappingProxyType(dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
HOST = MappingProxyType(dict(qkv_bias=True, norm_eps=1e-6, position_antialias=True, zero_init=True))


@MODELS.register_module()
class DWVisionTransformer(DWPlainBackbone):
    """ViT with depth-wise shortcuts, https://arxiv.org/abs/2407.19394, for small data sets.

    The host is that of the authors' code (https://github.com/ZTX-100/Efficient_ViT_with_DW), in the
    manner of vit-pytorch: no bias on queries, keys and values, positions added to the class token
    too. Beyond theirs it takes any size (the position embedding is resized bicubically, images
    are padded to whole patches) and gives dense maps.

    It starts from pretrained ViT, DeiT and DINO (timm's, their authors' and mmpretrain's names) and
    computes what they do with ``qkv_bias=True, norm_eps=1e-6, zero_init=True``, and with
    ``position_antialias=True`` at other sizes too. The distilled DeiT has two class tokens and does
    not fit.

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
    hosts = MappingProxyType(
        {
            "distilled DeiT (with two class tokens)": Published(
                signs=(r"^dist_token", r"^(blocks|layers)\.\d+\.attn\.qkv\.")
            ),
            "ViT or DeiT": Published(
                names=TIMM_STEM,
                classifier={"norm.": "backbone.norm.", **LINEAR_HEAD},
                signs=(r"^blocks\.\d+\.attn\.qkv\.", "cls_token|pos_embed"),
            ),
            "ViT or DeiT (mmpretrain's names)": Published(
                names={
                    "patch_embed.projection.": "patch_embed.",
                    "pos_embed": "pos_embedding",
                    **names_in("layers.*.", "blocks.*.", {"ln1.": "norm1.", "ln2.": "norm2."}),
                    **names_in("layers.*.", "blocks.*.", MLP_OF_MMCV),
                    "layers.*.": "blocks.*.",
                    "ln1.": "norm.",
                },
                classifier={"head.layers.head.": "head.fc."},
                signs=(r"^layers\.\d+\.attn\.qkv\.", "cls_token|pos_embed"),
            ),
        }
    )
    # Accuracies are those of timm's results/results-imagenet.csv, at 224 pixels.
    pretrained = (
        PretrainedWeights(
            "dw_vit_tiny.deit_in1k",
            "https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth",
            "ImageNet-1K",
            MappingProxyType({"top-1": 72.172, "top-5": 91.112}),
            "Apache-2.0",
            MappingProxyType(dict(arch="tiny", **HOST)),
            host="DeiT-T/16",
            sha256="a1311bcf",
        ),
        PretrainedWeights(
            "dw_vit_small.deit_in1k",
            "https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth",
            "ImageNet-1K",
            MappingProxyType({"top-1": 79.844, "top-5": 95.044}),
            "Apache-2.0",
            MappingProxyType(dict(arch="small", **HOST)),
            host="DeiT-S/16",
            sha256="cd65a155",
        ),
        PretrainedWeights(
            "dw_vit_tiny.augreg_in21k_ft_in1k",
            f"{TIMM}/vit_tiny_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors",
            "ImageNet-21K, then ImageNet-1K",
            MappingProxyType({"top-1": 75.454, "top-5": 92.844}),
            "Apache-2.0",
            MappingProxyType(dict(arch="tiny", **HOST)),
            host="ViT-T/16",
            preprocessing=AUGREG,
        ),
        PretrainedWeights(
            "dw_vit_small.augreg_in21k_ft_in1k",
            f"{TIMM}/vit_small_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors",
            "ImageNet-21K, then ImageNet-1K",
            MappingProxyType({"top-1": 81.384, "top-5": 96.136}),
            "Apache-2.0",
            MappingProxyType(dict(arch="small", **HOST)),
            host="ViT-S/16",
            preprocessing=AUGREG,
        ),
        PretrainedWeights(
            "dw_vit_small.dino",
            f"{DINO}/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
            "ImageNet-1K, without labels",
            MappingProxyType({}),
            "Apache-2.0",
            MappingProxyType(dict(arch="small", **HOST)),
            host="DINO ViT-S/16",
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
        zero_init: bool = False,
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
        position_antialias: bool = False,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        if out_type == "cls_token" and not class_token:
            raise ArgumentError("out_type='cls_token' needs class_token=True")
        settings = resolve_arch(arch, self.presets, defaults="tiny")
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
            num_class_tokens=int(class_token),
        )
        dims, heads, ratio = self.embed_dims, settings["num_heads"], settings["mlp_ratio"]
        self.cls_token = nn.Parameter(torch.randn(1, 1, dims)) if class_token else None
        self.blocks.extend(
            TransformerBlock(
                dims,
                heads,
                mlp_ratio=ratio,
                norm_eps=norm_eps,
                drop_path_rate=rate,
                qkv_bias=qkv_bias,
            )
            for rate in drop_path_rates(drop_path_rate, (self.depth,))[0]
        )
        self.freeze_stages()

    def run_tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tokens, size = self.embed_patches(x)
        if self.cls_token is not None:
            cls_tokens = self.cls_token.to(tokens).expand(x.shape[0], -1, -1)
            tokens = torch.cat([cls_tokens, tokens], dim=1)
        return self.run_blocks(tokens, size), size

    def stem_parts(self) -> list[Part]:
        return [*super().stem_parts(), *([] if self.cls_token is None else [self.cls_token])]

    @classmethod
    def suggest(cls, weights: Weights) -> dict[str, Any] | None:
        options = host_options(weights, num_class_tokens=1)
        blocks = shapes_of(weights, r"(?:blocks|layers)\.(\d+)\.attn\.qkv\.weight")
        if not (options and blocks):
            return None
        dims = next(iter(blocks.values()))[1]
        settings = dict(embed_dims=dims, depth=max(blocks)[0] + 1, num_heads=max(dims // 64, 1))
        return as_arguments(cls, settings, **options)

    @classmethod
    def to_published(cls, weights: Weights, image_size: int = 224) -> Weights:
        for key in [key for key in weights if key.endswith(".attn.q.weight")]:
            name = key.removesuffix("q.weight")
            parts = [weights.pop(f"{name}{part}.weight") for part in ("q", "kv")]
            weights[f"{name}qkv.weight"] = torch.cat(parts)
        return super().to_published(weights, image_size)
