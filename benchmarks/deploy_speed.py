"""Every way to run a backbone on a CPU, beside its peers: time, memory, distance from PyTorch."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmhybrid.analysis.benchmark import PEERS, smallest_models
from mmhybrid.analysis.tables import markdown_table
from mmhybrid.analysis.timing import peak_memory_of, ratio, time_interleaved
from mmhybrid.apis.models import make_model
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import is_backbone
from mmhybrid.deploy import fuse
from mmhybrid.deploy.onnx_export import export_onnx, trace
from mmhybrid.deploy.quantizing import quantize_file
from mmhybrid.deploy.runtimes import open_graph, require, to_openvino
from mmhybrid.engine.runner.results import write_json
from mmhybrid.errors import UserError

REFERENCE = "Swin-T"
COMPARED = (REFERENCE, "ConvNeXt-T", "PVTv2-B1", "ResNet-50", "MobileViT-S")
SIZES = ((224, 224), (512, 512), (800, 1344))
CALIBRATED = 2**21  # pixels of noise, to which int8 is fitted
# The end of the graph's name, and how it is opened; none for PyTorch.
WAYS: dict[str, tuple[str, dict[str, str]] | None] = {
    "PyTorch": None,
    "onnxruntime": (".onnx", dict(runtime="onnxruntime")),
    "OpenVINO fp32": (".onnx", dict(runtime="openvino")),
    "OpenVINO bf16": (".onnx", dict(runtime="openvino", precision="bf16")),
    "OpenVINO int8": ("_int8.xml", dict(runtime="openvino", precision="int8")),
}


def measure_deploy(
    folder: Path,
    machine: Mapping[str, Any],
    repeats: int,
    graphs: Path,
    models: Iterable[str] | None = None,
    sizes: Iterable[tuple[int, int]] | None = None,
    ways: Iterable[str] | None = None,
) -> str:
    """Measures ``models`` (``['TransXNet-T']``) at ``sizes`` in ``ways``, or all, and writes
    deploy.json and deploy.md, which it returns.

    What the file has of a model and size is not measured again, so that a stopped run can be
    resumed; graphs that are in ``graphs`` are taken as they are.
    """
    require("onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "timm")
    specs = smallest_models() | {name: PEERS[name] for name in COMPARED}
    models, ways = list(models or specs), list(ways or WAYS)
    for given, known in ((models, specs), (ways, WAYS)):
        if unknown := set(given) - set(known):
            raise UserError(f"no {', '.join(unknown)}: there are {', '.join(known)}")
    file = folder / "deploy.json"
    results = json.loads(file.read_text()) if file.exists() else {"rows": {}}
    graphs.mkdir(parents=True, exist_ok=True)
    for size in sizes or SIZES:
        for name in models:
            key = f"{name} {size[0]}x{size[1]}"
            if key in results["rows"]:
                continue
            print(f"measuring {key} ...", flush=True)
            rows = _rows(
                {one: specs[one] for one in (name, REFERENCE)}, size, ways, graphs, repeats
            )
            results["rows"][key] = dict(machine=dict(machine), ways=rows)
            write_json(file, results)
            (folder / "deploy.md").write_text(page(results))
    return page(results)


@torch.no_grad()
def _rows(
    specs: Mapping[str, str], size: tuple[int, int], ways: list[str], graphs: Path, repeats: int
) -> list[dict[str, Any]]:
    """One row a way of the first model; the reference takes turns with it."""
    x = torch.randn(1, 3, *size)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    rows = {}
    for name, spec in specs.items():
        model = random_init(make_model(spec))
        model.eval()  # of mmdet's, this returns nothing
        expected = [y.numpy() for y in model(x)]
        for way in ways:
            row: dict[str, Any] = dict(way=way)
            start = time.perf_counter()
            try:
                if WAYS[way] is None:
                    run = fuse(model) if is_backbone(model) else model
                    calls[name, way] = partial(run, x)
                else:
                    graph = _graph(model, graphs / f"{name}_{size[0]}x{size[1]}", size, way)
                    start = time.perf_counter()
                    run = open_graph(graph, **WAYS[way][1])
                    calls[name, way] = partial(run, x.numpy())
                    got = run(x.numpy()).values()
                    pairs = list(zip(expected, got, strict=True))
                    row["largest_difference"] = max(float(np.abs(a - b).max()) for a, b in pairs)
                    row["largest_value"] = max(float(np.abs(a).max()) for a, _ in pairs)
                    row["seconds_to_open"] = time.perf_counter() - start
                if name == next(iter(specs)):
                    path = None if WAYS[way] is None else graph
                    row["peak_mib"] = peak_memory_of(_once, spec, path, way, size) / 2**20
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {str(error)[:200]}"
                calls.pop((name, way), None)
            if name == next(iter(specs)):
                rows[way] = row
    named = {f"{name}|{way}": call for (name, way), call in calls.items()}
    seconds = time_interleaved(named, repeats=repeats)
    name = next(iter(specs))
    for way, row in rows.items():
        if f"{name}|{way}" in seconds:
            _summarise(row, seconds, name, way)
    return list(rows.values())


def _summarise(row: dict[str, Any], seconds: dict[str, list[float]], name: str, way: str) -> None:
    mine, eager, other = f"{name}|{way}", f"{name}|PyTorch", f"{REFERENCE}|{way}"
    row["milliseconds"] = statistics.median(seconds[mine]) * 1e3
    if eager in seconds:
        row["times_as_fast_as_pytorch"] = ratio(seconds, eager, mine)
    if other in seconds:
        row["time_over_reference"] = ratio(seconds, mine, other)
    row["all_seconds"] = seconds[mine]


def _graph(model: nn.Module, stem: Path, size: tuple[int, int], way: str) -> Path:
    """The graph of a way, exported if it is not there; int8 calibrated on noise."""
    onnx, end = stem.with_name(f"{stem.name}.onnx"), WAYS[way][0]
    if not onnx.exists():
        if is_backbone(model):
            export_onnx(model, onnx, batch=1, size=size)
        else:
            trace(_Numbered(model), torch.randn(1, 3, *size), {}, lambda step: None).save(onnx)
    path = stem.with_name(f"{stem.name}{end}")
    if not path.exists():
        to_openvino(onnx, path)
        images = max(2, CALIBRATED // (size[0] * size[1]))
        quantize_file(path, [np.float32(torch.randn(1, 3, *size)) for _ in range(images)])
    return path


class _Numbered(nn.Module):
    """A backbone of others, its maps named."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {f"stage_{stage}": y for stage, y in enumerate(self.model(image))}


def _once(spec: str, path: Path | None, way: str, size: tuple[int, int]) -> Callable[[], object]:
    """Opens a graph and runs it once, or runs the model in PyTorch, whose weights are there."""
    x = torch.randn(1, 3, *size)
    if path is not None:
        return lambda: open_graph(path, **WAYS[way][1])(x.numpy())
    model = make_model(spec)
    model.eval()
    model = fuse(model) if is_backbone(model) else model
    return torch.no_grad()(partial(model, x))


def page(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    columns = {
        "ms": ("milliseconds", ".0f"),
        "times PyTorch": ("times_as_fast_as_pytorch", ".2f"),
        f"time over {REFERENCE}": ("time_over_reference", ".2f"),
        "to open (s)": ("seconds_to_open", ".1f"),
        "difference": ("largest_difference", ".1e"),
        "of": ("largest_value", ".2g"),
        "peak (MiB)": ("peak_mib", ".0f"),
    }
    rows, machines = [], set()
    for key, measured in results["rows"].items():
        name, size = key.rsplit(" ", 1)
        machines.add(", ".join(f"{k}: {v}" for k, v in measured["machine"].items()))
        for row in measured["ways"]:
            cells = [f"{row[k]:{form}}" if k in row else "-" for k, form in columns.values()]
            rows.append([name, size, row["way"], *cells])
    errors = [
        f"* {key}, {row['way']}: {row['error']}"
        for key, measured in results["rows"].items()
        for row in measured["ways"]
        if "error" in row
    ]
    parts = [
        "# Ways to run a backbone on a CPU",
        "One image, each graph exported for its size, random weights. PyTorch is float32, eager, "
        "and fused where the backbone is ours. The ways of a model take turns with each other and "
        f"with those of {REFERENCE}; *times PyTorch* says how many times as fast as the same model "
        f"in PyTorch, *time over {REFERENCE}* is in the same runtime and precision, below 1 where "
        "it is faster; both are medians of ratios of neighbouring calls. The difference is from "
        "PyTorch, unfused, and beside the largest value; int8 is calibrated on noise, and computes "
        "what is not in 8 bits in bfloat16. Freed memory is kept, as in the tools (docs/speed.md), "
        "which PyTorch gains most by. The peak of a runtime is that of a process that opens the "
        "graph and runs it once, that of PyTorch is beyond the weights.",
        *sorted(machines),
        markdown_table(["model", "size", "way", *columns], rows),
        *(["\n".join(errors)] if errors else []),
    ]
    return "\n\n".join(parts) + "\n"
