"""What TransXNet-T costs here, against the plain published formula and against its peers.

Each function measures one thing in one run and returns rows, dictionaries of plain values.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.parts_speed import Row, timed_rows
from benchmarks.plain_transxnet import plain_transxnet
from mmhybrid.analysis.timing import peak_memory_of, time_interleaved
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import TransXNet
from mmhybrid.deploy import fuse
from mmhybrid.layers.relative_position import attention_with_position, fit_relative_position

Size = tuple[int, int]


def peers() -> dict[str, nn.Module]:
    """Backbones that people would choose instead, four stages each, by name."""
    import timm
    from mmdet.models.backbones import PyramidVisionTransformerV2, SwinTransformer

    return {
        "Swin-T (mmdet)": SwinTransformer(),
        "PVTv2-B1 (mmdet)": PyramidVisionTransformerV2(embed_dims=64, num_layers=[2, 2, 2, 2]),
        "ConvNeXt-T (timm)": timm.create_model("convnext_tiny", features_only=True),
        "ResNet-50 (timm)": timm.create_model("resnet50", features_only=True),
    }


@torch.no_grad()
def forward(size: Size, *, repeats: int = 5, with_peers: bool = False) -> list[Row]:
    """Seconds of a forward pass of one image, and how many times as fast as the plain formula."""
    model = random_init(TransXNet("tiny")).eval()
    fused = fuse(model)
    x = torch.randn(1, 3, *size)
    functions = {
        "plain": lambda: plain_transxnet(model, x),
        "TransXNet-T": partial(model, x),
        "TransXNet-T fused": partial(fused, x),
    }
    for name, peer in (peers() if with_peers else {}).items():
        peer.eval()  # of mmdet's, this returns nothing
        functions[name] = partial(peer, x)
    seconds = time_interleaved(functions, repeats=repeats)
    about = dict(size=_shown(size))
    return timed_rows(seconds, about, times_plain="plain", times_fused="TransXNet-T fused")


def training_step(size: Size = (640, 1088), batch: int = 2, *, repeats: int = 5) -> list[Row]:
    """Seconds and peak memory of a forward and backward pass, ours and the plain formula's."""
    names = ("plain", "TransXNet-T", "TransXNet-T, with_cp")
    memory = {name: peak_memory_of(_training_call, name, size, batch) for name in names}
    functions = {name: _training_call(name, size, batch) for name in names}
    seconds = time_interleaved(functions, repeats=repeats, warmup=0)
    rows = timed_rows(seconds, dict(size=_shown(size), batch=batch), times_plain="plain")
    return [row | _memory(memory, row["model"]) for row in rows]


def _training_call(name: str, size: Size, batch: int) -> Callable[[], None]:
    model = random_init(TransXNet("tiny", with_cp=name.endswith("with_cp"))).train()
    x = torch.randn(batch, 3, *size)

    def step() -> None:
        model.zero_grad()
        outputs = plain_transxnet(model, x) if name == "plain" else model(x)
        sum(y.mean() for y in outputs).backward()

    return step


def attention_memory(size: Size = (800, 1344)) -> list[Row]:
    """Peak memory of the first stage's attention, all three blocks, in a training step."""
    names = ("plain", "TransXNet-T")
    memory = {name: peak_memory_of(_attention_call, name, size) for name in names}
    return [dict(model=name, size=_shown(size), **_memory(memory, name)) for name in names]


def _attention_call(name: str, size: Size) -> Callable[[], None]:
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

    return published if name == "plain" else folded


@torch.no_grad()
def compiled(size: Size = (224, 224), batch: int = 8, *, repeats: int = 5) -> list[Row]:
    """Seconds of a compiled forward pass against an eager one, unfused and fused.

    Compiled for this one size: on a CPU, Inductor needs many times as long for any size
    (``dynamic=True``), and what it makes for one size is what a user of one size would run.
    """
    model = random_init(TransXNet("tiny")).eval()
    fused = fuse(model)
    x = torch.randn(batch, 3, *size)
    functions = {"eager": partial(model, x), "eager, fused": partial(fused, x)}
    for name, one in (("compiled", model), ("compiled, fused", fused)):
        functions[name] = partial(torch.compile(one, fullgraph=True, dynamic=False), x)
    seconds = time_interleaved(functions, repeats=repeats, warmup=2)
    return timed_rows(seconds, dict(size=_shown(size), batch=batch), times_eager="eager")


@torch.no_grad()
def errors(size: Size) -> list[Row]:
    """Differences from the plain formula in float64, relative to the values, by precision."""
    model = random_init(TransXNet("tiny")).eval()
    x = torch.randn(1, 3, *size)
    exact = plain_transxnet(model.double(), x.double())
    found = {"float64": model(x.double())}
    model.float()
    found["float32"] = model(x)
    found["float32, plain"] = plain_transxnet(model, x)
    found["float32, fused"] = fuse(model)(x)
    for name in ("bfloat16", "float16"):
        with torch.autocast("cpu", dtype=getattr(torch, name)):
            found[f"{name} autocast"] = model(x)
            found[f"{name} autocast, fused"] = fuse(model)(x)
            found[f"{name} autocast, plain"] = plain_transxnet(model, x)
    return [_error(name, size, outputs, exact) for name, outputs in found.items()]


def growth(sides: Iterable[int] = (256, 512, 768, 1024, 1280), *, repeats: int = 5) -> list[Row]:
    """Seconds and peak memory of a forward pass of the fused model, by the side of the image."""
    rows = []
    for side in sides:
        memory = peak_memory_of(_fused_call, side) / 2**20
        values = time_interleaved({"fused": _fused_call(side)}, repeats=repeats)["fused"]
        seconds = statistics.median(values)
        rows.append(dict(side=side, pixels=side**2, seconds=seconds, peak_mib=memory))
    return rows


def _fused_call(side: int) -> Callable[[], object]:
    fused, x = fuse(random_init(TransXNet("tiny"))), torch.randn(1, 3, side, side)
    return torch.no_grad()(partial(fused, x))


def fitted_exponent(rows: list[Row], key: str, size: str = "pixels") -> float:
    """The p of the ``size ** p`` that fits the rows best: least squares of logarithms."""
    x = [math.log(row[size]) for row in rows]
    y = [math.log(row[key]) for row in rows]
    return statistics.linear_regression(x, y).slope


def _error(precision: str, size: Size, outputs: Iterable[Tensor], exact: Iterable[Tensor]) -> Row:
    """The largest error over the largest value, and the mean error over the mean value."""
    pairs = list(zip(outputs, exact, strict=True))
    largest = max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    means = [((a.double() - b).abs().mean() / b.abs().mean()).item() for a, b in pairs]
    shown = dict(precision=precision, size=_shown(size), largest=largest)
    return shown | dict(mean=statistics.mean(means))


def _memory(memory: dict[str, int], name: str) -> Row:
    return dict(peak_mib=memory[name] / 2**20, memory_over_plain=memory[name] / memory["plain"])


def _shown(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
