"""What onnxruntime makes of exported models: how far from PyTorch, and how fast against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmhybrid.analysis.timing import ratio, time_interleaved
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import (
    DMFormer,
    DWCaiT,
    DWSwinTransformer,
    DWVisionTransformer,
    TransXNet,
    XFormer,
)
from mmhybrid.deploy import fuse
from mmhybrid.deploy.onnx_export import compare, export_onnx, session_of

SHAPES = tuple((b, 3, *size) for size in ((224, 224), (256, 320), (480, 640)) for b in (1, 3))
BACKBONES = {
    "TransXNet-T": lambda: TransXNet("tiny"),
    "DMFormer-S": lambda: DMFormer("small"),
    "XFormer-S": lambda: XFormer("small"),
    "DW-ViT-T": lambda: DWVisionTransformer("tiny"),
    "DW-Swin-T": lambda: DWSwinTransformer("tiny"),
    "DW-CaiT-XXS12": lambda: DWCaiT("xxs12"),
}


@torch.no_grad()
def onnx_rows(
    name: str,
    model: nn.Module,
    path: Path,
    shapes: Iterable[tuple[int, ...]] = SHAPES,
    repeats: int = 5,
) -> list[dict[str, Any]]:
    """Exports a backbone, fused, and compares onnxruntime with PyTorch at each shape.

    The errors are against the unfused model. Times are ratios of neighbouring calls, on the same
    number of threads: above 1, onnxruntime is faster.

    Args:
        name: of the model, for the rows.
        model: its weights are replaced by random ones of a fair size, always the same.
        path: of the graph; what is there is not exported again.
        shapes: (B, C, H, W) to run at.
        repeats: timed calls of each.
    """
    model = random_init(model).eval()
    fused = fuse(model)
    rows = []
    if not path.exists():
        export_onnx(model, path)
    session = session_of(path)
    for shape in shapes:
        x = torch.randn(shape)
        differences = compare(model, path, [x])
        seconds = time_interleaved(_calls(model, fused, session, x), repeats=repeats)
        rows.append(
            {
                "model": name,
                "shape": "x".join(map(str, shape)),
                "largest_difference": max(row.largest for row in differences),
                "largest_value": max(row.scale for row in differences),
                "times_as_fast_as_eager": ratio(seconds, "eager", "onnxruntime"),
                "times_as_fast_as_fused_eager": ratio(seconds, "fused", "onnxruntime"),
                "all_seconds": seconds,
            }
        )
    return rows


def _calls(model: nn.Module, fused: nn.Module, session: Any, x: torch.Tensor) -> Mapping[str, Any]:
    return {
        "eager": lambda: model(x),
        "fused": lambda: fused(x),
        "onnxruntime": lambda: session.run(None, {"image": x.numpy()}),
    }
