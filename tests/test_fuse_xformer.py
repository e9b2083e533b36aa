"""XFormer fused against unfused, with every switch that changes its blocks."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import XFormer
from mmhybrid.deploy import fuse

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TINY = dict(
    stem_channels=(8, 8),
    channels=(8, 16, 16, 24),
    mobile_depths=(2, 1, 1, 1),
    embed_dims=(16, 16, 24),
    xf_depths=(1, 1, 1),
)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["cross_covariance", "context_score"])
def test_small_in_both_precisions(attention) -> None:
    model = random_init(XFormer("small", attention=attention, head_channels=640)).eval().double()
    x = torch.randn(2, 3, 67, 95, dtype=torch.float64)
    expected, fused = model(x), fuse(model)
    for a, b in zip(expected, fused(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    for a, b in zip(expected, fuse(model.float())(x.float()), strict=True):
        assert (a - b).abs().max() < 1e-4 * a.abs().max()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        dict(squeeze_excitation=False),
        dict(activation="gelu", mlp_activation="relu"),
        dict(activation="silu", patch_size=1, output_projection=True),
        dict(activation="relu", out_indices=(1, 2)),
        dict(norm_cfg=dict(type="SyncBN")),
        dict(norm_cfg=dict(type="GN", num_groups=2)),
    ],
    ids=lambda options: "-".join(f"{key}={value}" for key, value in options.items()),
)
def test_every_switch(options) -> None:
    model = random_init(XFormer(TINY, **options)).eval().double()
    x = torch.randn(2, 3, 65, 90, dtype=torch.float64)
    for a, b in zip(model(x), fuse(model)(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_the_input_stays_as_it_is() -> None:
    fused = fuse(random_init(XFormer(TINY)))
    x = torch.randn(1, 3, 64, 64)
    before = x.clone()
    fused(x)
    assert torch.equal(x, before)


def test_the_model_itself_stays_as_it_is() -> None:
    model = random_init(XFormer(TINY)).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fuse(model)
    assert model.training
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(m.inplace for m in model.modules() if isinstance(m, nn.Hardswish))
    model(torch.randn(2, 3, 64, 64))[-1].sum().backward()


@torch.no_grad()
def test_segmentor() -> None:
    cfg = Config.fromfile(CONFIGS / "segformer_xformer_s_cityscapes.py")
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.update(init_cfg=None, norm_cfg=dict(type="BN"))
    model = MODELS.build(cfg.model).eval()
    random_init(model)
    model = model.double()
    x = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    expected, fused = model.encode_decode(x, [dict(img_shape=(96, 64))]), fuse(model)
    actual = fused.encode_decode(x, [dict(img_shape=(96, 64))])
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    norms = [m for m in fused.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms == []
