"""What XFormer's cross feature attention costs against the number of tokens, beside attention."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

import torch

from mmhybrid.analysis.timing import time_interleaved
from mmhybrid.layers.cross_feature_attention import CROSS_FEATURE_ATTENTIONS
from mmhybrid.layers.transformer_block import Attention


@torch.no_grad()
def attention_cost(
    tokens: Iterable[int] = (1024, 2048, 4096, 8192, 16384),
    channels: int = 128,
    num_heads: int = 4,
    *,
    repeats: int = 15,
) -> list[dict[str, Any]]:
    """Seconds of one attention layer, batch 1, for both forms of XFormer's and for self-attention.

    Args:
        tokens: numbers of tokens to measure.
        channels: of each token.
        num_heads: heads; context scores have one context whatever is said here.
        repeats: timed calls of each; medians are returned.
    """
    layers = {name: form(channels, num_heads) for name, form in CROSS_FEATURE_ATTENTIONS.items()}
    layers["self_attention"] = Attention(channels, num_heads)
    rows = []
    for count in tokens:
        x = torch.randn(1, count, channels)
        calls = {name: lambda layer=layer, x=x: layer(x) for name, layer in layers.items()}
        for name, seconds in time_interleaved(calls, repeats=repeats, warmup=3).items():
            rows.append({"layer": name, "tokens": count, "seconds": statistics.median(seconds)})
    return rows
