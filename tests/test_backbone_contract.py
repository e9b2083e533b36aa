"""What every registered backbone promises. A new one is tested by being registered."""

import copy
import inspect

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import mmhybrid
from mmhybrid.backbones import HybridBackbone
from mmhybrid.backbones.base import resolve_arch

BACKBONES = sorted(
    (
        c
        for c in MODELS.module_dict.values()
        if inspect.isclass(c) and issubclass(c, HybridBackbone)
    ),
    key=lambda c: c.__name__,
)
every_backbone = pytest.mark.parametrize("backbone", BACKBONES, ids=lambda c: c.__name__)


def build(backbone: type[HybridBackbone], **options) -> HybridBackbone:
    return backbone(**{**backbone.test_options, **options})


def total(outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return sum((y * y).mean() for y in outputs)


@every_backbone
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (61, 83)])
@pytest.mark.parametrize("training", [False, True])
def test_outputs(backbone, size, training) -> None:
    model = build(backbone).train(training)
    outputs = model(torch.randn(2, 3, *size))
    assert isinstance(outputs, tuple)
    assert len(outputs) == len(model.out_indices)
    for y, channels, stride in zip(
        outputs, model.feature_channels, model.feature_strides, strict=True
    ):
        assert y.shape[:2] == (2, channels)
        # Whether a map is rounded up or down is the family's own business.
        assert all(
            abs(side - pixels / stride) < 1 for side, pixels in zip(y.shape[2:], size, strict=True)
        )
        assert torch.isfinite(y).all()


@every_backbone
def test_every_trainable_parameter_gets_a_gradient_for_any_outputs(backbone) -> None:
    for out_indices in ((0, 1, 2, 3), (1, 2, 3), (3,), (-1,), (0,)):
        model = build(backbone, out_indices=out_indices)
        total(model(torch.randn(2, 3, 64, 64))).backward()
        without = [name for name, p in model.named_parameters() if p.grad is None]
        assert without == []


@every_backbone
def test_frozen_stages(backbone) -> None:
    for frozen in range(-1, 5):
        model = build(backbone, frozen_stages=frozen).train()
        before = copy.deepcopy(model.state_dict())
        outputs = model(torch.randn(2, 3, 64, 64))
        if any(y.requires_grad for y in outputs):
            total(outputs).backward()
        for stage in range(-1, model.num_stages):
            for part in model.stage_parts(stage):
                parameters = part.parameters() if isinstance(part, nn.Module) else [part]
                assert all(p.requires_grad == (stage >= frozen) for p in parameters)
                if isinstance(part, nn.Module) and stage < frozen:
                    assert not any(m.training for m in part.modules())
        if frozen == 4:
            after = model.state_dict()
            assert all(torch.equal(before[key], after[key]) for key in before)


@every_backbone
def test_norm_eval_keeps_running_statistics(backbone) -> None:
    model = build(backbone, norm_eval=True).train()
    before = {n: b.clone() for n, b in model.named_buffers()}
    model(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(before[n], b) for n, b in model.named_buffers())


@every_backbone
@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_checkpointing_changes_neither_results_nor_statistics(backbone, norm) -> None:
    plain = build(backbone, norm_cfg=dict(type=norm)).train()
    recomputing = build(backbone, norm_cfg=dict(type=norm), with_cp=True).train()
    recomputing.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, recomputing):
        total(model(x)).backward()
    for (name, a), b in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, n=name: f"{n}: {m}")
    for (name, a), b in zip(plain.named_buffers(), recomputing.buffers(), strict=True):
        assert torch.equal(a, b), name


@every_backbone
def test_train_returns_the_model_and_evaluation_is_deterministic(backbone) -> None:
    model = build(backbone, drop_path_rate=0.5)
    assert model.train() is model
    assert model.eval() is model
    x = torch.randn(2, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(model(x), model(x), strict=True))


@every_backbone
def test_layer_depth_rises_from_the_stem_to_the_end(backbone) -> None:
    model = build(backbone)
    names = [name for name, _ in model.named_parameters()]
    depths = {name: model.get_layer_depth(f"backbone.{name}", "backbone.") for name in names}
    assert len({number for _, number in depths.values()}) == 1
    number = next(iter(depths.values()))[1]
    found = {depth for depth, _ in depths.values()}
    assert found == set(range(max(found) + 1))
    # The last one is for output norms, where there are any, and for heads.
    assert number - 2 <= max(found) < number
    assert {depth for name, (depth, _) in depths.items() if _is_in(model, name, -1)} == {0}


def _is_in(model: HybridBackbone, name: str, stage: int) -> bool:
    parameter = dict(model.named_parameters())[name]
    return any(
        parameter is p
        for part in model.stage_parts(stage)
        for p in (part.parameters() if isinstance(part, nn.Module) else [part])
    )


@every_backbone
def test_other_input_channels(backbone) -> None:
    build(backbone, in_channels=4)(torch.randn(2, 4, 64, 64))


@every_backbone
def test_autocast(backbone) -> None:
    model = build(backbone).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(torch.randn(2, 3, 64, 64))
    total([y.float() for y in outputs]).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_backbone
def test_bad_arguments_are_told(backbone) -> None:
    with pytest.raises(TypeError, match="no_such_argument"):
        build(backbone, no_such_argument=1)
    with pytest.raises(ValueError, match="out of range"):
        build(backbone, out_indices=(0, 9))
    with pytest.raises(ValueError, match="allowed are -1"):
        build(backbone, frozen_stages=9)
    with pytest.raises(ValueError, match="is unknown; choose from"):
        backbone(arch="no-such-arch")
    with pytest.raises(ValueError, match="at least 32x32 pixels"):
        build(backbone)(torch.randn(1, 3, 16, 64))


@every_backbone
def test_built_by_name_in_both_scopes(backbone) -> None:
    name = backbone.__name__
    cfg = backbone.test_options
    assert type(mmhybrid.MODELS.build(dict(type=name, **cfg))) is backbone
    assert type(MODELS.build(dict(type=f"mmhybrid.{name}", **cfg))) is backbone


@every_backbone
def test_syncbn_of_a_config_works_in_one_process(backbone) -> None:
    if "norm_cfg" not in inspect.signature(backbone).parameters:
        pytest.skip("has no batch normalisation to choose")
    model = build(backbone, norm_cfg=dict(type="SyncBN", requires_grad=True)).train()
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    model(torch.randn(2, 3, 64, 64))
    model(torch.randn(1, 3, 64, 64))


def test_arch_names_suggest_what_is_near() -> None:
    presets = {"tiny": dict(depth=1), "small": dict(depth=2)}
    assert resolve_arch("t", presets, "tiny") == dict(depth=1)
    assert resolve_arch(dict(depth=5), presets, "tiny") == dict(depth=5)
    with pytest.raises(ValueError, match="did you mean 'small'"):
        resolve_arch("smal", presets, "tiny")
    with pytest.raises(ValueError, match="did you mean 'depth'"):
        resolve_arch(dict(deptth=5), presets, "tiny")
