"""Loading weights into a model that holds one of our backbones, whoever saved them."""

import importlib
import json
import logging
import re
import sys
import types
from collections import OrderedDict

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, ExponentialMovingAverage, PretrainedInit
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner import load_checkpoint as mmengine_load_checkpoint
from torch import nn

from mmhybrid import load_checkpoint
from mmhybrid.backbones import DWSwinTransformer, TransXNet
from mmhybrid.errors import UserError
from mmhybrid.weights import CheckpointError
from mmhybrid.weights.families import describe, recognise, rename

ARCH = dict(
    depths=(1, 1, 1, 1),
    embed_dims=(16, 16, 32, 32),
    num_heads=(1, 1, 2, 2),
    num_groups=(2, 2, 2, 2),
    mlp_ratios=(1, 1, 1, 1),
)
NORMS = [f"norm{i}.{kind}" for i in (0, 2, 4, 6) for kind in ("weight", "bias")]


def backbone(**settings) -> TransXNet:
    model = TransXNet(**{"arch": ARCH, "image_size": 64, **settings})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


class Detector(BaseModule):
    """A backbone of ours, and what stands on it."""

    def __init__(self, **settings):
        super().__init__()
        self.backbone = backbone(**settings)
        self.neck = nn.Conv2d(32, 8, 1)
        self.rpn_head = nn.Conv2d(8, 4, 1)


class Classifier(BaseModule):
    """The names of mmpretrain's ImageClassifier."""

    def __init__(self, classes=10):
        super().__init__()
        self.backbone = backbone(out_indices=(3,))
        self.head = nn.Module()
        self.head.fc = nn.Linear(32, classes)


def authors_weights() -> OrderedDict:
    """A file with the names that the authors gave their classifier."""
    weights = OrderedDict(backbone().state_dict())
    for name in NORMS:
        del weights[name]
    shapes = {"0.weight": (32,), "0.bias": (32,), "2.weight": (10, 32, 1, 1), "2.bias": (10,)}
    return weights | {f"classifier.{name}": torch.randn(shape) for name, shape in shapes.items()}


def saved(value, tmp_path, name="weights.pth") -> str:
    torch.save(value, tmp_path / name)
    return str(tmp_path / name)


def holds(model: nn.Module, weights: dict, prefix: str = "") -> bool:
    state = model.state_dict()
    return all(torch.equal(state[prefix + k], v) for k, v in weights.items() if prefix + k in state)


@pytest.fixture
def messages():
    """What is logged."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def plus_one(weights: dict, prefix: str = "") -> dict:
    return {prefix + key: value + 1 for key, value in weights.items()}


WRAPPINGS = {
    "bare": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "epoch": 1, "arch": "t"},
    "model": lambda w: {"model": w, "optimizer": {}, "args": None},
    "nested": lambda w: {"model": {"state_dict": w}},
    "module.": lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}},
    "_orig_mod.": lambda w: {f"_orig_mod.{k}": v for k, v in w.items()},
    "module._orig_mod.": lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()},
    "backbone.": lambda w: {"state_dict": {f"backbone.{k}": v for k, v in w.items()}},
    "module.backbone.": lambda w: {f"module.backbone.{k}": v for k, v in w.items()},
    "model.": lambda w: {f"model.{k}": v for k, v in w.items()},
    "state_dict_ema": lambda w: {"state_dict": plus_one(w), "state_dict_ema": w},
    "model_ema": lambda w: {"model": plus_one(w), "model_ema": w},
}


def test_authors_weights_load_into_a_dense_backbone(tmp_path, messages):
    weights = authors_weights()
    model = backbone()
    before = {name: model.state_dict()[name].clone() for name in NORMS}
    report = load_checkpoint(model, saved(weights, tmp_path))
    assert report.new == NORMS
    left = [k.rpartition("classifier")[2] for k in report.unexpected_keys]
    assert left == [".0.weight", ".0.bias", ".2.weight", ".2.bias"]
    assert holds(model, weights)
    assert holds(model, before)
    total = len(model.state_dict())
    assert any(f"loaded {total - 8} of {total} tensors" in message for message in messages)


def test_authors_weights_load_into_a_classifier(tmp_path):
    weights = authors_weights()
    model = Classifier()
    report = load_checkpoint(model, saved({"state_dict": weights}, tmp_path))
    assert report.missing_keys == report.unexpected_keys == []
    assert report.adapted == ["head.fc.weight"]
    assert report.renamed["head.fc.weight"] == "classifier.2.weight"
    assert report.renamed["backbone.norm6.bias"] == "classifier.0.bias"
    assert torch.equal(model.head.fc.weight, weights["classifier.2.weight"].flatten(1))
    assert torch.equal(model.backbone.norm6.weight, weights["classifier.0.weight"])
    assert holds(model, weights, "backbone.")


def test_classifier_of_other_classes_keeps_its_head(tmp_path):
    model = Classifier(classes=7)
    report = load_checkpoint(model, saved(authors_weights(), tmp_path))
    assert report.mismatched == {
        "head.fc.weight": ((10, 32, 1, 1), (7, 32)),
        "head.fc.bias": ((10,), (7,)),
    }
    assert report.new == list(report.mismatched)
    assert "head.fc.weight is (10, 32, 1, 1) in the file and (7, 32) in the model" in str(report)


@pytest.mark.parametrize("arch", ["t", "s", "b"])
def test_names_of_the_published_files(arch, shared, tmp_path):
    keys = json.loads((shared / "reference" / f"transxnet_{arch}_keys.json").read_text())
    weights = {k: torch.ones(s).to(getattr(torch, t)) for k, s, t in keys["keys_cls"]}
    report = load_checkpoint(TransXNet(arch), saved({"state_dict": weights}, tmp_path))
    assert (report.new, report.missing_keys) == (NORMS, [])
    assert report.unexpected_keys == [k for k in weights if k.startswith("classifier.")]
    assert report.mismatched == {}


def test_a_detectors_file_loads_into_a_backbone_and_another_detector(tmp_path):
    theirs = Detector()
    path = saved({"state_dict": theirs.state_dict(), "meta": {}}, tmp_path)
    model = backbone()
    report = load_checkpoint(model, path)
    assert holds(model, theirs.backbone.state_dict())
    others = ["neck.weight", "neck.bias", "rpn_head.weight", "rpn_head.bias"]
    assert report.unexpected_keys == others
    other = Detector()
    assert load_checkpoint(other, path).unexpected_keys == []
    assert holds(other, theirs.state_dict())


@pytest.mark.compile
def test_wrapped_and_compiled_models(tmp_path):
    weights = backbone().state_dict()
    path = saved(weights, tmp_path)
    for wrap in (nn.DataParallel, torch.compile):
        model = backbone()
        assert load_checkpoint(wrap(model), path).missing_keys == []
        assert holds(model, weights)
    detector = Detector()
    plain = detector.backbone
    detector.backbone = torch.compile(plain)
    assert len(load_checkpoint(detector, path).loaded) == len(weights)
    assert holds(plain, weights)


def test_averaged_or_not(tmp_path):
    weights = backbone().state_dict()
    others = plus_one(weights)
    # The EMAHook of MMEngine saves the averaged weights as ``state_dict``.
    mmengine = {"ema_state_dict": {**plus_one(weights, "module."), "steps": torch.tensor(3)}}
    for content in (
        {"state_dict": others, "state_dict_ema": weights},
        {"state_dict": weights, **mmengine, "meta": {}},
        {"model": others, "ema": {"decay": torch.tensor(0.9), "shadow": weights}},
        {"model": others, "ema": {"decay": torch.tensor(0.9), "module": weights}},
    ):
        path = saved(content, tmp_path)
        for ema, expected in ((None, weights), (True, weights), (False, others)):
            model = backbone()
            load_checkpoint(model, path, ema=ema)
            assert holds(model, expected)
    path = saved({"state_dict": weights}, tmp_path)
    with pytest.raises(CheckpointError, match=r"weights\.pth holds no averaged"):
        load_checkpoint(backbone(), path, ema=True)
    path = saved({"state_dict_ema": weights}, tmp_path)
    with pytest.raises(CheckpointError, match=r"averaged .* only"):
        load_checkpoint(backbone(), path, ema=False)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 13])
def test_stem_of_other_channels(channels, tmp_path):
    weights = backbone().state_dict()
    model = backbone(in_channels=channels)
    report = load_checkpoint(model, saved(weights, tmp_path))
    name = "patch_embed.proj.conv.weight"
    assert report.adapted == ([] if channels == 3 else [name])
    stem, pretrained = model.state_dict()[name], weights[name]
    grey = torch.rand(1, 1, 7, 7)
    # A grey image means the same to both, where all three colours are there equally often.
    if channels % 3 == 0 or channels == 1:
        expected = nn.functional.conv2d(grey.expand(1, 3, 7, 7), pretrained)
        torch.testing.assert_close(
            nn.functional.conv2d(grey.expand(1, channels, 7, 7), stem), expected
        )
    if channels > 1:
        torch.testing.assert_close(stem[:, 0], pretrained[:, 0] * 3 / channels)


def test_tables_of_another_image_size_are_resized(tmp_path):
    report = load_checkpoint(backbone(image_size=96), saved(backbone().state_dict(), tmp_path))
    assert "relative_pos_enc.0" in report.adapted
    assert report.missing_keys == []
    assert report.mismatched == {}


STRANGERS = {
    "Swin": ("layers.0.blocks.0.attn.relative_position_bias_table", "norm.weight"),
    "Swin (mmdet's names)": ("backbone.stages.0.blocks.0.attn.w_msa.qkv.weight",),
    "ResNet": ("layer1.0.conv1.weight", "layer4.0.conv1.weight", "fc.weight"),
    "ConvNeXt": ("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"),
    "ViT or DeiT": ("cls_token", "blocks.0.attn.qkv.weight"),
    "CaiT": ("cls_token", "blocks_token_only.0.gamma_1", "blocks.0.attn.qkv.weight"),
    "PVT": ("patch_embed1.proj.weight", "block1.0.attn.kv.weight"),
    "PVT v2 or MiT": ("block1.0.attn.kv.weight", "block1.0.mlp.dwconv.dwconv.weight"),
    "VAN": ("block1.0.attn.spatial_gating_unit.conv0.weight",),
    "PoolFormer": ("network.0.0.layer_scale_1",),
    "a detector built on ResNet": (
        *("backbone.layer1.0.conv1.weight", "backbone.layer4.0.conv1.weight"),
        "rpn_head.rpn_conv.weight",
    ),
    "a segmentor": ("decode_head.conv_seg.weight", "backbone.unknown.weight"),
    "not known here .*something.weight": ("something.weight",),
}


@pytest.mark.parametrize("owner", STRANGERS)
def test_whose_a_strangers_file_seems(owner):
    pattern = owner.replace("(", r"\(").replace(")", r"\)")
    assert re.search(pattern, describe({key: torch.ones(1) for key in STRANGERS[owner]}))


def test_a_strangers_file_is_an_error_that_says_whose_it_seems(tmp_path):
    path = saved({"state_dict": {key: torch.ones(1) for key in STRANGERS["ResNet"]}}, tmp_path)
    model = Detector()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    told = r"weights\.pth does not fit TransXNet.* seems to hold .*ResNet"
    with pytest.raises(CheckpointError, match=told):
        load_checkpoint(model, path)
    assert holds(model, before)


def test_another_arch_is_an_error_that_shows_shapes(tmp_path):
    path = saved(backbone().state_dict(), tmp_path)
    other = backbone(arch={**ARCH, "embed_dims": (32, 32, 64, 64)})
    with pytest.raises(CheckpointError, match=r"\(16, 3, 7, 7\).*\(32, 3, 7, 7\).*another `arch`"):
        load_checkpoint(other, path)


def test_families_of_the_reference_files(shared):
    names = {"dw_vit_tiny": "DW-ViT", "dw_cait_xxs12": "DW-CaiT", "dw_swin_t": "DW-Swin"}
    for file, name in names.items():
        keys = json.loads((shared / "reference" / f"{file}_keys.json").read_text())
        assert recognise(keys).name == name
    keys = json.loads((shared / "reference" / "transxnet_t_keys.json").read_text())
    assert describe([k for k, *_ in keys["keys_cls"]]) == "a classifier built on TransXNet"


# Each registered backbone of ours, and what a message calls it.
OURS = {
    "DMFormer": "DMFormer",
    "DWCaiT": "DW-CaiT (mmhybrid's names)",
    "DWSwinTransformer": "DW-Swin (mmhybrid's names)",
    "DWVisionTransformer": "DW-ViT (mmhybrid's names)",
    "DepthwiseShortcutBackbone": "DepthwiseShortcutBackbone",
    "TransXNet": "TransXNet",
    "XFormer": "XFormer",
}


def test_describe_names_every_family_of_ours():
    pytest.importorskip("mmdet")
    ours = "mmhybrid.backbones."
    registered = {k: v for k, v in MODELS.module_dict.items() if v.__module__.startswith(ours)}
    assert set(OURS) == set(registered)
    swin = dict(embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    inner = dict(backbone=dict(type="mmdet.SwinTransformer", **swin))
    for name, kind in registered.items():
        keys = kind(**inner if name == "DepthwiseShortcutBackbone" else {}).state_dict()
        assert describe(keys) == f"the weights of {OURS[name]}"
        whole = [f"backbone.{key}" for key in keys] + ["rpn_head.weight"]
        assert describe(whole) == f"a detector built on {OURS[name]}"


@pytest.mark.parametrize("kernel_sizes", [(3,), ()])
def test_a_classifier_of_ours_on_swin_keeps_the_names_of_its_head(kernel_sizes):
    settings = dict(out_indices=(3,), dw_kernel_sizes=kernel_sizes)
    with torch.device("meta"):
        keys = DWSwinTransformer(dict(depths=(1, 1, 1, 1)), **settings).state_dict()
    keys = [f"backbone.{key}" for key in keys] + ["head.fc.weight", "head.fc.bias"]
    assert rename(keys, keys) == {key: key for key in keys}


@pytest.mark.parametrize("content", [3, {"epoch": 1}, {"state_dict": {}}, [torch.ones(1)]])
def test_a_file_without_weights_is_an_error(content, tmp_path):
    with pytest.raises(CheckpointError, match=r"weights\.pth holds no weights"):
        load_checkpoint(backbone(), saved(content, tmp_path))


def test_sha256_that_the_caller_gives(tmp_path):
    path = saved(backbone().state_dict(), tmp_path)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint(backbone(), path, sha256="0123abcd")


# --- MMEngine's ways ------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "prefix"), [(backbone, ""), (Detector, "backbone.")])
@pytest.mark.parametrize("wrapping", ["state_dict", "model", "module.", "state_dict_ema"])
def test_init_cfg(make, prefix, wrapping, tmp_path, messages):
    weights = authors_weights()
    path = saved(WRAPPINGS[wrapping](weights), tmp_path)
    model = make(init_cfg=dict(type="Pretrained", checkpoint=path))
    model.init_weights()
    assert holds(model, weights, prefix)
    assert any("tensors from" in message and path in message for message in messages)


def test_init_cfg_with_the_class_of_mmengine(tmp_path):
    weights = authors_weights()
    path = saved({f"module.{key}": value for key, value in weights.items()}, tmp_path)
    model = backbone(init_cfg=dict(type=PretrainedInit, checkpoint=path))
    model.init_weights()
    assert holds(model, weights, "")


def test_init_cfg_with_prefix(tmp_path):
    theirs = Detector()
    weights = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    path = saved({"model": weights}, tmp_path)
    model = backbone(init_cfg=dict(type="Pretrained", checkpoint=path, prefix="backbone."))
    model.init_weights()
    assert holds(model, theirs.backbone.state_dict())
    model = backbone(init_cfg=dict(type="Pretrained", checkpoint=path, prefix="encoder"))
    with pytest.raises(CheckpointError, match=r"'encoder\.'.*a detector built on TransXNet"):
        model.init_weights()


def test_load_from_and_inferencers(safe_checkpoints, tmp_path):
    weights = authors_weights()
    path = saved({"model": weights, "model_ema": weights}, tmp_path)
    model = Detector()
    mmengine_load_checkpoint(model, path, map_location="cpu")
    assert holds(model, weights, "backbone.")
    import mmengine.infer.infer
    import mmengine.runner.runner

    for module in (mmengine.runner.runner, mmengine.infer.infer):
        assert module._load_checkpoint_to_model is mmengine_checkpoint._load_checkpoint_to_model
    path = saved({"state_dict": {"layer1.0.conv1.weight": torch.ones(1)}}, tmp_path)
    with pytest.raises(CheckpointError, match="does not fit"):
        mmengine_load_checkpoint(model, path)


@pytest.fixture(scope="module")
def semi_supervised():
    """mmdet's student and teacher, and the config of the detector that each of them is."""
    pytest.importorskip("mmdet")
    head = dict(type="mmdet.RetinaHead", num_classes=2, stacked_convs=1)
    detector = dict(
        type="mmdet.RetinaNet",
        backbone=dict(type="TransXNet", arch=ARCH, image_size=64),
        neck=dict(type="mmdet.FPN", in_channels=[16, 16, 32, 32], out_channels=16, num_outs=5),
        bbox_head=dict(head, in_channels=16, feat_channels=16),
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        semi = dict(type="mmdet.SemiBaseDetector", detector=detector, semi_train_cfg=dict())
        return MODELS.build(semi), MODELS.build(detector)


def test_load_from_fills_student_and_teacher(safe_checkpoints, semi_supervised, tmp_path):
    """Each with the whole detector that the file holds; the file of a backbone fills both too."""
    model, detector = semi_supervised
    weights = {key: torch.full_like(value, 7) for key, value in detector.state_dict().items()}
    mmengine_load_checkpoint(model, saved({"state_dict": weights}, tmp_path))
    for part in (model.student, model.teacher):
        assert all((value == 7).all() for value in part.state_dict().values())

    weights = {key: value + 1 for key, value in authors_weights().items()}
    report = load_checkpoint(model, saved({"model": weights}, tmp_path))
    assert holds(model, weights, "student.backbone.")
    assert holds(model, weights, "teacher.backbone.")
    assert report.unexpected_keys == [key for key in weights if key.startswith("classifier.")]
    assert (model.student.neck.lateral_convs[0].conv.weight == 7).all()


def test_a_file_of_student_and_teacher_keeps_them_apart(semi_supervised, tmp_path):
    model, _ = semi_supervised
    weights = {
        key: torch.full_like(value, key.startswith("teacher."))
        for key, value in model.state_dict().items()
    }
    path = saved({"state_dict": {**weights, "extra": torch.ones(1)}}, tmp_path)
    report = load_checkpoint(model, path)
    assert (report.missing_keys, report.unexpected_keys, report.renamed) == ([], ["extra"], {})
    assert holds(model, weights)


def test_load_from_starts_averages_too(safe_checkpoints, tmp_path):
    weights = authors_weights()
    path = saved({"model": weights}, tmp_path)
    hook = EMAHook()
    hook.ema_model = ExponentialMovingAverage(Detector())
    checkpoint = CheckpointLoader.load_checkpoint(path)
    hook.after_load_checkpoint(types.SimpleNamespace(_resume=False), checkpoint)
    assert holds(hook.ema_model.module, weights, "backbone.")


def test_our_own_files_and_other_models_go_the_old_way(
    safe_checkpoints, tmp_path, monkeypatch, messages
):
    theirs = Detector()
    path = saved({"state_dict": theirs.state_dict(), "meta": {}}, tmp_path)
    model = Detector()
    mmengine_load_checkpoint(model, path, strict=True)
    assert holds(model, theirs.state_dict())
    number = len(theirs.state_dict())
    told = [message for message in messages if "tensors from" in message]
    assert told == [f"loaded {number} of {number} tensors from {path}"]
    stranger = nn.Linear(2, 2)
    path = saved({"state_dict": {"other": torch.ones(1)}}, tmp_path)
    mmengine_load_checkpoint(stranger, path)
    assert told == [message for message in messages if "tensors from" in message]


def test_names_that_revise_keys_makes_equal_are_an_error(safe_checkpoints, tmp_path):
    weights = backbone().state_dict()
    first, second = list(weights)[:2]
    path = saved({"state_dict": {f"net.{first}": weights[first], **weights}}, tmp_path)
    with pytest.raises(CheckpointError, match=rf"revise_keys.*net\.{first} and {first} of .*same"):
        mmengine_load_checkpoint(backbone(), path, revise_keys=[(r"^net\.", "")])
    path = saved({"state_dict": {f"net.{k}": v for k, v in weights.items()}}, tmp_path)
    model = backbone()
    mmengine_load_checkpoint(model, path, revise_keys=[(r"^net\.", "")])
    assert holds(model, weights)
    assert second in weights


def test_a_message_names_the_file_that_the_weights_are_from(safe_checkpoints, tmp_path):
    """And none where they are from no file, whatever was read before and is gone."""
    stranger = {"state_dict": {"layer1.0.conv1.weight": torch.ones(1)}}
    first = CheckpointLoader.load_checkpoint(saved(stranger, tmp_path, "first.pth"))
    CheckpointLoader.load_checkpoint(saved(stranger, tmp_path, "second.pth"))
    for checkpoint, named in ((first, "first.pth"), (dict(stranger), "the checkpoint")):
        with pytest.raises(CheckpointError, match=f"{named} does not fit"):
            mmengine_checkpoint._load_checkpoint_to_model(Detector(), checkpoint)


def test_old_names_of_a_report(tmp_path, monkeypatch):
    weights = authors_weights() | {"other": torch.ones(1)}
    del weights["network.0.0.norm1.weight"]
    report = load_checkpoint(Detector(), saved(weights, tmp_path), allow_partial=True)
    for old, new in (("missing", "missing_keys"), ("left_over", "unexpected_keys")):
        with pytest.deprecated_call(match=f"LoadReport.{new}"):
            assert getattr(report, old) == getattr(report, new) != []
    monkeypatch.delitem(sys.modules, "mmhybrid.checkpoints", raising=False)
    with pytest.deprecated_call(match=r"mmhybrid\.weights"):
        checkpoints = importlib.import_module("mmhybrid.checkpoints")
    assert checkpoints.load_checkpoint is load_checkpoint
    assert issubclass(checkpoints.CheckpointError, (UserError, RuntimeError))


def test_strict_loading_stays_strict(safe_checkpoints, tmp_path):
    path = saved({"state_dict": authors_weights()}, tmp_path)
    with pytest.raises(RuntimeError, match="match exactly"):
        mmengine_load_checkpoint(backbone(), path, strict=True)
