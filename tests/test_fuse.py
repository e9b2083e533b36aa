"""Fused models against unfused ones."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import (
    DepthwiseShortcutBackbone,
    DMFormer,
    DWCaiT,
    DWSwinTransformer,
    DWVisionTransformer,
    TransXNet,
    XFormer,
)
from mmhybrid.deploy import fuse
from mmhybrid.deploy.folding import affine_before, norm_as_affine

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize("arch", ["tiny", "small", "base"])
def test_fused_backbone_equals_the_unfused(arch) -> None:
    model = random_init(TransXNet(arch)).eval().double()
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected, fused = model(x), fuse(model)
        for a, b in zip(expected, fused(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        for a, b in zip(expected, fuse(model.float())(x.float()), strict=True):
            assert (a - b).abs().max() < 1e-4 * a.abs().max()
    norms = [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == []


def test_the_model_itself_stays_as_it_is() -> None:
    model = random_init(TransXNet(dict(depths=(1, 1, 1, 1)))).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fused = fuse(model)
    assert model.training
    assert not fused.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in fused.parameters())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_positions_are_fitted_anew_for_another_size_or_other_weights() -> None:
    model = random_init(TransXNet(dict(depths=(1, 1, 1, 1)))).eval()
    fused = fuse(model)
    other = random_init(TransXNet(dict(depths=(1, 1, 1, 1))), seed=1).eval()
    small, large = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        for x in (small, small, large, small):
            for a, b in zip(model(x), fused(x), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    fused.load_state_dict(fuse(other).state_dict())
    x = small.requires_grad_()
    for a, b in zip(other(x), fused(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    copied = copy.deepcopy(fused)
    assert copied.relative_position.backbone is copied


def test_a_shift_before_padding_is_refused() -> None:
    norm = nn.BatchNorm2d(4)
    with pytest.raises(ValueError, match="pads"):
        affine_before(*norm_as_affine(norm), nn.Conv2d(4, 4, 3, padding=1))


def test_a_model_without_our_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="no backbone of mmhybrid"):
        fuse(nn.Conv2d(3, 3, 1))


@torch.no_grad()
@pytest.mark.parametrize(
    "norm_cfg", [dict(type="GN", num_groups=1), dict(type="BN", track_running_stats=False)]
)
def test_blocks_with_another_normalisation_stay(norm_cfg) -> None:
    arch = dict(depths=(1, 1, 1, 1))
    model = random_init(TransXNet(arch, norm_cfg=norm_cfg)).eval().double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for a, b in zip(model(x), fuse(model)(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize(
    "model",
    [
        lambda: DWSwinTransformer(
            dict(embed_dims=24, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8)),
            dw_kernel_sizes=(3, 5),
        ),
        lambda: DWVisionTransformer(
            dict(embed_dims=48, depth=4, num_heads=3, mlp_ratio=2), image_size=64, patch_size=16
        ),
        lambda: DWCaiT(
            dict(embed_dims=48, depth=4, num_heads=3, mlp_ratio=2), image_size=64, patch_size=16
        ),
        lambda: DepthwiseShortcutBackbone(
            dict(
                type="mmdet.PyramidVisionTransformerV2",
                embed_dims=16,
                num_layers=[1, 1, 1, 1],
                num_heads=[1, 2, 4, 8],
            ),
            dw_kernel_sizes=(3, 5),
        ),
    ],
    ids=["swin", "vit", "cait", "wrapper"],
)
def test_models_with_depthwise_shortcuts(model) -> None:
    model = random_init(model()).eval().double()
    x = torch.randn(2, 3, 75, 64, dtype=torch.float64)
    expected = model(x)
    fused = fuse(model)
    for a, b in zip(expected, fused(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    # The fused model's shortcuts are its own.
    for parameter in model.parameters():
        parameter.zero_()
    for a, b in zip(expected, fused(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_fusing_in_inference_mode() -> None:
    model = random_init(TransXNet(dict(depths=(1, 1, 1, 1)))).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        fused = fuse(model)
        expected = fused(x)
    for a, b in zip(expected, fused(x), strict=True):
        assert torch.equal(a, b)


SMALL_DMFORMER = dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1))
SMALL_XFORMER = dict(
    stem_channels=(8, 8),
    channels=(8, 16, 16, 24),
    mobile_depths=(2, 1, 1, 1),
    embed_dims=(16, 16, 24),
    xf_depths=(1, 1, 1),
)


# TransXNet is in test_compile_and_export.py.
@torch.no_grad()
def test_fused_dmformer_compiles_and_exports_for_any_size() -> None:
    fused = fuse(random_init(DMFormer(SMALL_DMFORMER)))
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
    exported = torch.export.export(fused, (torch.randn(2, 3, 64, 96),), dynamic_shapes=shapes)
    compiled = torch.compile(fused, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 3, 64, 96), (3, 3, 75, 101)):
        x = torch.randn(size)
        for a, b, c in zip(fused(x), compiled(x), exported.module()(x), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(c, a, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "make", [lambda: DMFormer(SMALL_DMFORMER), lambda: XFormer(SMALL_XFORMER)], ids=["dm", "xf"]
)
def test_fused_models_under_autocast(make) -> None:
    model = random_init(make()).eval()
    x = torch.randn(1, 3, 64, 96)
    exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for a, b, c in zip(exact, model(x), fuse(model)(x), strict=True):
            error, fused_error = ((y - a).abs().mean() / a.abs().mean() for y in (b, c))
            assert fused_error < max(2 * error, 0.02)


@pytest.mark.parametrize("size", ["t", "s", "b"])
@pytest.mark.parametrize("config", ["mask_rcnn_transxnet_{}_coco", "upernet_transxnet_{}_ade20k"])
def test_fused_detector_and_segmentor_equal_the_unfused(config, size) -> None:
    cfg = Config.fromfile(CONFIGS / f"{config.format(size)}.py")
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    cfg.model.backbone.norm_cfg = dict(type="BN")
    model = MODELS.build(cfg.model).eval()
    random_init(model.backbone)
    model = model.double()
    fused = fuse(model)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for a, b in zip(_outputs(model, x), _outputs(fused, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.backbone.modules())


def _outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    features = model.extract_feat(x)
    if hasattr(model, "decode_head"):
        return [model.decode_head(features), *features]
    scores, boxes = model.rpn_head(features)
    return [*scores, *boxes, *features]
