"""What every registered backbone promises. A new one is tested by being registered."""

import copy
import itertools
import pickle
from collections.abc import Iterable, Mapping

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import Tensor, nn

import mmhybrid
from mmhybrid import backbones
from mmhybrid.backbones import HybridBackbone, backbone_classes
from mmhybrid.backbones.base import resolve_arch
from mmhybrid.deploy import fuse

every_backbone = pytest.mark.parametrize(
    "backbone", backbone_classes(), ids=lambda backbone: backbone.__name__
)
# The same examples each time, few enough for seconds.
few = settings(
    max_examples=8, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
sides = st.integers(32, 200)
outputs = st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True).map(sorted)
precisions = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


def build(backbone: type[HybridBackbone], **options) -> HybridBackbone:
    return backbone(**{**backbone.test_options, **options})


def total(maps: Iterable[Tensor]) -> Tensor:
    return sum((y * y).mean() for y in maps)


def parameters(model: HybridBackbone, stage: int) -> list[nn.Parameter]:
    parts = model.stage_parts(stage)
    return [
        p for part in parts for p in (part.parameters() if isinstance(part, nn.Module) else [part])
    ]


def assert_equal(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(dict(actual), dict(expected), rtol=0, atol=0)


def assert_same(a: HybridBackbone, b: HybridBackbone, x: Tensor) -> None:
    """Two models with the same weights train alike: outputs, gradients and statistics."""
    b.load_state_dict(a.state_dict())
    maps = [model.train()(x) for model in (a, b)]
    torch.testing.assert_close(*maps)
    for one in maps:
        total(one).backward()
    torch.testing.assert_close(*({n: p.grad for n, p in m.named_parameters()} for m in (a, b)))
    torch.testing.assert_close(*(dict(model.named_buffers()) for model in (a, b)))


@every_backbone
@few
@given(sides, sides, st.integers(1, 5), outputs, precisions, st.booleans())
@example(32, 32, 3, [0, 1, 2, 3], torch.float32, True)
@example(61, 83, 4, [-2, -1], torch.float32, False)
def test_outputs(backbone, height, width, in_channels, out_indices, dtype, training) -> None:
    model = build(backbone, in_channels=in_channels, out_indices=out_indices).train(training)
    x = torch.randn(2, in_channels, height, width)
    if dtype is torch.float64:
        model, x = model.to(dtype), x.to(dtype)
    with torch.no_grad(), torch.autocast("cpu", enabled=dtype is torch.bfloat16):
        maps, again = model(x), model(x)
    assert isinstance(maps, tuple)
    assert model.out_indices == tuple(index % 4 for index in out_indices)
    shapes = zip(maps, again, model.feature_channels, model.feature_strides, strict=True)
    for y, same, channels, stride in shapes:
        # Whether a map is rounded up or down is the family's own business.
        assert y.shape[:2] == (2, channels)
        assert abs(y.shape[2] - height / stride) < 1
        assert abs(y.shape[3] - width / stride) < 1
        assert torch.isfinite(y).all()
        assert training or torch.equal(y, same)
        assert dtype is torch.bfloat16 or y.dtype is dtype


@every_backbone
@few
@given(sides, outputs, st.integers(-1, 4))
@example(64, [0, 1, 2, 3], 4)
@example(64, [-1], -1)
def test_what_is_trained_gets_a_gradient_and_what_is_frozen_stays(
    backbone, side, out_indices, frozen
) -> None:
    model = build(backbone, out_indices=out_indices, frozen_stages=frozen).train()
    before = copy.deepcopy(model.state_dict())
    loss = total(model(torch.randn(2, 3, 64, side)))
    if loss.requires_grad:
        loss.backward()
    for stage in range(-1, model.num_stages):
        assert all(p.requires_grad == (stage >= frozen) for p in parameters(model, stage))
        for part in model.stage_parts(stage):
            if isinstance(part, nn.Module) and stage < frozen:
                assert not any(module.training for module in part.modules())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    if frozen == 4:
        assert_equal(model.state_dict(), before)


@every_backbone
@pytest.mark.parametrize(("norm", "with_cp"), [("BN", True), ("SyncBN", True), ("SyncBN", False)])
def test_neither_recomputing_nor_syncbn_in_one_process_changes_anything(backbone, norm, with_cp):
    plain = build(backbone, norm_cfg=dict(type="BN"))
    other = build(backbone, norm_cfg=dict(type=norm, requires_grad=True), with_cp=with_cp)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in other.modules()) == (norm == "SyncBN")
    assert_same(plain, other, torch.randn(2, 3, 64, 64))
    total(other(torch.randn(1, 3, 64, 64))).backward()  # a batch of one
    assert all(torch.isfinite(p.grad).all() for p in other.parameters())


@every_backbone
def test_syncbn_trains_on_one_image_as_mmengine_and_a_cpu_have_it(backbone) -> None:
    x = torch.randn(1, 3, 32, 32)
    model = revert_sync_batchnorm(build(backbone, norm_cfg=dict(type="SyncBN"))).train()
    total(model(x)).backward()
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    total(copied(x)).backward()
    total(build(backbone, norm_cfg=dict(type="mmhybrid.GlooSyncBatchNorm")).train()(x)).backward()


@every_backbone
def test_training_and_evaluation(backbone) -> None:
    model = build(backbone, drop_path_rate=0.5, norm_eval=True)
    assert model.train() is model
    before = {n: b.clone() for n, b in model.named_buffers()}
    x = torch.randn(2, 3, 64, 64)
    model(x)
    assert_equal(dict(model.named_buffers()), before)
    assert model.eval() is model
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)


@every_backbone
def test_layer_depth_rises_from_the_stem_to_the_end(backbone) -> None:
    model = build(backbone)
    depths = {
        parameter: model.get_layer_depth(f"backbone.{name}", "backbone.")
        for name, parameter in model.named_parameters()
    }
    found = {depth for depth, _ in depths.values()}
    assert found == set(range(max(found) + 1))
    (number,) = {number for _, number in depths.values()}
    # The last one is for output norms, where there are any, and for heads.
    assert number - 2 <= max(found) < number
    assert model.get_layer_depth("neck.weight", "backbone.") == (number - 1, number)
    stages = [{depths[p][0] for p in parameters(model, i)} for i in range(-1, model.num_stages)]
    assert stages[0] == {0}
    for one, following in itertools.pairwise(stages):
        assert max(one - {number - 1}) <= min(following)


@every_backbone
def test_autocast_changes_no_more_than_rounding(backbone) -> None:
    model = build(backbone).train()
    x = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = model(x)
    for y, exact in zip(maps, model(x), strict=True):
        # Batch statistics of the 8 pixels of a last map make much of rounding.
        assert (y.float() - exact).norm() < 0.15 * exact.norm()
    total(y.float() for y in maps).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@every_backbone
def test_weights_load_by_the_name_of_the_backbone_in_a_model(backbone, tmp_path) -> None:
    trained = build(backbone)
    weights = {f"backbone.{name}": value for name, value in trained.state_dict().items()}
    checkpoint = str(tmp_path / "trained.pth")
    torch.save(dict(state_dict=weights), checkpoint)
    pretrained = dict(type="Pretrained", checkpoint=checkpoint, prefix="backbone.")
    model = build(backbone, init_cfg=pretrained)
    model.init_weights()
    assert_equal(model.state_dict(), trained.state_dict())


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


TINY = backbones.TransXNet.presets["tiny"]
# Of one family.
BAD_ARGUMENTS = [
    ("DMFormer", dict(arch="smal"), "did you mean 'small'"),
    ("DMFormer", dict(arch=dict(depthts=(1, 1, 1, 1))), "did you mean 'depths'"),
    ("DMFormer", dict(arch=dict(mlp_ratios=4)), r"mlp_ratios=4 of arch: give .* \(3, 3, 3, 3\)"),
    ("DMFormer", dict(norm_cfg=None), r"norm_cfg=None: .* dict\(type='BN'\)"),
    ("XFormer", dict(norm_cfg="BN"), "norm_cfg='BN': "),
    ("TransXNet", dict(norm_cfg={}), r"norm_cfg=\{\}: "),
    ("TransXNet", dict(arch=dict(depths=(1, 1, 1))), "has 3 entries, and embed_dims=.* has 4"),
    ("TransXNet", dict(arch={k: v[:3] for k, v in TINY.items()}), "3 stages, and TransXNet has 4"),
    ("TransXNet", dict(arch=dict(depths=(1, 1, 1, 1.5))), "depths=.* of arch: give whole numbers"),
    ("TransXNet", dict(arch=dict(kernel_sizes=(7, 7, 7, 8))), "odd numbers"),
    ("TransXNet", dict(image_size=(512, 1024)), r"image_size=\(512, 1024\): give the side"),
    ("DWCaiT", dict(image_size=0), "image_size=0: give the side"),
    ("DWVisionTransformer", dict(arch=dict(depth="4")), "depth='4' of arch: give a whole number"),
    ("DWSwinTransformer", dict(arch=dict(embed_dims=[96, 192])), r"embed_dims=\[96, 192\] of arch"),
    ("DMFormer", dict(kernel_sizes=(3, 5, 8)), r"kernel_sizes=\(3, 5, 8\): .*odd numbers"),
    ("XFormer", dict(fusion_kernel_size=2), "fusion_kernel_size=2: give an odd number"),
    ("XFormer", dict(kernel_size=4), "kernel_size=4: give an odd number"),
    ("DMFormer", dict(merge="add"), "concat, sum, split"),
    ("DMFormer", dict(dilations=(1, 2)), "differ in number"),
    ("DMFormer", dict(downsample_kernel=4), "choose 2 or 3"),
    ("XFormer", dict(attention="self"), "choose from cross_covariance, context_score"),
    ("XFormer", dict(mlp_activation="tanh"), r"mlp_activation='tanh'.*hard_swish"),
    ("XFormer", dict(num_heads=5), "5 heads do not divide 144 channels"),
    ("XFormer", dict(head_channels=64, out_indices=(0, 1, 2)), "set head_channels=None"),
    ("DWVisionTransformer", dict(out_type="raw"), "out_type='raw' is unknown"),
    (
        "DWVisionTransformer",
        dict(out_type="cls_token", class_token=False),
        "needs class_token=True",
    ),
    ("DWCaiT", dict(patch_size=14), "multiples of 4"),
    ("DWCaiT", dict(layer_dropout=1.0), "layer_dropout"),
    *(
        (host, {name: value}, name)
        for host in ("DWVisionTransformer", "DWCaiT", "DWSwinTransformer")
        for name, values in dict(dw_kernel_sizes=((4,), 3, (-1,)), dw_span=(0, "all")).items()
        for value in values
    ),
]


@pytest.mark.parametrize(("backbone", "options", "message"), BAD_ARGUMENTS)
def test_bad_arguments_of_a_family_are_told(backbone, options, message) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        getattr(backbones, backbone)(**options)


@every_backbone
def test_built_by_name_in_both_scopes(backbone) -> None:
    cfg = dict(backbone.test_options, type=backbone.__name__)
    assert type(mmhybrid.MODELS.build(cfg)) is backbone
    assert type(MODELS.build(dict(cfg, type=f"mmhybrid.{backbone.__name__}"))) is backbone


def test_arch_is_a_name_its_beginning_or_a_dict() -> None:
    presets = {"tiny": dict(depth=1), "small": dict(depth=2)}
    assert resolve_arch("tiny", presets, "tiny") == dict(depth=1)
    assert resolve_arch("t", presets, "tiny") == dict(depth=1)
    assert resolve_arch("s", {"s": dict(depth=3), "T0": {}}, "s") == dict(depth=3)
    assert resolve_arch("T0", {"s": dict(depth=3), "T0": {}}, "s") == {}
    assert resolve_arch(dict(depth=5), presets, "tiny") == dict(depth=5)
    # Ratios need not be whole, nor stages be as many where the family does not say so.
    backbones.DMFormer(arch=dict(mlp_ratios=[3, 3.5, 3, 3], depths=[1] * 4))
    stages = dict(embed_dims=24, depths=(1, 1, 1), num_heads=(1, 2, 4))
    swin = backbones.DWSwinTransformer(arch=stages, out_indices=(0, 1, 2))
    assert swin.feature_channels == (24, 48, 96)


@every_backbone
@pytest.mark.parametrize("prepare", [copy.deepcopy, fuse], ids=["as trained", "fused"])
@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*batching rule:UserWarning")
def test_no_images_many_at_once_and_a_trace(backbone, prepare) -> None:
    """As heads without boxes, torch.func and MMEngine's get_model_complexity_info call it."""
    model = prepare(build(backbone).eval())
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = model(x)
        for y, none in zip(expected, model(x[:0]), strict=True):
            assert none.shape == (0, *y.shape[1:])
        mapped = torch.func.vmap(lambda one: model(one[None]))(x)
        torch.testing.assert_close(tuple(y.squeeze(1) for y in mapped), expected)
        torch.testing.assert_close(torch.jit.trace(model, x, check_trace=False)(x), expected)
