"""What onnxruntime makes of exported models: how far from PyTorch, and how fast against it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmhybrid.analysis.benchmark import smallest_models
from mmhybrid.analysis.tables import markdown_table
from mmhybrid.analysis.timing import ratio, time_interleaved
from mmhybrid.apis.models import make_model
from mmhybrid.apis.random_init import random_init
from mmhybrid.deploy import fuse
from mmhybrid.deploy.onnx_export import compare, export_onnx
from mmhybrid.deploy.runtimes import open_graph
from mmhybrid.engine.runner.results import write_json
from mmhybrid.errors import UserError

SHAPES = tuple((b, 3, *size) for size in ((224, 224), (256, 320), (480, 640)) for b in (1, 3))


def measure_onnx(
    folder: Path,
    machine: Mapping[str, Any],
    repeats: int,
    graphs: Path,
    models: Iterable[str] | None = None,
) -> str:
    """Measures the smallest presets, of ``models`` (``['TransXNet-T']``) or all; writes onnx.json
    and onnx.md, which it returns. Graphs that are in ``graphs`` are measured as they are."""
    import onnxruntime

    file = folder / "onnx.json"
    results = json.loads(file.read_text()) if file.exists() else {"machine": {}, "rows": {}}
    graphs.mkdir(parents=True, exist_ok=True)
    specs = smallest_models()
    if unknown := set(models or ()) - set(specs):
        raise UserError(f"no model {', '.join(unknown)}: there are {', '.join(specs)}")
    for name in models or specs:
        print(f"exporting and measuring {name} ...", flush=True)
        graph = graphs / f"{name}.onnx"
        results["rows"][name] = onnx_rows(name, make_model(specs[name]), graph, repeats=repeats)
        results["machine"][name] = dict(machine, onnxruntime=onnxruntime.__version__)
        # After every model, so that a stopped run keeps what it has.
        write_json(file, results)
        (folder / "onnx.md").write_text(page(results))
    return page(results)


@torch.no_grad()
def onnx_rows(
    name: str,
    model: nn.Module,
    path: Path,
    shapes: Iterable[tuple[int, ...]] = SHAPES,
    repeats: int = 5,
) -> list[dict[str, Any]]:
    """Exports a backbone, fused, to ``path`` unless it is there, and compares onnxruntime with
    PyTorch at each shape (B, C, H, W).

    Weights are random, always the same. The errors are against the unfused model. Times are ratios
    of neighbouring calls, on the same number of threads: above 1, onnxruntime is faster.
    """
    model = random_init(model).eval()
    fused = fuse(model)
    rows = []
    if not path.exists():
        export_onnx(model, path)
    run = open_graph(path)
    for shape in shapes:
        x = torch.randn(shape)
        differences = compare(model, path, [x])
        calls = {
            "eager": partial(model, x),
            "fused": partial(fused, x),
            "onnxruntime": partial(run, x.numpy()),
        }
        seconds = time_interleaved(calls, repeats=repeats)
        row = dict(
            model=name,
            shape="x".join(map(str, shape)),
            largest_difference=max(row.largest for row in differences),
            largest_value=max(row.scale for row in differences),
            times_as_fast_as_eager=ratio(seconds, "eager", "onnxruntime"),
            times_as_fast_as_fused_eager=ratio(seconds, "fused", "onnxruntime"),
            all_seconds=seconds,
        )
        rows.append(row)
    return rows


def page(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    columns = {
        "model": ("model", ""),
        "shape": ("shape", ""),
        "difference": ("largest_difference", ".1e"),
        "of": ("largest_value", ".2g"),
        "times eager": ("times_as_fast_as_eager", ".2f"),
        "times fused eager": ("times_as_fast_as_fused_eager", ".2f"),
    }
    rows = [
        [f"{row[key]:{form}}" for key, form in columns.values()]
        for of_model in results["rows"].values()
        for row in of_model
    ]
    machines: dict[str, list[str]] = {}
    for name in results["rows"]:
        about = ", ".join(f"{key}: {value}" for key, value in results["machine"][name].items())
        machines.setdefault(about, []).append(name)
    measured = list(machines)
    if len(machines) > 1:
        measured = [f"- {', '.join(models)}: {about}" for about, models in machines.items()]
    parts = [
        "# ONNX",
        "A backbone exported once, fused, for any batch and size, and run in onnxruntime: the "
        "largest difference from PyTorch, float32, random weights, the largest value, and how many "
        "times as fast onnxruntime is as eager PyTorch, unfused and fused, on the same threads.",
        "\n".join(measured),
        markdown_table(list(columns), rows),
    ]
    return "\n\n".join(parts) + "\n"
