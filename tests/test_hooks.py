"""Hooks that a config can ask for by name."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from torch import nn

from mmhybrid.backbones import TransXNet


@pytest.fixture
def runner() -> SimpleNamespace:
    """Of a detector."""
    model = nn.Module()
    model.backbone = TransXNet(dict(depths=(1, 1, 1, 1))).eval()
    return SimpleNamespace(model=model, logger=MMLogger.get_instance("hooks"))


@pytest.mark.compile
def test_backbone_alone_is_compiled(runner) -> None:
    x = torch.randn(1, 3, 64, 64)
    expected = runner.model.backbone(x)
    cfg = dict(type="mmhybrid.CompileBackboneHook", backend="eager")
    HOOKS.build(cfg).before_run(runner)
    for a, b in zip(runner.model.backbone(x), expected, strict=True):
        torch.testing.assert_close(a, b)
    assert runner.model.backbone._compiled_call_impl is not None
    assert runner.model._compiled_call_impl is None


def test_model_is_fused_before_a_test(runner) -> None:
    unfused = runner.model
    HOOKS.build(dict(type="mmhybrid.FuseHook")).before_test(runner)
    assert runner.model is not unfused
    assert not any(isinstance(m, nn.BatchNorm2d) for m in runner.model.modules())
