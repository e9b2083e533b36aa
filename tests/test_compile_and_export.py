"""Backbones compile and export without a graph break, and serve sizes that were not traced."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import (
    DWCaiT,
    DWVisionTransformer,
    TransXNet,
    XFormer,
    backbone_classes,
)
from mmhybrid.deploy import fuse

pytestmark = pytest.mark.compile
BACKBONES = {backbone.__name__: (backbone, {}) for backbone in backbone_classes()}
BACKBONES["TransXNet"] = (TransXNet, dict(image_size=128))
BACKBONES["XFormer-context_score"] = (XFormer, dict(attention="context_score"))
BACKBONES["ViT as its host"] = (
    DWVisionTransformer,
    dict(qkv_bias=True, position_antialias=True),
)
BACKBONES["CaiT as its host"] = (
    DWCaiT,
    dict(talking_heads_bias=True, facebook_class_stage=True, out_type="cls_token"),
)
# The first is traced. Of TransXNet, the table of positions is resized at all but 128x128. Maps are
# even and odd in every stage.
SIZES = [(2, 96, 160), (3, 75, 101), (2, 128, 128), (4, 90, 70)]
# A graph of Swin is of maps that hold several windows, or of those that one window holds.
SIZES_OF_SWIN = [(2, 128, 160), (3, 135, 203), (4, 121, 116)]


def sizes_of(name: str) -> list[tuple[int, int, int]]:
    return SIZES_OF_SWIN if "Swin" in name else SIZES


def build(name: str, fused: bool = False) -> nn.Module:
    backbone, options = BACKBONES[name]
    model = random_init(backbone(**{**backbone.test_options, **options})).eval()
    return fuse(model) if fused else model


def check(name: str, traced, eager) -> None:
    for batch, height, width in sizes_of(name):
        x = torch.randn(batch, 3, height, width)
        torch.testing.assert_close(traced(x), eager(x), rtol=1e-4, atol=1e-4)


# What is fused is exported; fused TransXNet, which keeps tables by size, is compiled too.
@pytest.mark.parametrize(("name", "fused"), [*((n, False) for n in BACKBONES), ("TransXNet", True)])
@torch.no_grad()
def test_compiles_in_one_graph_for_any_size(name, fused) -> None:
    torch._dynamo.reset()
    model = build(name, fused)
    # The graph alone: what comes after it takes minutes and is PyTorch's own.
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    batch, *size = sizes_of(name)[0]
    compiled(torch.randn(batch, 3, *size))
    graphs = counter.frame_count
    check(name, compiled, model)
    # TransXNet may take a second one where its table fits as it is.
    assert counter.frame_count <= graphs + (name == "TransXNet")


# PyTorch traces again, which takes as long, where a number might better be a part of the graph.
@torch._dynamo.config.patch(specialize_float=True)
def test_trains_in_one_graph() -> None:
    torch._dynamo.reset()
    # A block that reduces its keys, and one that does not.
    arch = dict(TransXNet.test_options["arch"], depths=(1, 0, 0, 1))
    model = random_init(TransXNet(arch=arch, image_size=128)).train()
    x = torch.randn(2, 3, 64, 96)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    gradients = []
    for one in (model, compiled):
        model.zero_grad()
        sum((y * y).mean() for y in one(x)).backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "fused"), [*((n, True) for n in BACKBONES), ("TransXNet", False)])
@torch.no_grad()
def test_exports_for_any_size(name, fused) -> None:
    model = build(name, fused)
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
    batch, *size = sizes_of(name)[0]
    x = torch.randn(batch, 3, *size)
    check(name, torch.export.export(model, (x,), dynamic_shapes=shapes).module(), model)
