"""DMFormer fused against unfused, with every switch that changes its block."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import DMFormer
from mmhybrid.deploy import fuse
from mmhybrid.deploy.fused_dmformer import FusedDMFormerBlock
from mmhybrid.layers.wide_depthwise_conv import WideDepthwiseConv

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TINY = dict(embed_dims=(8, 16, 24, 32), depths=(2, 1, 1, 1))


@torch.no_grad()
def test_small_in_both_precisions() -> None:
    model = random_init(DMFormer("small")).eval().double()
    x = torch.randn(2, 3, 67, 95, dtype=torch.float64)
    expected = model(x)
    for a, b in zip(expected, fuse(model)(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    for a, b in zip(expected, fuse(model.float())(x.float()), strict=True):
        assert (a - b).abs().max() < 1e-4 * a.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        dict(merge="sum"),
        dict(merge="split"),
        dict(merge="split", expand=3),
        dict(gate_reduction=None),
        dict(output_conv=False),
        dict(layer_scale_init=None),
        dict(depthwise_ffn=False),
        dict(downsample_kernel=2, stem_convs=2),
        dict(norm_cfg=dict(type="SyncBN"), out_indices=(1, 2)),
    ],
    ids=lambda options: "-".join(f"{key}={value}" for key, value in options.items()),
)
def test_every_switch(options) -> None:
    model = random_init(DMFormer(TINY, **options)).eval().double()
    fused = fuse(model)
    assert sum(isinstance(m, FusedDMFormerBlock) for m in fused.modules()) == sum(
        len(stage) for stage in model.stages
    )
    x = torch.randn(2, 3, 65, 90, dtype=torch.float64)
    for a, b in zip(model(x), fused(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        dict(block_norm_cfg=dict(type="LN2d")),
        dict(norm_cfg=dict(type="GN", num_groups=2)),
        dict(norm_cfg=dict(type="BN", track_running_stats=False)),
    ],
)
def test_blocks_with_another_normalisation_stay(options) -> None:
    model = random_init(DMFormer(TINY, **options)).eval().double()
    fused = fuse(model)
    assert not any(isinstance(m, FusedDMFormerBlock) for m in fused.modules())
    x = torch.randn(2, 3, 65, 90, dtype=torch.float64)
    for a, b in zip(model(x), fused(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_model_itself_stays_as_it_is() -> None:
    model = random_init(DMFormer(TINY)).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fuse(model)
    assert model.training
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(m.inplace for m in model.modules() if isinstance(m, nn.ReLU))
    model(torch.randn(2, 3, 64, 64))[-1].sum().backward()


@torch.no_grad()
def test_mask_rcnn() -> None:
    cfg = Config.fromfile(CONFIGS / "mask_rcnn_dmformer_s_coco.py")
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.update(init_cfg=None, arch=dict(depths=(1, 1, 1, 1)))
    model = MODELS.build(cfg.model).eval()
    random_init(model.backbone)
    model = model.double()
    fused = fuse(model)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    features, fused_features = model.extract_feat(x), fused.extract_feat(x)
    (scores, boxes), (fused_scores, fused_boxes) = (
        model.rpn_head(features),
        fused.rpn_head(fused_features),
    )
    for a, b in zip(
        [*features, *scores, *boxes], [*fused_features, *fused_scores, *fused_boxes], strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 1), (5, 2), (7, 3), (15, 1)])
def test_a_wide_rim_changes_nothing(kernel_size, dilation) -> None:
    conv = WideDepthwiseConv(4, kernel_size, dilation).double()
    x = torch.randn(2, 4, 11, 8, dtype=torch.float64, requires_grad=True)
    padding = dilation * (kernel_size // 2)
    expected = nn.functional.conv2d(
        x, conv.weight, conv.bias, padding=padding, dilation=dilation, groups=4
    )
    torch.testing.assert_close(conv(x), expected)
    inputs = (x, *conv.parameters())
    for a, b in zip(
        torch.autograd.grad(conv(x).square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
