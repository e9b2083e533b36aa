"""Backbones compile and export without a graph break, and serve sizes that were not traced."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import DMFormer, TransXNet, XFormer
from mmhybrid.deploy import fuse

SMALL = dict(
    depths=(1, 1, 1, 1),
    embed_dims=(16, 32, 48, 64),
    num_heads=(1, 2, 3, 4),
    mlp_ratios=(2, 2, 2, 2),
)
SMALL_XFORMER = dict(
    stem_channels=(8, 8),
    channels=(8, 8, 16, 16),
    mobile_depths=(2, 1, 1, 1),
    embed_dims=(8, 16, 16),
    xf_depths=(1, 2, 1),
)
BACKBONES = {
    "TransXNet": lambda: TransXNet(SMALL),
    "DMFormer": lambda: DMFormer(dict(embed_dims=(8, 16, 24, 32), depths=(2, 1, 1, 1))),
    "XFormer-context_score": lambda: XFormer(SMALL_XFORMER, attention="context_score"),
    "XFormer-cross_covariance": lambda: XFormer(SMALL_XFORMER, attention="cross_covariance"),
}
# The first is traced. Of TransXNet, the table of positions is resized at 75x101 and fits at 224.
# Maps are even and odd in every stage.
SIZES = [(2, 96, 160), (3, 75, 101), (2, 224, 224), (4, 90, 70)]
every_backbone = pytest.mark.parametrize("name", BACKBONES)
fused_or_not = pytest.mark.parametrize("fused", [False, True])


def made(name: str, fused: bool) -> torch.nn.Module:
    model = random_init(BACKBONES[name]()).eval()
    return fuse(model) if fused else model


def check(traced, eager) -> None:
    for batch, height, width in SIZES:
        x = torch.randn(batch, 3, height, width)
        for a, b in zip(traced(x), eager(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@every_backbone
@fused_or_not
@torch.no_grad()
def test_compiles_in_one_graph_for_any_size(name, fused) -> None:
    model = made(name, fused)
    # Everything but the generation of machine code, which takes minutes and is PyTorch's own.
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    compiled(torch.randn(SIZES[0][0], 3, *SIZES[0][1:]))
    graphs = counter.frame_count
    check(compiled, model)
    # TransXNet may take a second one where its table fits as it is.
    assert counter.frame_count <= graphs + (name == "TransXNet")


def test_trains_in_one_graph() -> None:
    model = random_init(TransXNet(SMALL)).train()
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


@every_backbone
@fused_or_not
@torch.no_grad()
def test_exports_for_any_size(name, fused) -> None:
    model = made(name, fused)
    batch, height, width = SIZES[0]
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
    exported = torch.export.export(
        model, (torch.randn(batch, 3, height, width),), dynamic_shapes=shapes
    )
    check(exported.module(), model)
