"""What fusing gains for every family, and what single parts cost: attention and the DW shortcut."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timed_rows import timed_rows
from mmhybrid.analysis.benchmark import smallest_models
from mmhybrid.analysis.timing import ratio, time_interleaved
from mmhybrid.apis.models import make_model
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import DWSwinTransformer
from mmhybrid.deploy import fuse
from mmhybrid.layers.cross_feature_attention import CROSS_FEATURE_ATTENTIONS
from mmhybrid.layers.transformer_block import Attention

Row = dict[str, Any]


@torch.no_grad()
def fused_speed(
    side: int = 512, models: Mapping[str, str] | None = None, *, repeats: int = 15
) -> list[Row]:
    """Seconds of a forward pass of one image, unfused and fused.

    A fused model works channels last; what of the gain is due to that shows beside it.

    Args:
        side (int): Of the square image, in pixels. Defaults to 512.
        models (Mapping[str, str]): What :func:`mmhybrid.apis.models.make_model` takes, by name.
            Defaults to the smallest preset of every backbone.
        repeats (int): Timed calls of each; medians are returned. Defaults to 15.

    Returns:
        Rows with ``times_as_fast`` as unfused, and in ``error`` the largest difference from the
        unfused model, both in float32, over the largest value of a map; ``error_float64`` is the
        same in double precision.
    """
    rows = []
    for name, spec in (models or smallest_models()).items():
        model = random_init(make_model(spec)).eval()
        x = torch.randn(1, 3, side, side)
        forms = {
            "unfused": model,
            "unfused, channels last": copy.deepcopy(model).to(memory_format=torch.channels_last),
            "fused": fuse(model),
        }
        calls = {form: lambda module=module, x=x: module(x) for form, module in forms.items()}
        seconds = time_interleaved(calls, repeats=repeats, warmup=2)
        errors = {form: _difference(model, module, x) for form, module in forms.items()}
        model.double()
        forms = {form: module.double() for form, module in forms.items()} | {"fused": fuse(model)}
        for form, module in forms.items():
            rows.append(
                {
                    "model": name,
                    "form": form,
                    "size": f"{side}x{side}",
                    "seconds": statistics.median(seconds[form]),
                    "times_as_fast": ratio(seconds, "unfused", form),
                    "error": errors[form],
                    "all_seconds": seconds[form],
                    "error_float64": _difference(model, module, x.double()),
                }
            )
    return rows


def _difference(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """The largest difference over the largest value, of the map where that is most."""
    return max(
        ((a - b).abs().max() / a.abs().max()).item()
        for a, b in zip(model(x), other(x), strict=True)
    )


@torch.no_grad()
def attention_cost(
    tokens: Iterable[int] = (1024, 2048, 4096, 8192, 16384),
    channels: int = 128,
    num_heads: int = 4,
    *,
    repeats: int = 15,
) -> list[Row]:
    """Seconds of one attention layer, batch 1, for both forms of XFormer's and for self-attention.

    Args:
        tokens (Iterable[int]): Numbers of tokens to measure.
        channels (int): Of each token. Defaults to 128.
        num_heads (int): Heads; context scores always have one context. Defaults to 4.
        repeats (int): Timed calls of each; medians are returned. Defaults to 15.
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


def shortcut_cost(side: int = 224, batch: int = 4, *, repeats: int = 7) -> list[Row]:
    """Seconds of a forward and backward pass of Swin-T without and with DW shortcuts.

    Args:
        side (int): Of the square images, in pixels. Defaults to 224.
        batch (int): Images a step. Defaults to 4.
        repeats (int): Timed steps of each; medians are returned. Defaults to 7.
    """
    x = torch.randn(batch, 3, side, side)
    variants = {"Swin-T": (), "DW-Swin-T": (3,), "DW-Swin-T, 3 and 5": (3, 5)}
    models = {name: DWSwinTransformer("tiny", dw_kernel_sizes=k) for name, k in variants.items()}

    def step(model: nn.Module) -> None:
        model.zero_grad()
        sum(y.mean() for y in model.train()(x)).backward()

    calls = {name: lambda model=model: step(model) for name, model in models.items()}
    seconds = time_interleaved(calls, repeats=repeats)
    rows = timed_rows(seconds, dict(size=f"{side}x{side}", batch=batch))
    return [
        row | dict(times_as_long_as_swin=ratio(seconds, row["model"], "Swin-T")) for row in rows
    ]
