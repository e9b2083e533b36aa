"""Weights under other names: the authors' to ours, and ours back to the authors'.

Loading renames by itself (:mod:`mmhybrid.weights.loading`); this is for files that others are
to read. The way back gives every name and value that the authors' file had.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmhybrid.weights.errors import CheckpointError
from mmhybrid.weights.families import Renames, describe, recognise, rename

COLOURS = 3
# Made anew from the sizes of the model; ours does not save them.
SWIN_BUFFERS = re.compile(r"\.(relative_position_index|attn_mask)$")
WINDOW = 7


@dataclass
class Conversion:
    """Weights under new names.

    Attributes:
        family: whose they are.
        weights: by their new names.
        renamed: the new name of each tensor that got one, by its old name.
        changed: new names of tensors that were made of others or got another shape.
        left_out: old names of what has no place in the result.
    """

    family: str
    weights: dict[str, Tensor]
    renamed: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def to_ours(weights: Mapping[str, Tensor]) -> Conversion:
    """Gives the authors' weights our names, and the shapes that our models have.

    Args:
        weights: of a backbone or a classifier, by name. Weights of other families, and those that
            have our names, stay as they are.

    Returns:
        The weights of a backbone, or with ``backbone.`` and ``head.fc.`` those of mmpretrain's
        ``ImageClassifier`` where there is a classifier.
    """
    family = recognise(weights)
    if family is None:
        return Conversion("unknown", dict(weights))
    whole = bool(family.classifier) and all(
        any(re.search(pattern, key) for key in weights) for pattern, _ in family.classifier
    )
    names = rename(weights, [new for _, new in family.classifier] if whole else [])
    result = Conversion(family.name, {})
    for old, tensor in weights.items():
        if family.name == "DW-Swin" and SWIN_BUFFERS.search(old):
            result.left_out.append(old)
            continue
        new = names[old]
        if whole and not new.startswith(("backbone.", "head.")):
            new = f"backbone.{new}"
        if new != old:
            result.renamed[old] = new
        result.weights[new] = tensor
    if family.name in ("DW-ViT", "DW-CaiT"):
        _split_qkv(result)
        _linear_to_patches(result)
    _reshape(result, "head.fc.weight", lambda tensor: tensor.flatten(1))
    return result


def to_authors(weights: Mapping[str, Tensor], image_size: int = 224) -> Conversion:
    """Gives our weights the names and shapes of the authors' files.

    Args:
        weights: of our backbone, or of a classifier, detector or segmentor that holds one. Of these
            last two, the backbone alone is taken.
        image_size: of the images, for the masks that a file of DW-Swin holds.

    Raises:
        CheckpointError: these are no weights of ours, or there is none of the authors' for them.
    """
    family, renames = _way_back(weights)
    whole = any(key.startswith("head.fc.") for key in weights)
    inside = any(key.startswith("backbone.") for key in weights)
    if whole:
        renames = (*_CLASSIFIERS[family], *renames)
    result = Conversion(family, {})
    for old, tensor in weights.items():
        bare = old.removeprefix("backbone.")
        # The pyramid makes maps for detectors of a plain model; the authors have none.
        if (inside and bare == old and not old.startswith("head.fc.")) or bare.startswith(
            "pyramid."
        ):
            result.left_out.append(old)
            continue
        new = _renamed(bare, renames)
        if new != old:
            result.renamed[old] = new
        result.weights[new] = tensor
    if family in ("DW-ViT", "DW-CaiT"):
        if family == "DW-ViT":
            _join_qkv(result)
        _patches_to_linear(result)
    elif family == "DW-Swin":
        _add_swin_buffers(result, image_size)
    _reshape(result, "classifier.2.weight", lambda tensor: tensor[..., None, None])
    return result


# --- names ----------------------------------------------------------------------------------------


def _blocks_back(ours: str, authors: str, inner: str) -> Renames:
    """Transformer blocks; ``inner`` is ``'fn.'`` where LayerScale wraps them, or nothing."""
    attention, feed_forward = rf"{authors}.layers.\1.0.", rf"{authors}.layers.\1.1."
    block = rf"^{ours}\.(\d+)\."
    return (
        (block + r"scale1$", attention + "scale"),
        (block + r"norm1\.", f"{attention}{inner}norm."),
        (block + r"attn\.proj\.", f"{attention}{inner}fn.to_out.0."),
        (block + r"attn\.(qkv|q|kv)\.", rf"{attention}{inner}fn.to_\2."),
        (block + r"attn\.(mix_heads_\w+)$", rf"{attention}{inner}fn.\2"),
        (block + r"scale2$", feed_forward + "scale"),
        (block + r"norm2\.", f"{feed_forward}{inner}norm."),
        (block + r"mlp\.fc1\.", f"{feed_forward}{inner}fn.net.0."),
        (block + r"mlp\.fc2\.", f"{feed_forward}{inner}fn.net.3."),
    )


def _shortcuts_back(before: str, after: str) -> Renames:
    return (
        (before + r"shortcuts\.(\d+)\.convs\.0\.", after.format("convs")),
        (before + r"shortcuts\.(\d+)\.norms\.0\.", after.format("batchnorms")),
    )


_CLASSIFIERS: Mapping[str, Renames] = {
    "TransXNet": ((r"^norm6\.", "classifier.0."), (r"^head\.fc\.", "classifier.2.")),
    "DW-ViT": ((r"^norm\.", "mlp_head.0."), (r"^head\.fc\.", "mlp_head.1.")),
    "DW-CaiT": ((r"^norm\.", "mlp_head.0."), (r"^head\.fc\.", "mlp_head.1.")),
    "DW-Swin": ((r"^norm3\.", "norm."), (r"^head\.fc\.", "head.")),
}


def _way_back(weights: Mapping[str, Tensor]) -> tuple[str, Renames]:
    """The family of our weights, and what turns their names into the authors'."""
    keys = [key.removeprefix("backbone.") for key in weights]
    if any(re.search(r"^relative_pos_enc\.\d", key) for key in keys):
        return "TransXNet", ()
    several = [key for key in keys if re.search(r"shortcuts\.\d+\.convs\.[1-9]", key)]
    if several:
        raise CheckpointError(
            f"the authors' models have one kernel a shortcut; {several[0]} is one of several"
        )
    if any(re.search(r"^layers\.\d+\.shortcuts\.\d", key) for key in keys):
        return "DW-Swin", _shortcuts_back(r"^layers\.(\d+)\.", r"layers.\1.{}.\2.")
    if any(re.search(r"^shortcuts\.\d", key) for key in keys):
        inner = "fn." if "blocks.0.scale1" in keys else ""
        patches = (r"^patch_embed\.", "to_patch_embedding.1.")
        if any(key.startswith("cls_blocks.") for key in keys):
            shortcuts = _shortcuts_back("^", r"patch_transformer.{}.\1.")
            blocks = _blocks_back("blocks", "patch_transformer", inner)
            classes = _blocks_back("cls_blocks", "cls_transformer", inner)
            return "DW-CaiT", (patches, *shortcuts, *blocks, *classes)
        shortcuts = _shortcuts_back("^", r"transformer.{}.\1.")
        return "DW-ViT", (patches, *shortcuts, *_blocks_back("blocks", "transformer", inner))
    raise CheckpointError(
        f"there are no names of authors to go back to: this seems to be {describe(weights)}. Back "
        "go weights of our TransXNet, DWVisionTransformer, DWCaiT and DWSwinTransformer."
    )


def _renamed(key: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        new, count = re.subn(pattern, replacement, key)
        if count:
            return new
    return key


# --- shapes ---------------------------------------------------------------------------------------


def _reshape(result: Conversion, ending: str, reshape: Callable[[Tensor], Tensor]) -> None:
    for key in result.weights:
        if key.endswith(ending):
            old = result.weights[key]
            result.weights[key] = reshape(old)
            if result.weights[key].shape != old.shape:
                result.changed.append(key)


def _linear_to_patches(result: Conversion) -> None:
    """The authors cut patches and multiply, channels changing fastest; we convolve."""

    def reshape(weight: Tensor) -> Tensor:
        if weight.ndim != 2:
            return weight
        side = math.isqrt(weight.shape[1] // COLOURS)
        return weight.unflatten(1, (side, side, COLOURS)).permute(0, 3, 1, 2).contiguous()

    _reshape(result, "patch_embed.weight", reshape)


def _patches_to_linear(result: Conversion) -> None:
    _reshape(
        result, "to_patch_embedding.1.weight", lambda weight: weight.permute(0, 2, 3, 1).flatten(1)
    )


def _split_qkv(result: Conversion) -> None:
    """Ours makes queries by one layer, and keys and values by another."""
    for key in [key for key in result.weights if key.endswith(".attn.qkv.weight")]:
        qkv = result.weights.pop(key)
        name = key.removesuffix("qkv.weight")
        third = len(qkv) // 3
        for part, tensor in (("q", qkv[:third]), ("kv", qkv[third:])):
            result.weights[f"{name}{part}.weight"] = tensor.clone()
            result.changed.append(f"{name}{part}.weight")


def _join_qkv(result: Conversion) -> None:
    for key in [key for key in result.weights if key.endswith(".to_q.weight")]:
        name = key.removesuffix("q.weight")
        parts = [result.weights.pop(f"{name}{part}.weight") for part in ("q", "kv")]
        result.weights[f"{name}qkv.weight"] = torch.cat(parts)
        result.changed.append(f"{name}qkv.weight")


def _add_swin_buffers(result: Conversion, image_size: int) -> None:
    """What the authors' models keep besides weights: indices, and masks of shifted windows."""
    place = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))
    row, column = (place[:, None] - place[None] + WINDOW - 1).unbind(-1)
    index = row * (2 * WINDOW - 1) + column
    for key in [key for key in result.weights if key.endswith("relative_position_bias_table")]:
        stage, block = map(int, re.findall(r"\d+", key)[:2])
        name = f"layers.{stage}.blocks.{block}"
        result.weights[f"{name}.attn.relative_position_index"] = index.clone()
        side = image_size // (4 * 2**stage)
        if block % 2 and side > WINDOW:
            result.weights[f"{name}.attn_mask"] = _window_mask(side)


def _window_mask(side: int) -> Tensor:
    """Which tokens of a window, in a map shifted by half a window, may not see each other."""
    place = torch.arange(side)
    band = (place >= side - WINDOW).long() + (place >= side - WINDOW // 2).long()
    region = 3 * band[:, None] + band
    region = region.unflatten(0, (-1, WINDOW)).unflatten(2, (-1, WINDOW))
    region = region.transpose(1, 2).flatten(2).flatten(0, 1)  # (windows, tokens)
    return (region[:, None] != region[:, :, None]).float() * -100.0
