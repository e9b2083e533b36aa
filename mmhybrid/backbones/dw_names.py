"""What the families with depth-wise shortcuts share: the paper, and the names of others."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmhybrid.backbones.family import Backbone, Paper
from mmhybrid.errors import ArgumentError

DW_PAPER = Paper(
    "DW shortcut",
    "Depth-Wise Convolutions in Vision Transformers for Efficient Training on Small Datasets",
    "https://arxiv.org/abs/2407.19394",
    "mmhybrid/layers/depthwise_shortcut.py",
    ("Depth-wise Convolution", "Self-attention"),
)
VIT_PYTORCH_HEAD = {"mlp_head.0.": "backbone.norm.", "mlp_head.1.": "head.fc."}
LINEAR_HEAD = {"head.weight": "head.fc.weight", "head.bias": "head.fc.bias"}
SWIN_HEAD = {"norm.": "backbone.norm3.", **LINEAR_HEAD}
TIMM_STEM = {"patch_embed.proj.": "patch_embed.", "pos_embed": "pos_embedding"}
MLP_OF_MMCV = {"ffn.layers.0.0.": "mlp.fc1.", "ffn.layers.1.": "mlp.fc2."}
Numbers = tuple[int, ...]
# What some relatives of ViT compute beyond it: LayerScale, normalised queries, more tokens.
_MORE = re.compile(r"\.(ls1|attn\.q_norm|attn\.q_bias)|dist_token|reg(ister)?_token|norm_pre\.")


def shortcut_names(theirs: str, ours: str = "") -> dict[str, str]:
    """The depth-wise shortcuts of a model or of its stages, whose names begin so."""
    return {
        f"{theirs}convs.*.": f"{ours}shortcuts.*.convs.0.",
        f"{theirs}batchnorms.*.": f"{ours}shortcuts.*.norms.0.",
    }


def vit_pytorch_names(theirs: str, ours: str, layer_scale: bool = False) -> dict[str, str]:
    """Transformer blocks as vit-pytorch names them; LayerScale wraps them in one more ``fn``."""
    attention, mlp = f"{theirs}.layers.*.0.", f"{theirs}.layers.*.1."
    ours = f"{ours}.*."
    scales = {f"{attention}scale": f"{ours}scale1", f"{mlp}scale": f"{ours}scale2"}
    if layer_scale:
        attention, mlp = f"{attention}fn.", f"{mlp}fn."
    return {
        **(scales if layer_scale else {}),
        f"{attention}norm.": f"{ours}norm1.",
        f"{attention}fn.to_out.0.": f"{ours}attn.proj.",
        f"{attention}fn.mix_heads_": f"{ours}attn.mix_heads_",
        f"{attention}fn.to_": f"{ours}attn.",
        f"{mlp}norm.": f"{ours}norm2.",
        f"{mlp}fn.net.0.": f"{ours}mlp.fc1.",
        f"{mlp}fn.net.3.": f"{ours}mlp.fc2.",
    }


def names_in(theirs: str, ours: str, names: Mapping[str, str]) -> dict[str, str]:
    """Names of the parts of a block, whose own name begins so."""
    return {theirs + old: ours + new for old, new in names.items()}


def check_authors_have(weights: Mapping[str, Tensor]) -> None:
    """Raises ArgumentError for what the authors' models cannot have."""
    for name in weights:
        if ".convs." in name and not name.partition(".convs.")[2].startswith("0."):
            raise ArgumentError(
                f"the authors' models have one kernel a shortcut; {name} is one of several"
            )
        if re.search(r"\.attn\.(q\.bias|mix_heads_\w+_bias)$", name):
            raise ArgumentError(f"the authors' models have no bias such as {name}")


def shapes_of(weights: Mapping[str, Tensor], pattern: str) -> dict[Numbers, Numbers]:
    """Shapes of tensors whose names end so, by the numbers that the pattern's groups match."""
    found = ((re.search(rf"(?:^|\.){pattern}$", key), tensor) for key, tensor in weights.items())
    return {tuple(map(int, m.groups())): tuple(tensor.shape) for m, tensor in found if m}


def host_options(weights: Mapping[str, Tensor], num_class_tokens: int) -> dict | None:
    """Constructor arguments, but for ``arch``, with which ViT or CaiT takes a host's weights whole.

    None if these are weights of no such host.
    """
    stem = shapes_of(weights, r"patch_embed\.proj(?:ection)?\.weight").get((), ())
    positions = shapes_of(weights, "pos_embed").get((), (0, 0))[1] - num_class_tokens
    side = math.isqrt(max(positions, 0))
    if len(stem) != 4 or side == 0 or side**2 != positions or any(map(_MORE.search, weights)):
        return None
    _, in_channels, patch_size, _ = stem
    sizes = dict(in_channels=in_channels, patch_size=patch_size, image_size=side * patch_size)
    if any(re.search(r"\.attn\.qkv\.bias$", key) for key in weights):
        sizes["qkv_bias"] = True
    usual = dict(in_channels=3, patch_size=16, image_size=224)
    other = {key: value for key, value in sizes.items() if usual.get(key) != value}
    return {**other, "norm_eps": 1e-6}


def as_arguments(
    backbone: type[Backbone], settings: dict[str, Any], **options: Any
) -> dict[str, Any]:
    """Constructor arguments, whose ``arch`` is the preset with these settings, or they."""
    presets = backbone.presets.items()
    arch = next((key for key, preset in presets if settings.items() <= preset.items()), settings)
    return {"arch": arch, **options, "zero_init": True}
