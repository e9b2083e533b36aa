"""What holds for every backbone, whatever its size, its inputs and its settings."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from mmhybrid.backbones import (
    DMFormer,
    DWCaiT,
    DWSwinTransformer,
    DWVisionTransformer,
    HybridBackbone,
    TransXNet,
    XFormer,
)

# The same examples each time, few enough for seconds.
few = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def transxnet(width: int) -> dict[str, Any]:
    return dict(
        depths=(1, 1, 1, 1),
        embed_dims=(width, 2 * width, 3 * width, 4 * width),
        num_heads=(1, 2, 3, 4),
        mlp_ratios=(2, 2, 2, 2),
    )


# The constructor's arguments by a width, a multiple of 8.
FAMILIES = {
    TransXNet: lambda w: dict(arch=transxnet(w)),
    DMFormer: lambda w: dict(
        arch=dict(embed_dims=(w, 2 * w, 3 * w, 4 * w), depths=(1, 1, 1, 1)),
    ),
    XFormer: lambda w: dict(),
    DWVisionTransformer: lambda w: dict(arch=dict(embed_dims=6 * w, depth=4), patch_size=16),
    DWSwinTransformer: lambda w: dict(arch=dict(embed_dims=3 * w, depths=(1, 1, 1, 1))),
    DWCaiT: lambda w: dict(arch=dict(embed_dims=6 * w, depth=4), patch_size=16),
}
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.__name__)

sizes = st.tuples(st.integers(32, 300), st.integers(32, 300))
widths = st.sampled_from([8, 16])
channels = st.integers(1, 5)
outputs = st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True).map(sorted)
precisions = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


def build(family: type[HybridBackbone], width: int, **options: Any) -> HybridBackbone:
    torch.manual_seed(0)
    return family(**FAMILIES[family](width), **options)


@every_family
def test_shapes_are_right_and_evaluation_is_finite_and_repeatable(family) -> None:
    @few
    @given(size=sizes, width=widths, in_channels=channels, out_indices=outputs, dtype=precisions)
    def check(size, width, in_channels, out_indices, dtype) -> None:
        model = build(family, width, in_channels=in_channels, out_indices=out_indices).eval()
        x = torch.randn(1, in_channels, *size)
        with torch.no_grad():
            if dtype is torch.bfloat16:
                with torch.autocast("cpu", dtype):
                    first, second = model(x), model(x)
            else:
                model, x = model.to(dtype), x.to(dtype)
                first, second = model(x), model(x)
        assert len(first) == len(out_indices)
        for y, again, number, stride in zip(
            first, second, model.feature_channels, model.feature_strides, strict=True
        ):
            assert y.shape[:2] == (1, number)
            assert all(abs(a - b / stride) < 1 for a, b in zip(y.shape[2:], size, strict=True))
            assert torch.isfinite(y).all()
            assert torch.equal(y, again)
            if dtype is not torch.bfloat16:
                assert y.dtype is dtype

    check()


@every_family
def test_trainable_parameters_get_gradients_and_frozen_ones_none(family) -> None:
    @few
    @given(size=sizes, out_indices=outputs, frozen=st.integers(-1, 4))
    def check(size, out_indices, frozen) -> None:
        size = tuple(min(side, 160) for side in size)
        model = build(family, 8, out_indices=out_indices, frozen_stages=frozen).train()
        maps = model(torch.randn(2, 3, *size))
        total = sum((y * y).mean() for y in maps)
        if total.requires_grad:
            total.backward()
        for stage in range(-1, model.num_stages):
            for part in model.stage_parts(stage):
                for parameter in part.parameters() if isinstance(part, nn.Module) else [part]:
                    assert parameter.requires_grad == (stage >= frozen)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name
            else:
                assert parameter.grad is None, name

    check()
