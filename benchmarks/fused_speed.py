"""What fusing for inference gains, and how far it stays from the unfused model."""

from __future__ import annotations

import copy
import statistics
from typing import Any

import torch
from torch import Tensor, nn

from mmhybrid.analysis.timing import ratio, time_interleaved
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import DMFormer, TransXNet, XFormer
from mmhybrid.deploy import fuse

MODELS = {"TransXNet-T": TransXNet, "DMFormer-S": DMFormer, "XFormer-S": XFormer}


@torch.no_grad()
def fused_speed(side: int = 512, *, repeats: int = 15) -> list[dict[str, Any]]:
    """Seconds of a forward pass of one image, unfused and fused, of the smallest preset of each
    family with random weights.

    A fused model works channels last; what of the gain is due to that shows beside it.

    Args:
        side: of the square image, in pixels.
        repeats: timed calls of each; medians are returned.

    Returns:
        Rows with ``times_as_fast`` as unfused, and in ``error`` the largest difference from the
        unfused model, both in float32, over the largest value of a map; ``error_float64`` is the
        same in double precision.
    """
    rows = []
    for name, make in MODELS.items():
        model = random_init(make()).eval()
        x = torch.randn(1, 3, side, side)
        forms = {
            "unfused": model,
            "unfused, channels last": copy.deepcopy(model).to(memory_format=torch.channels_last),
            "fused": fuse(model),
        }
        calls = {form: lambda module=module, x=x: module(x) for form, module in forms.items()}
        seconds = time_interleaved(calls, repeats=repeats, warmup=2)
        for form, module in forms.items():
            rows.append(
                {
                    "model": name,
                    "form": form,
                    "size": f"{side}x{side}",
                    "seconds": statistics.median(seconds[form]),
                    "times_as_fast": ratio(seconds, "unfused", form),
                    "error": _difference(model, module, x),
                    "all_seconds": seconds[form],
                }
            )
        model.double()
        for row, form in zip(rows[-len(forms) :], forms, strict=True):
            module = fuse(model) if form == "fused" else forms[form].double()
            row["error_float64"] = _difference(model, module, x.double())
    return rows


def _difference(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """The largest difference over the largest value, of the map where that is most."""
    return max(
        ((a - b).abs().max() / a.abs().max()).item()
        for a, b in zip(model(x), other(x), strict=True)
    )
