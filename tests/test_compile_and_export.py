"""Backbones compile and export without a graph break, and serve sizes that were not traced."""

import pytest
import torch

from mmhybrid.analysis.randomised import randomised
from mmhybrid.backbones import TransXNet
from mmhybrid.deploy import fuse

SMALL = dict(
    depths=(1, 1, 1, 1),
    embed_dims=(16, 32, 48, 64),
    num_heads=(1, 2, 3, 4),
    mlp_ratios=(2, 2, 2, 2),
)
# The first is traced. In the last two, the table of positions is resized and fits as it is.
SIZES = [(2, 64, 96), (3, 75, 101), (2, 224, 224)]


def check(traced, eager) -> None:
    for batch, height, width in SIZES:
        x = torch.randn(batch, 3, height, width)
        for a, b in zip(traced(x), eager(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fused", [False, True])
@torch.no_grad()
def test_compiles_in_one_graph_for_any_size(fused) -> None:
    model = randomised(TransXNet(SMALL)).eval()
    model = fuse(model) if fused else model
    # Everything but the generation of machine code, which takes minutes and is PyTorch's own.
    check(torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager"), model)


def test_trains_in_one_graph() -> None:
    model = randomised(TransXNet(SMALL)).train()
    x = torch.randn(2, 3, 64, 96)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    gradients = []
    for one in (model, compiled):
        model.zero_grad()
        sum((y * y).mean() for y in one(x)).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arch", ["tiny", "small", "base"])
@torch.no_grad()
def test_every_preset_traces_without_a_break(arch) -> None:
    model = TransXNet(arch).eval()
    explanation = torch._dynamo.explain(model)(torch.randn(1, 3, 64, 64))
    assert explanation.graph_break_count == 0


@pytest.mark.parametrize("fused", [False, True])
@torch.no_grad()
def test_exports_for_any_size(fused) -> None:
    model = randomised(TransXNet(SMALL)).eval()
    model = fuse(model) if fused else model
    batch, height, width = SIZES[0]
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
    exported = torch.export.export(
        model, (torch.randn(batch, 3, height, width),), dynamic_shapes=shapes
    )
    check(exported.module(), model)
