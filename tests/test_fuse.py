"""Fused models against unfused ones."""

import copy
import re

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmhybrid import backbones
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import DMFormer, TransXNet, XFormer, backbone_classes
from mmhybrid.deploy import compiled, fuse
from mmhybrid.deploy.folding import affine_before, norm_as_affine
from mmhybrid.errors import ArgumentError, UserError
from mmhybrid.layers.cross_feature_attention import CROSS_FEATURE_ATTENTIONS
from mmhybrid.layers.depthwise_conv import DepthwiseConv

TINY = {backbone: backbone.test_options for backbone in backbone_classes()}
PVT = dict(embed_dims=16, num_layers=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])
TINY[backbones.DepthwiseShortcutBackbone] = dict(
    backbone=dict(type="mmdet.PyramidVisionTransformerV2", **PVT), dw_kernel_sizes=(3, 5)
)


def build(backbone: type[nn.Module], **options) -> nn.Module:
    return random_init(backbone(**{**TINY[backbone], **options})).eval()


@torch.no_grad()
@pytest.mark.parametrize("backbone", TINY, ids=lambda backbone: backbone.__name__)
def test_bfloat16_is_within_some_hundredths(backbone, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict(avx512_bf16=True), False)
    model, x = build(backbone), torch.randn(1, 3, 67, 95)
    fast = fuse(model, torch.bfloat16)
    assert {parameter.dtype for parameter in fast.parameters()} == {torch.bfloat16}
    differences = []
    for a, b in zip(model(x), fast(x), strict=True):
        assert b.dtype == torch.float32
        differences.append(((a - b).abs().max() / a.abs().max()).item())
    assert 0 < max(differences) < 0.05


@torch.no_grad()
def test_bfloat16_of_a_whole_model_leaves_its_head(read_config) -> None:
    cfg = read_config("retinanet_transxnet_t_coco")
    cfg.model.backbone = dict(type="XFormer", **XFormer.test_options)
    init_default_scope("mmdet")
    cfg.model.neck.in_channels = list(XFormer(**XFormer.test_options).feature_channels)
    model = random_init(MODELS.build(cfg.model)).eval()
    fast = fuse(model, torch.float16)  # no processor is refused for it
    assert fast.neck.lateral_convs[0].conv.weight.dtype == torch.float16
    assert fast.bbox_head.retina_cls.weight.dtype == torch.float32
    copy.deepcopy(fast)
    x = torch.randn(1, 3, 64, 96)
    for a, b in zip(model(x)[0], fast(x)[0], strict=True):
        assert b.dtype == torch.float32
        assert (a - b).abs().max() < 0.05 * a.abs().max()


def test_a_processor_without_bfloat16_is_said(monkeypatch) -> None:
    known = dict(avx512_bf16=False, avx2=True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, False)
    with pytest.raises(ArgumentError, match="no instructions for bfloat16"):
        fuse(build(XFormer), torch.bfloat16)
    fuse(build(XFormer))


@pytest.mark.compile
@pytest.mark.process
def test_compiled_says_what_it_gained() -> None:
    model, x, told = fuse(build(XFormer)), torch.randn(1, 3, 64, 64), []
    fast = compiled(model, x, report=told.append)
    assert re.fullmatch(
        r"compiled in \d+ s: [\d.e+-]+ times as fast at \(1, 3, 64, 64\), \S+ ms instead of \S+ ms",
        *told,
    )
    with torch.no_grad():
        for a, b in zip(model(x), fast(x), strict=True):
            assert_close(b, a, 1e-4)


@pytest.mark.compile
def test_what_cannot_be_compiled_is_said() -> None:
    class Breaks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return x

    with pytest.raises(UserError, match="Breaks cannot be compiled here: "):
        compiled(Breaks(), torch.ones(1), fullgraph=True)


def assert_close(actual, expected, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def assert_fusing_changes_rounding_alone(model: nn.Module) -> nn.Module:
    """Returns the model fused, in double precision."""
    model, x = model.double(), torch.randn(2, 3, 67, 95, dtype=torch.float64)
    expected, fused = model(x), fuse(model)
    assert_close(fused(x), expected)
    for a, b in zip(expected, fuse(model.float())(x.float()), strict=True):
        assert (a - b).abs().max() < 1e-4 * a.abs().max()
    return fused


@pytest.mark.parametrize("backbone", TINY, ids=lambda backbone: backbone.__name__)
def test_every_backbone_and_that_it_stays_as_it_is(backbone) -> None:
    model = build(backbone)
    assert_fusing_changes_rounding_alone(copy.deepcopy(model))
    before = copy.deepcopy(model.train().state_dict())
    functions = {name: m.__dict__.get("inplace") for name, m in model.named_modules()}
    fused = fuse(model)
    assert model.training
    assert not fused.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in fused.parameters())
    assert_close(dict(model.state_dict()), dict(before), 0)
    assert functions == {name: m.__dict__.get("inplace") for name, m in model.named_modules()}
    # It has nothing in common with the model, and does not write into its input.
    x = torch.randn(1, 3, 64, 64)
    untouched, expected = x.clone(), fused(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_close(fused(x), expected)
    assert torch.equal(x, untouched)


SYNC_BN = dict(type="SyncBN")
NO_STATISTICS = dict(type="BN", track_running_stats=False)
# fmt: off
SWITCHES = {
    DMFormer: (
        dict(merge="sum"), dict(merge="split"), dict(merge="split", expand=3),
        dict(gate_reduction=None), dict(output_conv=False), dict(layer_scale_init=None),
        dict(depthwise_ffn=False), dict(downsample_kernel=2, stem_convs=2),
        dict(norm_cfg=SYNC_BN, out_indices=(1, 2)),
    ),
    XFormer: (
        dict(attention="context_score"), dict(squeeze_excitation=False),
        dict(activation="gelu", mlp_activation="relu"), dict(activation="relu", out_indices=(1, 2)),
        dict(activation="silu", patch_size=1, output_projection=True),
        dict(norm_cfg=SYNC_BN), dict(norm_cfg=dict(type="GN", num_groups=2)),
    ),
    backbones.DWSwinTransformer: (dict(dw_kernel_sizes=(3, 5)),),
    backbones.DWVisionTransformer: (dict(qkv_bias=True, position_antialias=True),),
    backbones.DWCaiT: (dict(talking_heads_bias=True, facebook_class_stage=True, norm_eps=1e-6),),
}
# Blocks whose normalisation depends on the image or does not fit stay as they are.
UNFUSED = {
    TransXNet: (dict(norm_cfg=dict(type="GN", num_groups=1)), dict(norm_cfg=NO_STATISTICS)),
    DMFormer: (
        dict(norm_cfg=dict(type="GN", num_groups=2)), dict(norm_cfg=NO_STATISTICS),
        dict(block_norm_cfg=dict(type="LN2d")),
    ),
}
# fmt: on


@torch.no_grad()
@pytest.mark.parametrize(
    ("backbone", "options", "fuses"),
    [(c, o, t is SWITCHES) for t in (SWITCHES, UNFUSED) for c, all_ in t.items() for o in all_],
)
def test_every_switch(backbone, options, fuses) -> None:
    model = build(backbone, **options)
    fused = assert_fusing_changes_rounding_alone(model)
    blocks = sum(type(module).__name__.startswith("Fused") for module in fused.modules())
    if not fuses or backbone is DMFormer:
        assert blocks == (sum(len(stage) for stage in model.stages) if fuses else 0)


@pytest.mark.full_size
@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        *((TransXNet, dict(arch=arch)) for arch in ("tiny", "small", "base")),
        *((XFormer, dict(attention=form, head_channels=640)) for form in CROSS_FEATURE_ATTENTIONS),
        (DMFormer, {}),
    ],
)
def test_full_size(backbone, options) -> None:
    fused = assert_fusing_changes_rounding_alone(random_init(backbone(**options)).eval())
    norms = [m for m in fused.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert backbone is DMFormer or norms == []


def test_positions_are_fitted_anew_for_another_size_or_other_weights() -> None:
    model, other = build(TransXNet), random_init(build(TransXNet), seed=1)
    small, large = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        fused = fuse(model)
        for x in (small, small, large, small):
            assert_close(fused(x), model(x), 1e-4)
        expected = fused(small)
    assert_close(fused(small), expected, 0)
    fused.load_state_dict(fuse(other).state_dict())
    x = small.requires_grad_()
    assert_close(fused(x), other(x), 1e-4)
    copied = copy.deepcopy(fused)
    assert copied.relative_position.backbone is copied


def test_what_cannot_be_fused_is_refused() -> None:
    with pytest.raises(ValueError, match="pads"):
        affine_before(*norm_as_affine(nn.BatchNorm2d(4)), nn.Conv2d(4, 4, 3, padding=1))
    with pytest.raises(ValueError, match="no backbone of mmhybrid"):
        fuse(nn.Conv2d(3, 3, 1))


@torch.no_grad()
@pytest.mark.parametrize("backbone", [DMFormer, XFormer])
def test_fused_models_under_autocast(backbone) -> None:
    model, x = build(backbone), torch.randn(1, 3, 64, 96)
    exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for a, b, c in zip(exact, model(x), fuse(model)(x), strict=True):
            error, fused_error = ((y - a).abs().mean() / a.abs().mean() for y in (b, c))
            assert fused_error < max(2 * error, 0.02)


@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 1), (5, 2), (7, 3), (15, 1)])
def test_a_wide_rim_changes_nothing(kernel_size, dilation) -> None:
    conv = DepthwiseConv(4, kernel_size, dilation).double()
    x = torch.randn(2, 4, 11, 8, dtype=torch.float64, requires_grad=True)
    padding = dilation * (kernel_size // 2)
    options = dict(padding=padding, dilation=dilation, groups=4)
    expected = nn.functional.conv2d(x, conv.weight, conv.bias, **options)
    torch.testing.assert_close(conv(x), expected)
    inputs = (x, *conv.parameters())
    gradients = (torch.autograd.grad(y.square().sum(), inputs) for y in (conv(x), expected))
    torch.testing.assert_close(*gradients)
