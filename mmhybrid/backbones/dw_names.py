"""What the families with depth-wise shortcuts share: the paper, and the authors' names."""

from collections.abc import Mapping

from torch import Tensor

from mmhybrid.backbones.family import Paper
from mmhybrid.errors import ArgumentError

DW_PAPER = Paper(
    "DW shortcut",
    "Depth-Wise Convolutions in Vision Transformers for Efficient Training on Small Datasets",
    "https://arxiv.org/abs/2407.19394",
    "mmhybrid/layers/depthwise_shortcut.py",
    ("Depth-wise Convolution", "Self-attention"),
)
VIT_PYTORCH_HEAD = {"mlp_head.0.": "backbone.norm.", "mlp_head.1.": "head.fc."}
SWIN_HEAD = {
    "norm.": "backbone.norm3.",
    "head.weight": "head.fc.weight",
    "head.bias": "head.fc.bias",
}


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


def check_one_kernel(weights: Mapping[str, Tensor]) -> None:
    """Raises ArgumentError for shortcuts that the authors' models cannot have."""
    for name in weights:
        if ".convs." in name and not name.partition(".convs.")[2].startswith("0."):
            raise ArgumentError(
                f"the authors' models have one kernel a shortcut; {name} is one of several"
            )
