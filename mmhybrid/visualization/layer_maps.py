"""What single layers, found by their type, compute for an image: kernels, gates, attention.

A function with :func:`shows` takes all calls of a type, in order, and the place asked about.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmhybrid.layers.cross_feature_attention import CrossCovarianceAttention
from mmhybrid.layers.depthwise_shortcut import DepthwiseShortcut
from mmhybrid.layers.dynamic_convolution import InputDependentDepthwiseConv
from mmhybrid.layers.dynamic_multi_level_attention import DynamicMultiLevelAttention
from mmhybrid.layers.overlapping_attention import OverlappingSpatialReductionAttention
from mmhybrid.visualization.drawing import Place, Row, kernel_sheet, over_image_with_place, plain

Calls = list[tuple[Any, tuple[Any, ...]]]  # a layer and its positional arguments, each
Show = Callable[[Calls, Place], Row]
VIEWS: dict[type[nn.Module], Show] = {}


def shows(layer: type[nn.Module]) -> Callable[[Show], Show]:
    """Decorator of a function that shows the layers of a type."""
    return lambda show: VIEWS.setdefault(layer, show)


@torch.no_grad()
def layer_rows(backbone: nn.Module, x: Tensor, place: Place = (0.5, 0.5)) -> list[Row]:
    """Rows for all layers of a backbone that there is a view of; ``x`` is a normalised image."""
    calls: dict[type, Calls] = {layer: [] for layer in VIEWS}
    with ExitStack() as hooks:
        for module in backbone.modules():
            for found in (calls[layer] for layer in VIEWS if isinstance(module, layer)):
                hooks.enter_context(
                    module.register_forward_pre_hook(lambda *call, found=found: found.append(call))
                )
        backbone(x)
    rows = [VIEWS[layer](found, place) for layer, found in calls.items() if found]
    return [row for row in rows if row.maps]


def _by_stage(calls: Calls) -> list[Calls]:
    """Calls grouped by the shape of their first argument."""
    stages: dict[torch.Size, Calls] = {}
    for call in calls:
        stages.setdefault(call[1][0].shape, []).append(call)
    return list(stages.values())


@shows(InputDependentDepthwiseConv)
def dynamic_kernels(calls: Calls, place: Place) -> Row:
    """One map (channels, K, K) per stage."""
    last = [stage[-1] for stage in _by_stage(calls)]
    maps = [layer.kernels(x)[0][0].numpy() for layer, (x,) in last]
    text = "Mixed for this image, in the last block of each stage: the first 24 channels."
    return Row("Dynamic kernels", text, kernel_sheet, maps, [f"{len(k)} channels" for k in maps])


@shows(OverlappingSpatialReductionAttention)
def attention_of_place(calls: Calls, place: Place) -> Row:
    """One map (h, w) per stage, the mean of the heads, of sum 1; no other query's is computed."""
    maps = []
    for layer, (x, position) in (stage[-1] for stage in _by_stage(calls)):
        row, column = (min(int(p * n), n - 1) for p, n in zip(place, x.shape[2:], strict=True))
        query = row * x.shape[3] + column
        keys = layer.kv(layer.reduce(x)).chunk(2, dim=1)[0]
        q = layer._split_heads(layer.q(x))[0, :, query]  # (heads, d)
        k = layer._split_heads(keys)[0]  # (heads, N_k, d)
        scores = torch.einsum("hd,hkd->hk", q, k) * q.shape[-1] ** -0.5
        if position.table is not None:
            scores = scores + position.table[0, :, query]
        else:
            scores = scores + position.query[0, :, query] @ position.key.t()
        weights = scores.softmax(dim=-1).mean(dim=0)
        maps.append(weights.unflatten(0, keys.shape[-2:]).numpy())
    text = "Where the place with the cross looks, in the last block of each stage."
    captions = ["x".join(map(str, weights.shape)) + " keys" for weights in maps]
    return Row("Attention of one place", text, over_image_with_place, maps, captions)


@shows(DynamicMultiLevelAttention)
def gates(calls: Calls, place: Place) -> Row:
    """One map (blocks, channels) per stage, 0 to 1."""
    gated = [call for call in calls if call[0].gate is not None]
    stages = _by_stage(gated)
    maps = [np.stack([layer.gate(x)[0].flatten() for layer, (x, *_) in stage]) for stage in stages]
    text = "Factor of each channel (across) in each block (down): dark 0, bright 1."
    draw = plain(vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
    captions = [f"mean {g.mean():.2f}, {g.min():.2f} to {g.max():.2f}" for g in maps]
    return Row("Gate", text, draw, maps, captions)


@shows(CrossCovarianceAttention)
def channel_attention(calls: Calls, place: Place) -> Row:
    """One map (d, d) per stage: the first head's, the mean over groups of tokens."""
    last = [stage[-1] for stage in _by_stage(calls)]
    weights = [layer.attention(x)[0][..., 0, :, :] for layer, (x,) in last]
    maps = [w.flatten(0, -3).mean(dim=0).numpy() for w in weights]
    text = "Which channel (down) attends to which (across), in the last layer of each stage."
    draw = plain(cmap="viridis", interpolation="nearest")
    captions = [f"{len(w)} channels a head" for w in maps]
    return Row("Attention of channels", text, draw, maps, captions)


@shows(DepthwiseShortcut)
def shortcut_ratios(calls: Calls, place: Place) -> Row:
    """One map (h, w) for each of four shortcuts, evenly spaced from the first to the last."""
    maps = []
    for index in np.linspace(0, len(calls) - 1, min(4, len(calls))).round().astype(int):
        layer, (tokens, size, *rest) = calls[index]
        skip = sum(rest)  # class tokens
        added = layer(tokens, size, *rest)[0, skip:].norm(dim=-1)
        ratio = added / tokens[0, skip:].norm(dim=-1).clamp_min(1e-12)
        maps.append(ratio.unflatten(0, size).numpy())
    text = "Length of what a shortcut adds to a token, over that of the token. First to last."
    captions = [f"{m.min():.2f} to {m.max():.2f}" for m in maps]
    return Row("Depth-wise shortcuts", text, plain(cmap="magma"), maps, captions)
