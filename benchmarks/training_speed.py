"""What a training step of every family costs, beside the backbones that people would choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from benchmarks.parts_speed import Row, timed_rows
from benchmarks.transxnet_speed import peers
from mmhybrid.analysis.benchmark import smallest_models
from mmhybrid.analysis.timing import peak_memory_of, ratio, time_interleaved
from mmhybrid.apis.models import make_model
from mmhybrid.apis.random_init import random_init

BESIDE = "Swin-T (mmdet)"


def training_steps(
    side: int = 512,
    batch: int = 2,
    *,
    ours: Mapping[str, str] | None = None,
    beside: Iterable[str] | None = None,
    repeats: int = 5,
) -> list[Row]:
    """Seconds and peak memory of a forward and backward pass, in turns in one run.

    ``times_as_long`` is the time over that of mmdet's Swin-T. ``ours`` are specifications by name
    and default to the smallest preset of each family; ``beside`` are names of
    :func:`benchmarks.transxnet_speed.peers`, Swin-T among them, and default to all.
    """
    specs = ours or smallest_models()
    names = [*specs, *(peers() if beside is None else beside)]
    calls = {name: _step(name, specs.get(name), side, batch) for name in names}
    seconds = time_interleaved(calls, repeats=repeats)
    rows = timed_rows(seconds, dict(size=f"{side}x{side}", batch=batch))
    for row in rows:
        name = row["model"]
        row["times_as_long"] = ratio(seconds, name, BESIDE)
        row["peak_mib"] = peak_memory_of(_step, name, specs.get(name), side, batch) / 2**20
    return rows


def _step(name: str, spec: str | None, side: int, batch: int) -> Callable[[], None]:
    model: nn.Module = random_init(make_model(spec)) if spec else peers()[name]
    model.train()  # of mmdet's, this returns nothing
    x = torch.randn(batch, 3, side, side)

    def step() -> None:
        model.zero_grad()
        sum(y.mean() for y in model(x)).backward()

    return step
