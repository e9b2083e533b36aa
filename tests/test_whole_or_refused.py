"""A checkpoint is loaded whole, but for what is named as allowed to be new, or refused."""

import functools
import logging
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, ExponentialMovingAverage, revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.runner import load_checkpoint as mmengine_load_checkpoint
from torch import Tensor, nn

import mmhybrid
from mmhybrid.backbones import (
    DepthwiseShortcutBackbone,
    DWVisionTransformer,
    TransXNet,
    XFormer,
    backbone_classes,
)
from mmhybrid.backbones.family import Backbone
from mmhybrid.weights import CheckpointError, load_checkpoint, load_weights
from mmhybrid.weights.families import describe
from mmhybrid.weights.report import LoadReport
from mmhybrid.weights.rule import modules, parts_that_may_be_new

SWIN = dict(embed_dims=24, depths=(2, 1, 1, 1), num_heads=(1, 2, 3, 6))
FAMILIES = [backbone.__name__ for backbone in backbone_classes(Backbone)]
CLASSES = {backbone.__name__: backbone for backbone in backbone_classes(Backbone)}
# One more block in the first stage.
DEEPER = {
    "DMFormer": dict(depths=(3, 1, 1, 1)),
    "DWCaiT": dict(depth=5),
    "DWSwinTransformer": dict(depths=(3, 2, 2, 2)),
    "DWVisionTransformer": dict(depth=5),
    "InceptionNeXt": None,
    "TransXNet": dict(depths=(3, 1, 1, 1)),
    "XFormer": dict(mobile_depths=(2, 1, 1, 1)),
}
Weights = dict[str, Tensor]


def build(name: str, **options: Any) -> nn.Module:
    if name == "DepthwiseShortcutBackbone":
        pytest.importorskip("mmdet")
        return DepthwiseShortcutBackbone(dict(type="mmdet.SwinTransformer", **SWIN), **options)
    return CLASSES[name](**{**CLASSES[name].test_options, **options})


@functools.cache
def model_of(name: str) -> nn.Module:
    return build(name)


def emptied(name: str) -> nn.Module:
    """A model of this family with zeros everywhere; the same object each time."""
    return emptied_model(model_of(name))


@torch.no_grad()
def emptied_model(model: nn.Module) -> nn.Module:
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


@functools.cache
def weights_of(name: str) -> Weights:
    """Different from each other and from zero; whole numbers stay."""
    state = model_of(name).state_dict()
    return {
        key: torch.randn(value.shape) + 3 if value.is_floating_point() else value.clone()
        for key, value in state.items()
    }


def learned(weights: Weights) -> list[str]:
    return [key for key, value in weights.items() if value.is_floating_point()]


def needed(name: str) -> list[str]:
    """What the rule asks of every file."""
    keys = learned(weights_of(name))
    new = set().union(*parts_that_may_be_new(model_of(name), keys))
    return [key for key in keys if key not in new]


def holds(model: nn.Module, weights: Weights, prefix: str = "") -> bool:
    state = model.state_dict()
    return all(torch.equal(state[prefix + key], weights[key]) for key in learned(weights))


def is_empty(model: nn.Module) -> bool:
    return all(not value.any() for value in model.state_dict().values())


def load(model: nn.Module, checkpoint: Any, **options: Any) -> LoadReport:
    return load_weights(model, checkpoint, logger="silent", **options)


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def plus_one(weights: Weights) -> Weights:
    return {key: value + 1 for key, value in weights.items()}


# --- wrappers and prefixes ------------------------------------------------------------------------

HEAD = {"mlp.0.weight": torch.ones(8, 8), "last_layer.weight_v": torch.ones(16, 8)}
WRAPPINGS: dict[str, Callable[[Weights], dict[str, Any]]] = {
    "bare": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "optimizer": {"state": {}}, "epoch": 3},
    "model": lambda w: {"model": w, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    "model_state": lambda w: {"model_state": w, "optimizer": {}},
    "params": lambda w: {"params": plus_one(w), "params_ema": w},
    "target_encoder": lambda w: {"encoder": plus_one(w), "target_encoder": under("module.", w)},
    "nested": lambda w: {"model": {"state_dict": w}},
    "module.": lambda w: {"state_dict": under("module.", w)},
    "backbone.": lambda w: {"state_dict": under("backbone.", w)},
    "encoder.": lambda w: {"model": under("encoder.", w)},
    "model.": lambda w: {"state_dict": under("model.", w)},
    "net.": lambda w: {"state_dict": under("net.", w)},
    "stacked": lambda w: {"state_dict": under("module.model.encoder.", w)},
    "otherwise stacked": lambda w: {"state_dict": under("model.module.backbone.net.", w)},
    "a name that nobody knows": lambda w: {"state_dict": under("trunk.visual.", w)},
    "state_dict_ema": lambda w: {"state_dict": plus_one(w), "state_dict_ema": w},
    "nested average": lambda w: {"model": {"state_dict": plus_one(w), "ema": under("module.", w)}},
    "DINO": lambda w: {
        "student": under("module.backbone.", plus_one(w)) | under("module.head.", HEAD),
        "teacher": under("backbone.", w) | under("head.", HEAD),
        "optimizer": {},
        "epoch": 100,
    },
    "DINOv2": lambda w: {
        "teacher": under("backbone.", w) | under("dino_head.", HEAD) | under("ibot_head.", HEAD)
    },
    "student and teacher in one": lambda w: {
        "state_dict": under("student.backbone.", plus_one(w)) | under("teacher.backbone.", w)
    },
    "Lightning": lambda w: {
        "state_dict": under("model.", plus_one(w)) | under("ema_model.", w),
        "pytorch-lightning_version": "2",
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_any_wrapping_is_loaded_whole(name: str, wrapping: str) -> None:
    weights, model = weights_of(name), emptied(name)
    report = load(model, WRAPPINGS[wrapping](weights))
    assert holds(model, weights)
    assert (report.missing_keys, report.new, report.mismatched) == ([], [], {})


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_any_wrapping_in_half_precision_into_a_whole_model(wrapping: str) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in weights_of("XFormer").items()}
    model = nn.ModuleDict(dict(backbone=emptied("XFormer"), neck=nn.Conv2d(40, 8, 1)))
    report = load(model, WRAPPINGS[wrapping](half))
    assert holds(model, {k: v.float() for k, v in half.items()}, "backbone.")
    assert report.new == ["neck.weight", "neck.bias"]
    assert report.missing_keys == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_loaded_by_value_and_resized_exactly(dtype: torch.dtype) -> None:
    weights = {k: v.to(dtype) for k, v in weights_of("TransXNet").items()}
    model = build("TransXNet", image_size=96, in_channels=1)
    report = load(model, weights)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    stem = weights["patch_embed.proj.conv.weight"].float().sum(1, keepdim=True)
    torch.testing.assert_close(model.patch_embed.proj.conv.weight.data, stem)
    assert report.adapted_from["patch_embed.proj.conv.weight"][0][1] == 3
    assert "relative_pos_enc.0" in report.adapted


@pytest.mark.parametrize("wrapping", ["DINO", "student and teacher in one", "Lightning"])
def test_the_student_where_the_average_is_not_wanted(wrapping: str) -> None:
    weights, model = weights_of("XFormer"), emptied("XFormer")
    load(model, WRAPPINGS[wrapping](weights), ema=False)
    assert holds(model, plus_one(weights))
    load(model, WRAPPINGS[wrapping](weights), ema=True)
    assert holds(model, weights)


@pytest.mark.parametrize("prefix", ["", "model.", "student.backbone.", "module.encoder.net."])
@pytest.mark.parametrize("file", ["dw_vit_tiny", "dw_cait_xxs12", "dw_swin_t"])
def test_authors_files_are_recognised_through_prefixes(shared: Path, file: str, prefix: str):
    import json

    keys = json.loads((shared / "reference" / f"{file}_keys.json").read_text())
    assert describe([prefix + key for key in keys]) == describe(list(keys))
    assert "DW-" in describe(list(keys))


# --- backbones ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 0.3, 0.6, -1])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_missing_tensor_is_refused(name: str, place: float) -> None:
    keys = needed(name)
    lost = keys[place if place == -1 else int(place * len(keys))]
    weights, model = dict(weights_of(name)), emptied(name)
    del weights[lost]
    with pytest.raises(CheckpointError, match="does not fit") as error:
        load(model, dict(state_dict=under("module.", weights)), source="x.pth")
    assert is_empty(model)
    (module,) = modules([lost], [key for key in learned(weights_of(name)) if key != lost])
    assert f"1 of its {len(learned(weights_of(name)))} tensors are not there: {module}" in str(
        error.value
    )
    assert "x.pth" in str(error.value)
    assert CLASSES[name].family in str(error.value)
    assert "allow_partial=True" in str(error.value)
    report = load(model, weights, allow_partial=True)
    assert report.missing_keys == [lost]
    assert holds(model, weights)


@pytest.mark.parametrize("place", [0.2, 0.9])
@pytest.mark.parametrize("name", FAMILIES)
def test_another_shape_is_refused(name: str, place: float) -> None:
    keys = needed(name)
    other = keys[int(place * len(keys))]
    weights, model = dict(weights_of(name)), emptied(name)
    weights[other] = torch.ones(*weights[other].shape, 3)
    with pytest.raises(CheckpointError, match="another `arch`") as error:
        load(model, weights)
    assert str(tuple(weights[other].shape)) in str(error.value)
    assert is_empty(model)
    report = load(model, weights, allow_partial=True)
    assert list(report.mismatched) == [other]


@pytest.mark.parametrize("shape", [(), (7,)])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_shape_that_nothing_has_is_refused(name: str, shape: tuple[int, ...]) -> None:
    model = model_of(name)
    one_of_each = {re.sub(r"\d", "*", key): key for key in needed(name)}
    for key in list(one_of_each.values())[::20]:
        with pytest.raises(CheckpointError, match="does not fit"):
            load(model, weights_of(name) | {key: torch.ones(shape)})


def test_a_file_without_tables_of_positions_is_recognised() -> None:
    weights = {k: v for k, v in weights_of("TransXNet").items() if "relative_pos" not in k}
    with pytest.raises(CheckpointError, match=r"relative_pos_enc.* the weights of TransXNet\."):
        load(model_of("TransXNet"), weights)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_named_may_be_new_as_a_whole_only(name: str) -> None:
    keys = learned(weights_of(name))
    parts = parts_that_may_be_new(model_of(name), keys)
    for part in parts[:1] + parts[1:][-1:]:
        weights = {k: v for k, v in weights_of(name).items() if k not in part}
        report = load(emptied(name), weights)
        assert set(report.new) == part
        assert all("num_batches_tracked" in key for key in report.missing_keys)
        lost = sorted(part)[-1]
        weights = {k: v for k, v in weights_of(name).items() if k != lost}
        with pytest.raises(CheckpointError, match=f"1 of its {len(keys)} tensors are not there"):
            load(emptied(name), weights)


# The parts of each tiny model that may be new.
MAY_BE_NEW = {
    "DMFormer": set(),
    "DWCaiT": {"shortcuts", "pyramid.levels.0", "pyramid.levels.1"},
    "DWSwinTransformer": {"norm0", "norm1", "norm2", "norm3", "layers.*.shortcuts"},
    "DWVisionTransformer": {"shortcuts", "pyramid.levels.0", "pyramid.levels.1"},
    "DepthwiseShortcutBackbone": {"shortcuts", *(f"backbone.norm{i}" for i in range(4))},
    "TransXNet": {"norm0", "norm2", "norm4", "norm6"},
    "XFormer": set(),
}


@pytest.mark.parametrize("name", MAY_BE_NEW)
def test_what_may_be_new(name: str) -> None:
    keys = learned(weights_of(name))
    parts = parts_that_may_be_new(model_of(name), keys)
    found = {
        told.rpartition(" (")[0]
        for part in parts
        for told in modules(part, [key for key in keys if key not in part])
    }
    assert found == MAY_BE_NEW[name]


@pytest.mark.parametrize("name", [name for name in DEEPER if DEEPER[name]])
def test_another_depth_is_refused(name: str) -> None:
    arch = {**CLASSES[name].test_options.get("arch", {}), **DEEPER[name]}
    deeper = build(name, arch=arch)
    with pytest.raises(CheckpointError, match="the file has what the model lacks"):
        load(emptied(name), dict(model=deeper.state_dict()))
    with pytest.raises(CheckpointError, match="tensors are not there"):
        load(deeper, weights_of(name))


@pytest.mark.parametrize("name", [name for name in FAMILIES if "Wrapper" not in name])
def test_later_stages_and_heads_are_left_over(name: str) -> None:
    if name == "DepthwiseShortcutBackbone":
        pytest.skip("the wrapped backbone builds all its stages")
    model = emptied_model(build(name, out_indices=(0, 1)))
    heads = {"head.weight": torch.ones(7, 8), "head_dist.weight": torch.ones(7, 8)}
    report = load(model, weights_of(name) | heads)
    assert report.missing_keys == report.new == []
    assert set(heads) <= set(report.unexpected_keys)
    state = model.state_dict()
    assert holds(model, {key: weights_of(name)[key] for key in state})


def test_other_shortcuts_are_refused_and_a_plain_host_takes_the_rest() -> None:
    weights = weights_of("DWVisionTransformer")
    plain = build("DWVisionTransformer", dw_kernel_sizes=())
    report = load(plain, weights)
    assert report.missing_keys == report.new == []
    assert all(key.startswith("shortcuts.") for key in report.unexpected_keys)
    for options in (dict(dw_span=2), dict(dw_kernel_sizes=(3, 5)), dict(dw_kernel_sizes=(5,))):
        with pytest.raises(CheckpointError, match="shortcuts"):
            load(build("DWVisionTransformer", **options), weights)
    wide = build("DWVisionTransformer", dw_kernel_sizes=(3, 5)).state_dict()
    with pytest.raises(CheckpointError, match=r"what the model lacks: shortcuts\.\*\.convs\.1"):
        load(emptied("DWVisionTransformer"), wide)


def test_what_a_block_lacks_is_refused() -> None:
    """A host's biases, LayerScale and talking heads change what its blocks compute."""
    weights = dict(weights_of("DWCaiT"))
    plain = build("DWCaiT", layer_scale=False, talking_heads=False)
    with pytest.raises(CheckpointError, match=r"lacks: .*mix_heads.*"):
        load(plain, weights)
    assert load(plain, weights, allow_partial=True).missing_keys == []


def test_a_users_own_backbone_must_come_whole() -> None:
    class Own(Backbone):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    weights = Own().state_dict()
    assert load(Own(), under("model.", weights)).missing_keys == []
    del weights["norm.num_batches_tracked"]
    assert load(Own(), weights).missing_keys == ["norm.num_batches_tracked"]
    del weights["norm.bias"]
    with pytest.raises(CheckpointError, match=r"Own \(the model\): 1 of its 6 .* norm\.bias"):
        load(Own(), weights)


def test_names_of_many_modules_are_few() -> None:
    keys = learned(weights_of("DWVisionTransformer"))
    lost = [key for key in keys if ".attn.q." in key or "patch_embed" in key]
    weights = {k: v for k, v in weights_of("DWVisionTransformer").items() if k not in lost}
    with pytest.raises(CheckpointError, match=r"blocks\.\*\.attn\.q \(4\), patch_embed \(2\)"):
        load(emptied("DWVisionTransformer"), weights)
    assert modules([f"{letter}.x" for letter in "abcdefghijk"], ())[-1] == "... 3 more modules"


def test_shapes_that_differ_by_design_are_adapted_and_listed() -> None:
    cases = (
        (build("DWVisionTransformer", image_size=96), "DWVisionTransformer", "pos_embedding"),
        (build("TransXNet", image_size=96), "TransXNet", "relative_pos_enc.0"),
        (build("XFormer", in_channels=4), "XFormer", "stem.0.conv.weight"),
        (
            build("DWSwinTransformer", arch=dict(embed_dims=24, depths=(2,) * 4, window_size=5)),
            "DWSwinTransformer",
            "layers.0.blocks.0.attn.relative_position_bias_table",
        ),
    )
    for model, name, adapted in cases:
        report = load(model, weights_of(name))
        key = next(key for key in report.adapted if adapted in key or "stem" in key)
        old, new = report.adapted_from[key]
        assert old == tuple(weights_of(name)[key].shape)
        assert new == tuple(model.state_dict()[key].shape) != old
        assert f"{key} {old} -> {new}" in str(report)


# --- what would load it ---------------------------------------------------------------------------


def test_the_right_arch_is_named() -> None:
    with torch.device("meta"):
        weights = under("backbone.", TransXNet("small").state_dict())
        with pytest.raises(CheckpointError, match=r"TransXNet\(arch='small'\) takes it whole"):
            load(XFormer(), weights)


def test_a_class_may_say_what_takes_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def suggest(cls: type, weights: Weights) -> dict:
        assert "cls_token" in weights
        return dict(depth=1, qkv_bias=True) if wrong else options

    options, wrong = dict(arch=dict(embed_dims=32, depth=1, num_heads=1)), False
    monkeypatch.setattr(DWVisionTransformer, "suggest", classmethod(suggest))
    file = under("module.backbone.", DWVisionTransformer(**options).state_dict())
    with pytest.raises(CheckpointError, match=r"num_heads': 1}\) takes it whole"):
        load(emptied("DWVisionTransformer"), file)
    wrong = True
    with pytest.raises(CheckpointError) as error:
        load(emptied("DWVisionTransformer"), file)
    assert "depth=1" not in str(error.value)


STRANGERS = {
    "ResNet": {"layer1.0.conv1.weight": (4, 4, 3, 3), "layer4.0.conv1.weight": (4, 4, 3, 3)},
    "CaiT": {"cls_token": (1, 1, 48), "blocks_token_only.0.gamma_1": (48,)},
    "ConvNeXt": {"downsample_layers.0.0.weight": (4,), "stages.0.0.dwconv.weight": (4, 1, 7, 7)},
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_strangers_file_is_refused(name: str, stranger: str) -> None:
    weights = {key: torch.ones(shape) for key, shape in STRANGERS[stranger].items()}
    model = emptied(name)
    with pytest.raises(CheckpointError, match=rf"does not fit {name}.*{stranger}"):
        load(model, dict(teacher=under("module.backbone.", weights)))
    assert is_empty(model)


# --- necks and heads ------------------------------------------------------------------------------

BASES = Path(__file__).resolve().parents[1] / "configs" / "_base_"
SMALL = {
    "mask_rcnn_coco_1x": {
        "roi_head.bbox_head.fc_out_channels": 32,
        "roi_head.mask_head.num_convs": 1,
    },
    "retinanet_coco_1x": {"bbox_head.stacked_convs": 1},
    "yolov3_coco_300e": {},
    "upernet_ade20k_160k": {"decode_head.channels": 32, "auxiliary_head.channels": 32},
    "segformer_cityscapes_160k": {"decode_head.channels": 32},
    "semantic_fpn_ade20k_40k": {},
}
# Class layers, and what is said of them.
CLASS_LAYERS = {
    "mask_rcnn_coco_1x": {
        "roi_head.bbox_head.fc_cls": "80 classes in the file, 2 in the model",
        "roi_head.bbox_head.fc_reg": "80 classes in the file, 2 in the model",
        "roi_head.mask_head.conv_logits": "80 classes in the file, 2 in the model",
    },
    "retinanet_coco_1x": {"bbox_head.retina_cls": "80 classes in the file, 2 in the model"},
    "yolov3_coco_300e": {
        f"bbox_head.convs_pred.{i}": "80 classes in the file, 2 in the model" for i in range(3)
    },
    "upernet_ade20k_160k": {
        "decode_head.conv_seg": "150 classes in the file, 2 in the model",
        "auxiliary_head.conv_seg": "150 classes in the file, 2 in the model",
    },
    "segformer_cityscapes_160k": {"decode_head.conv_seg": "19 classes in the file, 2 in the model"},
    "semantic_fpn_ade20k_40k": {"decode_head.conv_seg": "150 classes in the file, 2 in the model"},
}


def with_classes(cfg: Any, number: int) -> None:
    for key, value in cfg.items():
        if key == "num_classes":
            cfg[key] = number
        elif isinstance(value, dict):
            with_classes(value, number)


@functools.cache
def whole_model(head: str, classes: int | None = None, **neck: Any) -> nn.Module:
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")
    base = Config.fromfile(BASES / f"{head}.py")
    init_default_scope(base.default_scope)
    backbone = dict(type="XFormer", **XFormer.test_options)
    if not isinstance(base.model.get("backbone"), dict):
        base.model.backbone = backbone
    cfg = Config(dict(model=base.model.to_dict()))
    cfg.merge_from_dict(dict(model=mmhybrid.replace_backbone(cfg.model, backbone)))
    cfg.merge_from_dict({f"model.{key}": value for key, value in SMALL[head].items()})
    cfg.merge_from_dict({f"model.neck.{key}": value for key, value in neck.items()})
    if classes:
        with_classes(cfg.model, classes)
        if "rpn_head" in cfg.model:
            cfg.model.rpn_head.num_classes = 1
    return revert_sync_batchnorm(MODELS.build(cfg.model))


def filled(model: nn.Module, value: float = 7) -> Weights:
    return {key: torch.full_like(tensor, value) for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("head", SMALL)
def test_fine_tuning_on_other_classes_takes_all_but_the_class_layers(head: str) -> None:
    weights = filled(whole_model(head))
    model = emptied_model(whole_model(head, 2))
    report = load(model, dict(state_dict=under("module.", weights), meta={}))
    expected = {
        f"{layer}.{part}"
        for layer in CLASS_LAYERS[head]
        for part in ("weight", "bias")
        if f"{layer}.{part}" in weights
    }
    assert set(report.new) == set(report.mismatched) == expected
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    for key, value in model.state_dict().items():
        assert (value == (0 if key in expected else 7)).all(), key
    for told in set(CLASS_LAYERS[head].values()):
        assert told in str(report)
    # The same classes: all.
    same = emptied_model(whole_model(head))
    report = load(same, weights)
    assert (report.new, report.missing_keys, report.unexpected_keys) == ([], [], [])
    assert all((value == 7).all() for value in same.state_dict().values())


@pytest.mark.parametrize("head", SMALL)
def test_a_head_that_lacks_something_is_refused_and_the_backbone_can_be_had(head: str) -> None:
    weights = filled(whole_model(head))
    model = emptied_model(whole_model(head))
    outside = [key for key in learned(weights) if not key.startswith("backbone.")]
    # One of a layer in the middle that has no class layer's name.
    lost = outside[len(outside) // 3]
    part = {key: value for key, value in weights.items() if key != lost}
    with pytest.raises(CheckpointError, match=r"not there: .*model\.backbone\.init_cfg"):
        load(model, part)
    assert is_empty(model)
    wide = weights | {lost: torch.ones(*weights[lost].shape, 3)}
    with pytest.raises(CheckpointError, match=rf"have other shapes, such as {lost}"):
        load(model, wide)
    report = load(model, part, allow_partial=True)
    assert report.missing_keys == [lost]
    report = load(emptied_model(model.backbone), part)
    assert report.missing_keys == report.new == []


def test_a_part_that_the_file_has_nothing_of_is_new() -> None:
    weights = filled(whole_model("mask_rcnn_coco_1x"))
    for part in ("neck", "rpn_head", "roi_head", "roi_head.mask_head"):
        some = {k: v for k, v in weights.items() if not k.startswith(f"{part}.")}
        model = emptied_model(whole_model("mask_rcnn_coco_1x"))
        report = load(model, some)
        assert set(report.new) == weights.keys() - some.keys()
        assert report.unexpected_keys == []
        assert f"new by permission: {part} (" in str(report)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("mask_rcnn_coco_1x", "retinanet_coco_1x"), ("retinanet_coco_1x", "mask_rcnn_coco_1x")],
)
def test_another_neck_stays_new_as_a_whole(theirs: str, ours: str, warnings_of) -> None:
    """RetinaNet's pyramid starts a level later and has more levels."""
    options = [dict(start_level=1) if "retina" in one else {} for one in (theirs, ours)]
    weights = filled(whole_model(theirs, **options[0]))
    model = emptied_model(whole_model(ours, **options[1]))
    report = load_weights(model, weights)
    assert not any(value.any() for value in model.neck.state_dict().values())
    assert holds(model, {k: v for k, v in weights.items() if k.startswith("backbone.")})
    assert report.left_out == ["neck"]
    assert {key.partition(".")[0] for key in report.new} == {
        "neck",
        *(name for name, _ in model.named_children() if name.endswith("_head")),
    }
    assert all(key.partition(".")[0] != "backbone" for key in report.unexpected_keys)
    assert any("neck is another one in the file" in message for message in warnings_of)


def test_a_wider_head_is_no_other_number_of_classes() -> None:
    model = emptied_model(whole_model("mask_rcnn_coco_1x"))
    wide = {
        key: torch.ones(64, *value.shape[1:]) if "shared_fcs.0" in key else value
        for key, value in filled(model).items()
    }
    wide["roi_head.bbox_head.shared_fcs.1.weight"] = torch.ones(32, 64)
    with pytest.raises(CheckpointError, match=r"roi_head\.bbox_head: .*shared_fcs"):
        load(model, wide)


class Classifier(BaseModule):
    """The names of mmpretrain's ImageClassifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = build("XFormer", out_indices=(3,))
        self.head = nn.Module()
        self.head.num_classes = classes
        self.head.fc = nn.Linear(40, classes)


def test_classifiers_of_other_classes_and_with_other_heads() -> None:
    weights = Classifier(10).state_dict()
    report = load(Classifier(3), weights)
    assert report.new == ["head.fc.weight", "head.fc.bias"]
    assert "10 classes in the file, 3 in the model" in str(report)
    projected = {k: v for k, v in weights.items() if "head" not in k} | under("head.", HEAD)
    report = load(Classifier(3), projected)
    assert report.new == ["head.fc.weight", "head.fc.bias"]
    assert set(report.unexpected_keys) == set(under("head.", HEAD))


@pytest.mark.parametrize("part", ["head", "classifier", "neck", "rpn_head"])
def test_a_head_that_is_one_layer(part: str) -> None:
    weights = under("backbone.", weights_of("XFormer")) | under(
        f"{part}.", nn.Linear(40, 5).state_dict()
    )
    model = nn.ModuleDict({"backbone": emptied("XFormer"), part: nn.Linear(40, 3)})
    if part in ("head", "classifier"):
        assert load(model, weights).new == [f"{part}.weight", f"{part}.bias"]
    else:
        with pytest.raises(CheckpointError, match=f"does not fit {part}: 2 have other shapes"):
            load(model, weights)


def test_student_and_teacher_each_by_the_rule() -> None:
    detector = whole_model("retinanet_coco_1x")
    semi = nn.Module()
    semi.student, semi.teacher = whole_model("retinanet_coco_1x", 2), detector
    report = load(semi, filled(detector))
    assert set(report.new) == {f"student.bbox_head.retina_cls.{x}" for x in ("weight", "bias")}
    assert "student.bbox_head.retina_cls" in str(report)
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    lost = {k: v for k, v in filled(detector).items() if k != "neck.fpn_convs.0.conv.bias"}
    with pytest.raises(CheckpointError, match=r"student\.neck: .*; teacher\.neck: "):
        load(semi, lost)


# --- MMEngine's ways ------------------------------------------------------------------------------


@pytest.fixture
def warnings_of():
    """What is logged as a warning."""
    records: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def saved(value: Any, folder: Path) -> str:
    torch.save(value, folder / "weights.pth")
    return str(folder / "weights.pth")


def without(lost: str, weights: Weights) -> Weights:
    return {key: value for key, value in weights.items() if key != lost}


def test_init_cfg_may_insist(tmp_path: Path, warnings_of: list[str]) -> None:
    lost = needed("XFormer")[5]
    path = saved(dict(model=without(lost, weights_of("XFormer"))), tmp_path)
    init_cfg = dict(type="Pretrained", checkpoint=path)
    with pytest.raises(CheckpointError, match=r"weights\.pth does not fit XFormer.*stem\.1\.exp"):
        build("XFormer", init_cfg=init_cfg).init_weights()
    model = build("XFormer", init_cfg=dict(init_cfg, allow_partial=True))
    model.init_weights()
    assert holds(model, without(lost, weights_of("XFormer")))
    assert any("missing keys: stem.1.expand.conv" in message for message in warnings_of)


def test_init_cfg_of_other_models_is_mmengines(tmp_path: Path) -> None:
    class Other(BaseModule):
        def __init__(self, init_cfg: dict) -> None:
            super().__init__(init_cfg)
            self.linear = nn.Linear(2, 2)

    path = saved({"linear.weight": torch.ones(2, 2)}, tmp_path)
    model = Other(dict(type="Pretrained", checkpoint=path))
    model.init_weights()
    assert (model.linear.weight == 1).all()


def test_load_from_and_averages_follow_the_rule(safe_checkpoints, tmp_path: Path) -> None:
    lost = needed("XFormer")[5]
    path = saved(dict(state_dict=without(lost, weights_of("XFormer"))), tmp_path)
    holder = nn.ModuleDict(dict(backbone=build("XFormer")))
    with pytest.raises(CheckpointError, match="does not fit XFormer"):
        mmengine_load_checkpoint(holder, path)
    hook = EMAHook()
    hook.ema_model = ExponentialMovingAverage(holder)
    with pytest.raises(CheckpointError, match="does not fit XFormer"):
        hook.after_load_checkpoint(
            types.SimpleNamespace(_resume=False), CheckpointLoader.load_checkpoint(path)
        )
    # Our own files resume by their exact names.
    path = saved(dict(state_dict=holder.state_dict(), meta={}), tmp_path)
    mmengine_load_checkpoint(holder, path, strict=True)
    with pytest.raises(CheckpointError, match="match exactly"):
        mmengine_load_checkpoint(
            nn.ModuleDict(dict(backbone=build("XFormer"), neck=nn.Linear(2, 2))), path, strict=True
        )


def test_a_report_says_exactly_what_was_loaded(tmp_path: Path) -> None:
    weights = {k: v for k, v in weights_of("TransXNet").items() if not k.startswith("norm")}
    weights["classifier.2.weight"] = torch.ones(10, 64, 1, 1)
    report = load_checkpoint(build("TransXNet", in_channels=1), saved(weights, tmp_path))
    lines = str(report).splitlines()
    total = len(weights_of("TransXNet"))
    assert lines[0].startswith(f"loaded {total - 8} of {total} tensors from the root of ")
    assert lines[0].endswith(
        f"1 of them adapted, 8 new by permission, 0 missing; 1 of the file's {total - 7} tensors "
        "left over"
    )
    assert lines[1:] == [
        "  adapted in shape: patch_embed.proj.conv.weight (16, 3, 7, 7) -> (16, 1, 7, 7)",
        "  new by permission: norm0 (2), norm2 (2), norm4 (2), norm6 (2)",
        "  left over: classifier (1)",
    ]


def test_the_half_rule_is_gone() -> None:
    with pytest.raises(TypeError, match="min_coverage"):
        load_weights(emptied("XFormer"), weights_of("XFormer"), min_coverage=0.5)
