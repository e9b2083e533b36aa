"""What fusing gains for every family, and what single parts cost: attention and the DW shortcut."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmhybrid.analysis.benchmark import smallest_models
from mmhybrid.analysis.timing import ratio, time_interleaved
from mmhybrid.apis.models import make_model
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import DWSwinTransformer
from mmhybrid.deploy import fuse
from mmhybrid.layers.cross_feature_attention import CROSS_FEATURE_ATTENTIONS
from mmhybrid.layers.transformer_block import Attention

Row = dict[str, Any]


def timed_rows(
    seconds: Mapping[str, list[float]], about: Mapping[str, Any], **ratios: str
) -> list[Row]:
    """A row for every model of ``seconds``, which were timed in turn.

    ``about`` stands in all rows; ``ratios`` are columns that say how many times as fast as the
    model that they name a model is.
    """
    return [
        {
            "model": name,
            **about,
            "seconds": statistics.median(values),
            **{column: ratio(seconds, other, name) for column, other in ratios.items()},
            "all_seconds": values,
        }
        for name, values in seconds.items()
    ]


@torch.no_grad()
def fused_speed(
    side: int = 512, models: Mapping[str, str] | None = None, *, repeats: int = 15
) -> list[Row]:
    """Seconds of a forward pass of one square image, unfused and fused, of the smallest presets.

    A fused model works channels last; what of the gain is due to that shows beside it. ``error`` is
    the largest difference from the unfused model over the largest value of a map, in float32, and
    ``error_float64`` in double precision.
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
            about = dict(model=name, form=form, size=f"{side}x{side}")
            about["seconds"] = statistics.median(seconds[form])
            about["times_as_fast"] = ratio(seconds, "unfused", form)
            exact = _difference(model, module, x.double())
            about |= dict(error=errors[form], all_seconds=seconds[form], error_float64=exact)
            rows.append(about)
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

    Context scores always have one context, whatever ``num_heads``.
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
    """Seconds of a forward and backward pass of Swin-T without and with DW shortcuts."""
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
