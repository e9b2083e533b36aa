"""What TransXNet-T costs here, against the plain published formula and against its peers.

Each function measures one thing in one run and returns rows, dictionaries of plain values.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.plain_transxnet import plain_transxnet
from mmhybrid.analysis.timing import peak_memory, ratio, time_interleaved
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import TransXNet
from mmhybrid.deploy import fuse

Row = dict[str, Any]
Size = tuple[int, int]


def peers() -> dict[str, Callable[[], nn.Module]]:
    """Backbones that people would choose instead, four stages each, by name."""
    import timm
    from mmdet.models.backbones import PyramidVisionTransformerV2, SwinTransformer

    def from_timm(name: str) -> nn.Module:
        return timm.create_model(name, features_only=True)

    return {
        "Swin-T (mmdet)": SwinTransformer,
        "PVTv2-B1 (mmdet)": lambda: PyramidVisionTransformerV2(
            embed_dims=64, num_layers=[2, 2, 2, 2]
        ),
        "ConvNeXt-T (timm)": lambda: from_timm("convnext_tiny"),
        "ResNet-50 (timm)": lambda: from_timm("resnet50"),
    }


@torch.no_grad()
def forward(size: Size, *, repeats: int = 5, with_peers: bool = False) -> list[Row]:
    """Seconds of a forward pass of one image, and how many times as fast as the plain formula."""
    model = random_init(TransXNet("tiny")).eval()
    fused = fuse(model)
    x = torch.randn(1, 3, *size)
    functions = {
        "plain": lambda: plain_transxnet(model, x),
        "TransXNet-T": lambda: model(x),
        "TransXNet-T fused": lambda: fused(x),
    }
    if with_peers:
        for name, make in peers().items():
            peer = make()
            peer.eval()  # of mmdet's, this returns nothing
            functions[name] = _forward_of(peer, x)
    seconds = time_interleaved(functions, repeats=repeats)
    return [
        {
            "model": name,
            "size": f"{size[0]}x{size[1]}",
            "seconds": statistics.median(values),
            "times_plain": ratio(seconds, "plain", name),
            "times_fused": ratio(seconds, "TransXNet-T fused", name),
            "all_seconds": values,
        }
        for name, values in seconds.items()
    ]


def training_step(size: Size = (640, 1088), batch: int = 2, *, repeats: int = 5) -> list[Row]:
    """Seconds and peak memory of a forward and backward pass, ours and the plain formula's."""
    model = random_init(TransXNet("tiny")).train()
    recomputing = random_init(TransXNet("tiny", with_cp=True)).train()
    x = torch.randn(batch, 3, *size)

    def step(outputs: Callable[[], Iterable[Tensor]]) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            recomputing.zero_grad()
            sum(y.mean() for y in outputs()).backward()

        return run

    functions = {
        "plain": step(lambda: plain_transxnet(model, x)),
        "TransXNet-T": step(lambda: model(x)),
        "TransXNet-T, with_cp": step(lambda: recomputing(x)),
    }
    memory = {name: peak_memory(function) for name, function in functions.items()}
    seconds = time_interleaved(functions, repeats=repeats, warmup=0)
    return [
        {
            "model": name,
            "size": f"{size[0]}x{size[1]}",
            "batch": batch,
            "seconds": statistics.median(values),
            "times_plain": ratio(seconds, "plain", name),
            "peak_mib": memory[name] / 2**20,
            "memory_over_plain": memory[name] / memory["plain"],
            "all_seconds": values,
        }
        for name, values in seconds.items()
    ]


def attention_memory(size: Size = (800, 1344)) -> list[Row]:
    """Peak memory of the first stage's attention, all three blocks, in a training step."""
    from torch.nn import functional as F

    from mmhybrid.layers.relative_position import attention_with_position, fit_relative_position

    blocks, dim = 3, 24
    queries = (size[0] // 4) * (size[1] // 4)
    keys = math.ceil(size[0] / 32) * math.ceil(size[1] / 32)
    table = torch.randn(1, 1, 3136, 49, requires_grad=True)
    q, k, v = (
        [torch.randn(1, 1, n, dim, requires_grad=True) for _ in range(blocks)]
        for n in (queries, keys, keys)
    )

    def published() -> None:
        outputs = []
        for i in range(blocks):
            resized = F.interpolate(table, size=(queries, keys), mode="bicubic")
            scores = q[i] @ k[i].transpose(-1, -2) * dim**-0.5 + resized
            outputs.append(scores.softmax(dim=-1) @ v[i])
        sum(y.mean() for y in outputs).backward()

    def folded() -> None:
        position = fit_relative_position(table, queries, keys)
        outputs = [attention_with_position(q[i], k[i], v[i], position) for i in range(blocks)]
        sum(y.mean() for y in outputs).backward()

    memory = {"plain": peak_memory(published), "TransXNet-T": peak_memory(folded)}
    return [
        {
            "model": name,
            "size": f"{size[0]}x{size[1]}",
            "peak_mib": value / 2**20,
            "memory_over_plain": value / memory["plain"],
        }
        for name, value in memory.items()
    ]


@torch.no_grad()
def compiled(size: Size = (224, 224), batch: int = 8, *, repeats: int = 5) -> list[Row]:
    """Seconds of a compiled forward pass against an eager one, unfused and fused.

    Compiled for this one size: on a CPU, Inductor needs many times as long for any size
    (``dynamic=True``), and what it makes for one size is what a user of one size would run.
    """
    model = random_init(TransXNet("tiny")).eval()
    fused = fuse(model)
    x = torch.randn(batch, 3, *size)
    functions = {"eager": _forward_of(model, x), "eager, fused": _forward_of(fused, x)}
    for name, one in (("compiled", model), ("compiled, fused", fused)):
        functions[name] = _forward_of(torch.compile(one, fullgraph=True, dynamic=False), x)
    seconds = time_interleaved(functions, repeats=repeats, warmup=2)
    return [
        {
            "model": name,
            "size": f"{size[0]}x{size[1]}",
            "batch": batch,
            "seconds": statistics.median(values),
            "times_eager": ratio(seconds, "eager", name),
        }
        for name, values in seconds.items()
    ]


@torch.no_grad()
def errors(size: Size) -> list[Row]:
    """Differences from the plain formula in float64, relative to the values, by precision."""
    model = random_init(TransXNet("tiny")).eval()
    x = torch.randn(1, 3, *size)
    exact = plain_transxnet(model.double(), x.double())
    rows = [_error("float64", size, model(x.double()), exact)]
    model.float()
    rows.append(_error("float32", size, model(x), exact))
    rows.append(_error("float32, plain", size, plain_transxnet(model, x), exact))
    rows.append(_error("float32, fused", size, fuse(model)(x), exact))
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        with torch.autocast("cpu", dtype=dtype):
            rows.append(_error(f"{name} autocast", size, model(x), exact))
            rows.append(_error(f"{name} autocast, fused", size, fuse(model)(x), exact))
            plain = plain_transxnet(model, x)
            rows.append(_error(f"{name} autocast, plain", size, plain, exact))
    return rows


@torch.no_grad()
def growth(sides: Iterable[int] = (256, 512, 768, 1024, 1280), *, repeats: int = 5) -> list[Row]:
    """Seconds and peak memory of a forward pass of the fused model, by the side of the image."""
    fused = fuse(random_init(TransXNet("tiny")))
    rows = []
    for side in sides:
        run = _forward_of(fused, torch.randn(1, 3, side, side))
        memory = peak_memory(run)
        values = time_interleaved({"fused": run}, repeats=repeats)["fused"]
        rows.append(
            {
                "side": side,
                "pixels": side * side,
                "seconds": statistics.median(values),
                "peak_mib": memory / 2**20,
            }
        )
    return rows


def fitted_exponent(rows: list[Row], key: str, size: str = "pixels") -> float:
    """The p of the ``size ** p`` that fits the rows best: least squares of logarithms."""
    x = [math.log(row[size]) for row in rows]
    y = [math.log(row[key]) for row in rows]
    return statistics.linear_regression(x, y).slope


def _forward_of(model: nn.Module, x: Tensor) -> Callable[[], object]:
    return lambda: model(x)


def _error(precision: str, size: Size, outputs: Iterable[Tensor], exact: Iterable[Tensor]) -> Row:
    """The largest error over the largest value, and the mean error over the mean value."""
    pairs = list(zip(outputs, exact, strict=True))
    largest = max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    mean = statistics.mean(
        ((a.double() - b).abs().mean() / b.abs().mean()).item() for a, b in pairs
    )
    return {
        "precision": precision,
        "size": f"{size[0]}x{size[1]}",
        "largest": largest,
        "mean": mean,
    }
