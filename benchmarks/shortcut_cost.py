"""What depth-wise shortcuts add to a training step of Swin-T."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from mmhybrid.analysis.timing import ratio, time_interleaved
from mmhybrid.backbones import DWSwinTransformer


def shortcut_cost(side: int = 224, batch: int = 4, *, repeats: int = 7) -> list[dict[str, Any]]:
    """Seconds of a forward and backward pass of Swin-T without and with shortcuts.

    Args:
        side: of the square images, in pixels.
        batch: images a step.
        repeats: timed steps of each; medians are returned.
    """
    x = torch.randn(batch, 3, side, side)
    variants = {"Swin-T": (), "DW-Swin-T": (3,), "DW-Swin-T, 3 and 5": (3, 5)}
    models = {name: DWSwinTransformer("tiny", dw_kernel_sizes=k) for name, k in variants.items()}

    def step(model: torch.nn.Module) -> None:
        model.zero_grad()
        sum(y.mean() for y in model.train()(x)).backward()

    calls = {name: lambda model=model: step(model) for name, model in models.items()}
    seconds = time_interleaved(calls, repeats=repeats)
    return [
        {
            "model": name,
            "size": f"{side}x{side}",
            "batch": batch,
            "seconds": statistics.median(values),
            "times_as_long_as_swin": 1 / ratio(seconds, "Swin-T", name),
            "all_seconds": values,
        }
        for name, values in seconds.items()
    ]
