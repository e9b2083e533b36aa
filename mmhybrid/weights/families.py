"""Whose weights a checkpoint holds, and how their names become ours.

To add a family, add a line to :data:`FAMILIES`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

Renames = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Family:
    """One kind of weights.

    Attributes:
        name: whose they are, for messages.
        signs: regular expressions; weights are of this family if each is found in some name.
        backbone: (regular expression, replacement) pairs that turn published names into those of
            our backbone, which has no prefix here.
        classifier: the same for what belongs to a classifier, with the names that an
            ``ImageClassifier`` gives it. Applied only where the model has all of them.
    """

    name: str
    signs: tuple[str, ...]
    backbone: Renames = ()
    classifier: Renames = ()


def _shortcuts(before: str) -> Renames:
    """The depth-wise shortcuts of the authors; a group in ``before`` is kept."""
    kept = r"\1" if "(" in before else ""
    index = r"\2" if kept else r"\1"
    return (
        (rf"^{before}convs\.(\d+)\.", rf"{kept}shortcuts.{index}.convs.0."),
        (rf"^{before}batchnorms\.(\d+)\.", rf"{kept}shortcuts.{index}.norms.0."),
    )


def _vit_pytorch_blocks(before: str, after: str) -> Renames:
    """Transformer blocks as vit-pytorch names them; LayerScale wraps them in one more ``fn``."""
    attention = rf"^{before}\.layers\.(\d+)\.0\."
    feed_forward = rf"^{before}\.layers\.(\d+)\.1\."
    return (
        (attention + "scale$", rf"{after}.\1.scale1"),
        (attention + r"(?:fn\.)?norm\.", rf"{after}.\1.norm1."),
        (attention + r"(?:fn\.)+to_out\.0\.", rf"{after}.\1.attn.proj."),
        (attention + r"(?:fn\.)+to_(qkv|q|kv)\.", rf"{after}.\1.attn.\2."),
        (attention + r"(?:fn\.)+(mix_heads_\w+)$", rf"{after}.\1.attn.\2"),
        (feed_forward + "scale$", rf"{after}.\1.scale2"),
        (feed_forward + r"(?:fn\.)?norm\.", rf"{after}.\1.norm2."),
        (feed_forward + r"(?:fn\.)+net\.0\.", rf"{after}.\1.mlp.fc1."),
        (feed_forward + r"(?:fn\.)+net\.3\.", rf"{after}.\1.mlp.fc2."),
    )


VIT_PYTORCH_HEAD = ((r"^mlp_head\.0\.", "backbone.norm."), (r"^mlp_head\.1\.", "head.fc."))
SWIN_HEAD = ((r"^norm\.", "backbone.norm3."), (r"^head\.(?=weight|bias)", "head.fc."))
SHORTCUTS = r"shortcuts\.\d+\.convs\."  # as ours are named
FAMILIES = (
    Family(
        "TransXNet",
        (r"relative_pos_enc\.\d", r"network\.\d+\.\d+\.token_mixer\."),
        # Our backbone keeps the authors' names.
        classifier=(
            (r"^classifier\.0\.", "backbone.norm6."),
            (r"^classifier\.2\.", "head.fc."),
        ),
    ),
    Family(
        "DW-ViT",
        (r"^transformer\.convs\.", r"^transformer\.batchnorms\."),
        backbone=(
            (r"^to_patch_embedding\.1\.", "patch_embed."),
            *_shortcuts("transformer."),
            *_vit_pytorch_blocks("transformer", "blocks"),
        ),
        classifier=VIT_PYTORCH_HEAD,
    ),
    Family(
        "DW-CaiT",
        (r"patch_transformer\.convs\.", r"patch_transformer\.batchnorms\."),
        backbone=(
            (r"^to_patch_embedding\.1\.", "patch_embed."),
            *_shortcuts("patch_transformer."),
            *_vit_pytorch_blocks("patch_transformer", "blocks"),
            *_vit_pytorch_blocks("cls_transformer", "cls_blocks"),
        ),
        classifier=VIT_PYTORCH_HEAD,
    ),
    Family(
        "DW-Swin",
        (r"layers\.\d+\.batchnorms\.", r"relative_position_bias_table"),
        # Our backbone keeps Microsoft's names.
        backbone=_shortcuts(r"(layers\.\d+\.)"),
        classifier=SWIN_HEAD,
    ),
    # Ours under our own names; TransXNet's are the authors'.
    Family("DMFormer", (r"stages\.\d+\.\d+\.attention\.branches\.\d",)),
    Family("XFormer", (r"stages\.\d+\.\d+\.fusion\.",)),
    Family("DW-Swin (mmhybrid's names)", (rf"layers\.\d+\.{SHORTCUTS}",)),
    Family(
        "DW-CaiT (mmhybrid's names)",
        (SHORTCUTS, r"(cls_blocks\.\d|blocks\.\d+\.(scale1|attn\.mix_heads))"),
    ),
    Family("DW-ViT (mmhybrid's names)", (SHORTCUTS, r"cls_token")),
    Family("DW-ViT or DW-CaiT (mmhybrid's names)", (SHORTCUTS,)),
    Family("DepthwiseShortcutBackbone", (r"shortcuts\.\d+\.\d+\.convs\.",)),
    # What users load by mistake. More special ones come first.
    Family("Swin (mmdet's names)", (r"stages\.\d+\.blocks\.\d+\.attn\.w_msa\.",)),
    Family(
        "Swin",
        (r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table",),
        classifier=SWIN_HEAD,
    ),
    Family("ConvNeXt", (r"stages\.\d+\.\d+\.(dwconv|depthwise_conv)\.",)),
    Family("ConvNeXt (timm's names)", (r"stages\.\d+\.blocks\.\d+\.conv_dw\.",)),
    Family("VAN", (r"block\d\.\d+\.attn\.spatial_gating_unit\.",)),
    Family("PVT v2 or MiT (SegFormer)", (r"block\d\.\d+\.mlp\.dwconv\.",)),
    Family("PVT", (r"block\d\.\d+\.attn\.kv\.",)),
    Family("MiT (SegFormer, mmseg's names)", (r"layers\.\d+\.\d+\.\d+\.attn\.attn\.in_proj",)),
    Family("CaiT", (r"blocks_token_only\.\d",)),
    Family("ViT or DeiT", (r"(blocks|layers)\.\d+\.attn\.qkv\.", r"(cls_token|pos_embed)")),
    Family("ViT (vit-pytorch's names)", (r"to_patch_embedding\.\d", r"pos_embedding")),
    Family("PoolFormer", (r"network\.\d+\.\d+\.layer_scale_1",)),
    Family("ResNet", (r"layer1\.\d+\.conv1\.", r"layer4\.\d+\.conv1\.")),
    Family("Darknet", (r"conv_res_block\d\.",)),
    Family("VGG", (r"features\.28\.",)),
    Family("MobileNet", (r"features\.\d+\.conv\.\d",)),
)
WHOLE_MODELS = (
    ("a detector", r"^(rpn_head|roi_head|bbox_head|query_embedding)\."),
    ("a segmentor", r"^(decode_head|auxiliary_head)\."),
    ("a classifier", r"^(head|classifier|mlp_head|fc)\."),
)


def recognise(keys: Iterable[str]) -> Family | None:
    """The family of these names, None if it is unknown."""
    bare = [key.removeprefix("backbone.") for key in keys]
    for family in FAMILIES:
        if all(any(re.search(sign, key) for key in bare) for sign in family.signs):
            return family
    return None


def describe(keys: Collection[str]) -> str:
    """Whose keys these seem to be, in words."""
    family = recognise(keys)
    whole = next((n for n, sign in WHOLE_MODELS if any(re.search(sign, key) for key in keys)), None)
    if family is None:
        names = ", ".join(sorted(keys)[:4])
        return f"{whole or 'weights'} of a kind that is not known here (such as {names})"
    return f"{whole} built on {family.name}" if whole else f"the weights of {family.name}"


def rename(keys: Iterable[str], target: Collection[str]) -> dict[str, str]:
    """Maps published names to ours.

    Args:
        keys: of the checkpoint, without wrappers.
        target: of the model.

    Returns:
        Our name of every key. Names of a backbone have no prefix; names that belong to a whole
        model have theirs.
    """
    keys = list(keys)
    family = recognise(keys)
    if family is None:
        return {key: key for key in keys}
    renames = family.backbone
    if family.classifier and _has_all(target, (new for _, new in family.classifier)):
        renames = family.classifier + renames
    return {key: _first_match(renames, key) for key in keys}


def _has_all(target: Collection[str], prefixes: Iterable[str]) -> bool:
    return all(any(key.startswith(prefix) for key in target) for prefix in prefixes)


def _first_match(renames: Renames, key: str) -> str:
    for pattern, replacement in renames:
        new, count = re.subn(pattern, replacement, key)
        if count:
            return new
    return key
