"""Fused models against unfused ones."""

import math

import pytest
import torch
from mmhybrid.backbones import TransXNet
from mmhybrid.deploy import fuse
from mmhybrid.deploy.folding import affine_before, norm_as_affine
from torch import nn


def randomised(model: nn.Module) -> nn.Module:
    """Random values in every parameter and statistic: at initialisation LayerScale hides everything."""
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim > 1 and "layer_scale" not in key and "relative_pos_enc" not in key:
                tensor.normal_(std=1 / math.sqrt(math.prod(tensor.shape[1:])))
            elif tensor.is_floating_point():
                tensor.normal_(0.3, 0.3)
    return model.eval()


@pytest.mark.parametrize("arch", ["tiny", "small", "base"])
def test_fused_backbone_equals_the_unfused(arch) -> None:
    model = randomised(TransXNet(arch)).double()
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
    model = randomised(TransXNet(dict(depths=(1, 1, 1, 1)))).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fused = fuse(model)
    assert model.training
    assert not fused.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in fused.parameters())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_a_shift_before_padding_is_refused() -> None:
    norm = nn.BatchNorm2d(4)
    with pytest.raises(ValueError, match="pads"):
        affine_before(*norm_as_affine(norm), nn.Conv2d(4, 4, 3, padding=1))


def test_a_model_without_our_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="no backbone of mmhybrid"):
        fuse(nn.Conv2d(3, 3, 1))
