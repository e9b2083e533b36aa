"""The depth-wise shortcut around backbones of mmdet, mmseg and mmpretrain."""

import copy

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint as mmengine_load
from torch import nn
from torch.utils._pytree import tree_leaves

from mmhybrid import load_checkpoint
from mmhybrid.backbones import DepthwiseShortcutBackbone, DWSwinTransformer
from mmhybrid.weights import CheckpointError

SWIN = dict(embed_dims=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))
PVT = dict(embed_dims=16, num_layers=[1, 1, 2, 1], num_heads=[1, 2, 4, 8])
TWINS = dict(embed_dims=[16, 32, 64, 64], depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 4])
VIT = dict(embed_dims=48, num_layers=4, num_heads=3)
VIT_OF_MMPRETRAIN = dict(arch=dict(VIT, feedforward_channels=96), img_size=64, patch_size=16)
# Backbone, blocks in each stage.
BACKBONES = {
    "mmdet.SwinTransformer": (SWIN, [2, 2, 2, 2]),
    "mmdet.PyramidVisionTransformer": (PVT, [1, 1, 2, 1]),
    "mmdet.PyramidVisionTransformerV2": (PVT, [1, 1, 2, 1]),
    "mmseg.SwinTransformer": (SWIN, [2, 2, 2, 2]),
    "mmseg.VisionTransformer": (dict(VIT, img_size=(64, 64)), [4]),
    "mmseg.MixVisionTransformer": (PVT, [1, 1, 2, 1]),
    "mmseg.PCPVT": (TWINS, [1, 1, 2, 1]),
    "mmpretrain.SwinTransformer": (dict(arch=SWIN, window_size=2), [2, 2, 2, 2]),
    "mmpretrain.VisionTransformer": (VIT_OF_MMPRETRAIN, [4]),
    "mmpretrain.DistilledVisionTransformer": (VIT_OF_MMPRETRAIN, [4]),
    "mmpretrain.BEiTViT": (VIT_OF_MMPRETRAIN, [4]),
}
CLASS_TOKEN = ("mmpretrain.VisionTransformer", "mmpretrain.DistilledVisionTransformer")


def config(name: str = "mmdet.SwinTransformer", **options) -> dict:
    pytest.importorskip(name.split(".")[0])
    return dict(type=name, **BACKBONES[name][0], **options)


def assert_equal(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def without_dropout(model: nn.Module) -> nn.Module:
    model.train()
    for module in model.modules():
        if "Drop" in type(module).__name__:
            module.eval()
    return model


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("span", [1, 2, "stage"])
def test_pretrained_starts_unchanged_and_learns(name, span) -> None:
    plain = without_dropout(MODELS.build(config(name)))
    wrapped = DepthwiseShortcutBackbone(config(name), dw_span=span, zero_init=True)
    expected = [1 if span == "stage" else -(-depth // span) for depth in BACKBONES[name][1]]
    assert [len(shortcuts) for shortcuts in wrapped.shortcuts] == expected

    # Weights that were saved without the wrapper.
    result = wrapped.load_state_dict(plain.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert all(key.startswith("shortcuts.") for key in result.missing_keys)
    without_dropout(wrapped)
    x = torch.randn(2, 3, 64, 64)
    assert_equal(tree_leaves(wrapped(x)), tree_leaves(plain(x)))

    for parameter in wrapped.shortcuts.parameters():
        nn.init.uniform_(parameter, 0.5, 1)
    outputs = tree_leaves(wrapped(x))
    dead = span == "stage" and name in CLASS_TOKEN  # it leaves the only output alone
    assert torch.equal(outputs[-1], tree_leaves(plain(x))[-1]) == dead
    sum(y.square().sum() for y in outputs).backward()
    assert [n for n, p in wrapped.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_shortcut_is_added_around_the_whole_block() -> None:
    wrapped = DepthwiseShortcutBackbone(config("mmpretrain.VisionTransformer"), dw_span=3).eval()
    x = torch.randn(1, 3, 64, 64)
    (got,) = wrapped(x)

    plain = MODELS.build(config("mmpretrain.VisionTransformer"))
    plain.eval()
    plain.load_state_dict(wrapped.backbone.state_dict())
    tokens, size = plain.patch_embed(x)
    tokens = torch.cat([plain.cls_token, tokens], 1) + plain.pos_embed
    for group, shortcut in zip(((0, 1, 2), (3,)), wrapped.shortcuts[0], strict=True):
        bypassing = tokens
        for index in group:
            tokens = plain.layers[index](tokens)
        tokens = tokens + shortcut(bypassing, size, 1)
    torch.testing.assert_close(got, plain.ln1(tokens)[:, 0])


def test_gradient_checkpointing_of_the_wrapped_backbone_keeps_the_shortcut() -> None:
    plain, recomputing = (
        DepthwiseShortcutBackbone(config(drop_path_rate=0.0, with_cp=on)) for on in (False, True)
    )
    recomputing.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for model in (plain, recomputing):
        sum(y.square().sum() for y in model.train()(x)).backward()
    gradients = ({n: p.grad for n, p in m.named_parameters()} for m in (recomputing, plain))
    torch.testing.assert_close(*gradients)
    assert_equal(dict(recomputing.named_buffers()), dict(plain.named_buffers()))


def test_pretrained_weights_load_in_every_way(tmp_path) -> None:
    plain = MODELS.build(config()).state_dict()
    whole = {f"backbone.{key}": tensor for key, tensor in plain.items()}
    checkpoints = [str(tmp_path / name) for name in ("backbone.pth", "detector.pth")]
    for path, weights in zip(checkpoints, (plain, whole), strict=True):
        torch.save(dict(state_dict=weights), path)

    # mmdet's Swin reads a whole detector, MMEngine a backbone.
    of_backbone, of_detector = (dict(type="Pretrained", checkpoint=path) for path in checkpoints)
    inside = DepthwiseShortcutBackbone(config(init_cfg=of_detector))
    inside.init_weights()
    outside = DepthwiseShortcutBackbone(config(), init_cfg=of_backbone)
    outside.init_weights()
    detector = nn.ModuleDict(dict(backbone=DepthwiseShortcutBackbone(config())))
    mmengine_load(detector, checkpoints[1])
    for model in (inside, outside, detector.backbone):
        state = model.backbone.state_dict()
        assert_equal({key: state[key] for key in plain}, dict(plain))

    again = DepthwiseShortcutBackbone(config())
    again.load_state_dict(inside.state_dict())  # its own names, strictly
    x = torch.randn(1, 3, 64, 64)
    assert_equal(again.eval()(x), inside.eval()(x))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kernel_sizes", [(3,), (3, 5, 7)])
def test_load_checkpoint_tells_what_it_loaded(inside, kernel_sizes, tmp_path) -> None:
    """Into the wrapper alone or inside a detector, from files with and without the wrapper."""
    path = tmp_path / "weights.pth"

    def load(weights: dict):
        torch.save(dict(state_dict=weights), path)
        wrapped = DepthwiseShortcutBackbone(config(), dw_kernel_sizes=kernel_sizes)
        model = nn.ModuleDict(dict(backbone=wrapped)) if inside else wrapped
        return wrapped, load_checkpoint(model, path)

    plain = dict(MODELS.build(config()).state_dict())
    whole = {f"backbone.{key}": tensor for key, tensor in plain.items()}
    neck = {"neck.weight": torch.ones(1)}
    for weights, left_over in ((plain, []), ({**whole, **neck}, ["neck.weight"])):
        wrapped, report = load(weights)
        state = wrapped.backbone.state_dict()
        assert_equal({key: state[key] for key in plain}, plain)
        assert len(report.loaded) == len(plain)
        assert report.new
        assert all("shortcuts." in name for name in report.new)
        assert all("num_batches_tracked" in name for name in report.missing_keys)
        assert (report.unexpected_keys, report.mismatched) == (left_over, {})

    own = dict(wrapped.state_dict())
    for prefix in ("", "backbone."):
        wrapped, report = load({f"{prefix}{key}": tensor for key, tensor in own.items()})
        assert (report.missing_keys, report.unexpected_keys, report.mismatched) == ([], [], {})
        assert_equal(dict(wrapped.state_dict()), own)

    with pytest.raises(CheckpointError, match="does not fit DepthwiseShortcutBackbone"):
        load({"layer1.0.conv1.weight": torch.ones(1)})


@pytest.mark.parametrize("inside", ["", "backbone."])
def test_its_file_is_refused_by_a_model_that_would_lose_the_shortcuts(inside, tmp_path) -> None:
    wrapper = DepthwiseShortcutBackbone(config())
    weights = {inside + name: tensor for name, tensor in wrapper.state_dict().items()}
    torch.save(weights, tmp_path / "weights.pth")
    model = DWSwinTransformer(SWIN)
    with pytest.raises(
        CheckpointError, match=r"shortcuts .*of DepthwiseShortcutBackbone have no place"
    ):
        load_checkpoint(model, tmp_path / "weights.pth")
    assert not load_checkpoint(wrapper, tmp_path / "weights.pth").missing_keys


def test_copies_have_shortcuts_of_their_own() -> None:
    """MMEngine's averaging of weights copies models."""
    wrapped = DepthwiseShortcutBackbone(config()).eval()
    copied = copy.deepcopy(wrapped)
    x = torch.randn(1, 3, 64, 64)
    before = wrapped(x)
    for parameter in copied.shortcuts.parameters():
        nn.init.zeros_(parameter)
    assert_equal(wrapped(x), before)
    assert not torch.allclose(before[0], copied(x)[0])


def test_norm_eval_keeps_running_statistics() -> None:
    wrapped = DepthwiseShortcutBackbone(config(), norm_eval=True).train()
    before = {n: b.clone() for n, b in wrapped.named_buffers()}
    wrapped(torch.randn(1, 3, 64, 64))
    assert_equal(dict(wrapped.named_buffers()), before)


def test_layer_depth_is_that_of_the_wrapped_backbone() -> None:
    wrapped = DepthwiseShortcutBackbone(config("mmpretrain.VisionTransformer"), dw_span=2)
    depth = wrapped.get_layer_depth("backbone.backbone.layers.3.ln1.weight", "backbone.")
    assert depth == wrapped.backbone.get_layer_depth("layers.3.ln1.weight")
    assert wrapped.get_layer_depth("backbone.shortcuts.0.1.convs.0.weight", "backbone.") == depth


def test_backbones_without_blocks_are_told() -> None:
    pytest.importorskip("mmdet")
    with pytest.raises(ValueError, match="ResNet has no blocks that take a shortcut"):
        DepthwiseShortcutBackbone(dict(type="mmdet.ResNet", depth=18))
    pytest.importorskip("mmpretrain")
    with pytest.raises(ValueError, match=r"VANBlock.* only blocks of \(B, L, C\) tokens"):
        DepthwiseShortcutBackbone(dict(type="mmpretrain.VAN", arch="tiny"))
    block = DepthwiseShortcutBackbone(config()).backbone.stages[0].blocks[0]
    for tokens in (torch.randn(1, 24, 4, 4), torch.randn(1, 12, 24)):
        with pytest.raises(ValueError, match=r"cannot put .* around SwinBlock: .* size \(4, 4\)"):
            block(tokens, (4, 4))


@pytest.mark.parametrize("name", ["mmdet.SwinTransformer", "mmpretrain.VisionTransformer"])
@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning")
def test_it_can_be_traced_as_its_host_can(name) -> None:
    """As MMEngine's get_model_complexity_info does, and TensorBoard's graph."""
    model, x = DepthwiseShortcutBackbone(config(name)).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_equal(torch.jit.trace(model, x, check_trace=False)(x), model(x))
