"""What is wrong with a config is said in one sentence, with the values seen and allowed."""

import hashlib
from argparse import Namespace
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import load_checkpoint
from torchvision.models import resnet18

import mmhybrid
from mmhybrid.backbones import TransXNet, XFormer, backbone_classes
from mmhybrid.datasets.data_paths import check_metrics, datasets_of
from mmhybrid.engine.runner.check_channels import check_unused_maps
from mmhybrid.engine.runner.check_classes import check_checkpoint, trained_on
from mmhybrid.engine.runner.check_config import check_config, check_pretrained
from mmhybrid.engine.runner.prepare_config import prepare_config, with_scaled_lr
from mmhybrid.engine.runner.run_config import build_runner, load_config
from mmhybrid.errors import ArgumentError, UserError
from mmhybrid.weights import CheckpointError, write_checkpoint
from mmhybrid.weights.downloading import load_url

DIVISOR = "model__data_preprocessor__size_divisor"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@cache
def read(name: str) -> Config:
    return load_config(str(CONFIGS / f"{name}.py"))


def config(name: str = "mask_rcnn_transxnet_t_coco", **options: Any) -> Config:
    cfg = deepcopy(read(name))
    cfg.merge_from_dict({key.replace("__", "."): value for key, value in options.items()})
    return cfg


# fmt: off
WRONG = {
    "unknown arch": (dict(model__backbone__arch="tinny"),
        r"model.backbone \(TransXNet\).*'tinny' is unknown.*'tiny'"),
    "unknown key of arch": (dict(model__backbone__arch=dict(_delete_=True, deptths=(1, 1, 1, 1))),
        "'deptths'.*did you mean 'depths'"),
    "unknown argument of the backbone": (dict(model__backbone__frozen_stage=1),
        "model.backbone: TransXNet has no argument 'frozen_stage'; did you mean 'frozen_stages'"
        ".* It takes arch, "),
    "unknown argument of the neck": (dict(model__neck__out_channel=256),
        "model.neck: FPN has no argument 'out_channel'; did you mean 'out_channels'"),
    "unknown backbone": (dict(model__backbone__type="TransXnet"),
        "model.backbone: there is no type 'TransXnet'; did you mean 'TransXNet'"),
    "unknown neck": (dict(model__neck__type="FPNN"),
        "model.neck: there is no type 'FPNN'; did you mean 'FPN'"),
    "unknown head": (dict(model__roi_head__bbox_head__type="Shared2FCBoxHead"),
        "model.roi_head.bbox_head: .*did you mean 'Shared2FCBBoxHead'"),
    "channels of the neck": (dict(model__neck__in_channels=[256, 512, 1024, 2048]),
        r"model.neck: in_channels=\[256, 512, 1024, 2048\], but model.backbone gives "
        r"\[48, 96, 224, 448\]"),
    "number of maps for the neck": (dict(model__backbone__out_indices=(1, 2, 3)),
        r"model.neck: in_channels=\[48, 96, 224, 448\].*gives \[96, 224, 448\].*out_indices"),
    "out_indices out of range": (dict(model__backbone__out_indices=(0, 1, 2, 4)),
        r"model.backbone \(TransXNet\): .*out of range"),
    "frozen_stages out of range": (dict(model__backbone__frozen_stages=7),
        "frozen_stages=7.*allowed are -1"),
    "unknown norm": (dict(model__backbone__norm_cfg=dict(type="BatchNorm")),
        "norm_cfg asks for type='BatchNorm'; known are"),
    "fewer classes in a head": (dict(model__roi_head__bbox_head__num_classes=20),
        "bbox_head: num_classes=20, but the training data has 80 classes"),
    "channels of the images": (dict(model__backbone__in_channels=4),
        "model.backbone: in_channels=4, but model.data_preprocessor.mean has 3 values. Set "),
    "grey images": (dict(model__backbone__in_channels=1), "in_channels=1, but .* has 3 values"),
    "unknown transform": (dict(train_dataloader__dataset__pipeline__1__type="LoadAnotations"),
        r"dataset.pipeline\[1\]: .*'LoadAnotations'; did you mean 'LoadAnnotations'"),
    "unknown argument of a transform": (dict(train_dataloader__dataset__pipeline__3__probb=0.5),
        r"RandomFlip has no argument 'probb'; did you mean 'prob'"),
    "unknown argument of a data set": (dict(train_dataloader__dataset__clases=["cat"]),
        "train_dataloader.dataset: CocoDataset has no argument 'clases'.* It takes ann_file"),
    "unknown metric": (dict(val_evaluator__type="CocoMetrics"),
        "val_evaluator: there is no type 'CocoMetrics'; did you mean 'CocoMetric'"),
    "unknown hook": (dict(default_hooks__logger__type="LogHook"),
        "default_hooks.logger: there is no type 'LogHook'; did you mean 'LoggerHook'"),
    "unknown argument of a schedule": (dict(param_scheduler__0__start_facto=0.1),
        r"param_scheduler\[0\]: LinearLR has no argument 'start_facto'; did you mean"),
    "no training loop": (dict(train_cfg=None),
        "train_cfg is None or missing: of train_dataloader, train_cfg, optim_wrapper"),
    "no optimizer": (dict(optim_wrapper=None), "optim_wrapper is None or missing"),
    "validation without a metric": (dict(val_evaluator=None), "val_evaluator is None or missing"),
    "no sampler": (dict(train_dataloader__sampler=dict(_delete_=True)),
        "train_dataloader.sampler is empty or missing"),
    "checkpoint to start from": (dict(load_from="absent.pth"),
        "load_from: there is no checkpoint absent.pth"),
    "weights of a part": (
        dict(model__neck__init_cfg=dict(_delete_=True, type="Pretrained", checkpoint="none.pth")),
        "model.neck.init_cfg: there is no checkpoint 'none.pth'"),
    "one class as a text": (dict(train_dataloader__dataset__metainfo=dict(classes="person")),
        r"are the text 'person', and there is no such file .* is written \['person'\]"),
    "classes under an old name": (dict(train_dataloader__dataset__metainfo=dict(CLASSES=["a"])),
        "metainfo of a CocoDataset has CLASSES, which nothing reads"),
    "classes of training alone": (
        dict(train_dataloader__dataset__metainfo=dict(classes=["a", "b"])),
        "the training data has 2 classes and the validation data 80; number 0 is"),
    "more classes in a head": (dict(model__roi_head__bbox_head__num_classes=81),
        "bbox_head: num_classes=81, but the training data has 80 classes"),
    "unknown optimizer": (dict(optim_wrapper__optimizer__type="AdmaW"),
        "optim_wrapper.optimizer: there is no type 'AdmaW'; did you mean 'AdamW'"),
    "unknown argument of the optimizer": (dict(optim_wrapper__optimizer__weight_deacy=0.1),
        "AdamW has no argument 'weight_deacy'; did you mean 'weight_decay'"),
}
# fmt: on


@pytest.mark.parametrize("case", WRONG)
def test_wrong_config(case: str) -> None:
    options, told = WRONG[case]
    with pytest.raises(UserError, match=told) as error:
        check_config(config(**options))
    assert "\n" not in str(error.value)


def joined(cfg: Config, *classes: tuple[str, ...]) -> Config:
    """A config whose training data are several data sets with classes of their own."""
    one = cfg.train_dataloader.dataset
    parts = [dict(one, metainfo=dict(classes=names)) for names in classes]
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=parts)
    cfg.val_dataloader.dataset.metainfo = dict(classes=classes[0])
    for head in cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head:
        head.num_classes = len(classes[0])
    return cfg


def test_joined_data_sets_agree_in_their_labels() -> None:
    check_config(joined(config(), ("cat", "dog"), ("cat",)))
    with pytest.raises(UserError, match=r"training data 2 1; number 0 is \['cat'\] in one and"):
        check_config(joined(config(), ("cat", "dog"), ("dog",)))


def test_classes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    cfg = joined(config(), ("cat", "dog"))
    for _, dataset in datasets_of(cfg):
        dataset.metainfo = dict(classes=str(tmp_path / "names.txt"))
    check_config(cfg)
    for content in ("\ufeffcat\ndog\n", "cat\n\ndog\n", "cat \ndog"):
        (tmp_path / "names.txt").write_text(content)
        with pytest.raises(UserError, match="is no name of a class"):
            check_config(cfg)
    (tmp_path / "names.txt").write_text("cat\n")
    with pytest.raises(UserError, match="num_classes=2, but the training data has 1 classes"):
        check_config(cfg)


@pytest.mark.parametrize("wrap", [dict, lambda **meta: dict(dataset_meta=meta)])
def test_classes_of_the_checkpoint_are_compared(wrap, tmp_path: Path, monkeypatch) -> None:
    cfg = joined(config(), ("cat", "dog"))
    cfg.test_dataloader.dataset.metainfo = dict(classes=("cat", "dog"))
    cfg.load_from = str(tmp_path / "weights.pth")
    log = mock.Mock()
    monkeypatch.setattr("mmhybrid.engine.runner.check_classes.print_log", log)
    for names, count in ((("cat", "dog"), 0), (("dog", "cat"), 1), (("ant", "dog"), 2)):
        torch.save(dict(state_dict={}, meta=wrap(CLASSES=names)), cfg.load_from)
        check_checkpoint(cfg, ("train_dataloader",))
        assert log.call_count == count
    assert "number 0 is 'ant' there and 'cat' here" in log.call_args.args[0]
    torch.save(dict(state_dict={}, meta=wrap(CLASSES=("dog", "cat"))), cfg.load_from)
    with pytest.raises(UserError, match=r"trained on other classes .* Give the data its order"):
        check_checkpoint(cfg, ("test_dataloader",))


WEIGHTS = {"a": torch.ones(1)}


@pytest.mark.parametrize(
    "content",
    [
        [WEIGHTS],
        torch.ones(1),
        dict(state_dict=WEIGHTS, meta="text"),
        dict(state_dict=WEIGHTS, meta=3),
        dict(state_dict=WEIGHTS, meta=dict(dataset_meta="text", classes=("cat", "dog"))),
        dict(state_dict=WEIGHTS, meta=dict(CLASSES=2, PALETTE=1.5)),
    ],
    ids=["list", "tensor", "meta is a text", "a number", "data set's is a text", "classes are"],
)
def test_a_file_that_says_nothing_of_classes(content: Any, tmp_path: Path) -> None:
    cfg = joined(config(), ("cat", "dog"))
    cfg.load_from = str(tmp_path / "weights.pth")
    torch.save(content, cfg.load_from)
    check_checkpoint(cfg, ("train_dataloader",))
    assert trained_on(cfg.load_from) == {}
    with pytest.raises(CheckpointError, match=r"weights\.pth"):  # whoever loads it says so
        mmhybrid.load_checkpoint(XFormer(**XFormer.test_options), cfg.load_from)


def test_what_an_argument_means_is_known() -> None:
    agnostic = dict(num_classes=1, class_agnostic=True)
    check_config(config(model__roi_head__mask_head=agnostic))  # one mask for all classes
    steps = dict(type="RandomResize", scale=(64, 64), keep_ratio=True, resize_typ="Resize")
    with mock.patch("mmhybrid.engine.runner.check_config.print_log") as log:
        check_config(config(train_dataloader__dataset__pipeline__2=dict(steps, _delete_=True)))
    ((told,),) = [call.args for call in log.call_args_list if "RandomResize" in call.args[0]]
    assert "no argument 'resize_typ'; did you mean 'resize_type'" in told  # not of keep_ratio


def test_parts_at_any_depth_are_checked() -> None:
    name = "upernet_transxnet_t_ade20k"
    head = config(name).model.decode_head
    for wrong, told in (
        (dict(in_channels=[1, 2, 3, 4]), r"generate_head: in_channels=\[1, 2, 3, 4\], but"),
        (dict(num_classes=4), "generate_head: num_classes=4, but the training data has 150"),
        (dict(type="UPerHed"), "generate_head: there is no type 'UPerHed'; did you mean 'UPerH"),
    ):
        cfg = config(name)
        update = dict(type="KernelUpdateHead", num_classes=150)
        cfg.model.decode_head = dict(
            type="IterativeDecodeHead",
            num_stages=1,
            num_classes=150,
            kernel_update_head=[update],
            kernel_generate_head=head | wrong,
        )
        with pytest.raises(UserError, match=told):
            check_config(cfg)


def test_segmentation_head_that_does_not_fit() -> None:
    name = "segformer_transxnet_t_cityscapes"
    with pytest.raises(UserError, match=r"model.decode_head: in_channels=.*gives \[48, 96, 224"):
        check_config(config(name, model__decode_head__in_channels=[32, 64, 160, 256]))
    with pytest.raises(UserError, match=r"in_index=\[1, 2, 3, 4\].*gives 4 maps"):
        check_config(config(name, model__decode_head__in_index=[1, 2, 3, 4]))
    with pytest.raises(UserError, match=r"decode_head: num_classes=5, but .* 19 classes"):
        check_config(config(name, model__decode_head__num_classes=5))


POOLED = dict(type="GlobalAveragePooling")


@pytest.mark.parametrize("neck", [None, POOLED, [POOLED]], ids=["none", "pooled", "list"])
def test_head_of_a_classifier_that_does_not_fit(neck: Any) -> None:
    cfg = config("dw_vit_t_cifar10", model__head__in_channels=384)
    if neck:
        cfg.model.neck = neck
        cfg.model.backbone = dict(type="TransXNet", **TransXNet.test_options)
    right = 64 if neck else 192
    given = f"but model.backbone gives {right} channels"
    told = f"model.head: in_channels=384, {given}. Set model.head.in_channels={right}"
    with pytest.raises(UserError, match=told):
        check_config(cfg)
    cfg.model.head.in_channels = right
    check_config(cfg)
    linear = dict(type="LinearNeck", in_channels=7, out_channels=right)
    cfg.model.backbone.out_indices = (-1,)
    cfg.model.neck = [*neck, linear] if isinstance(neck, list) else linear
    with pytest.raises(UserError, match=f"model.neck.*: in_channels=7, {given}"):
        check_config(cfg)


def test_size_of_training_crops(monkeypatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        "mmhybrid.engine.runner.check_config.print_log", lambda text, **options: told.append(text)
    )
    name = "upernet_transxnet_t_ade20k"
    with pytest.raises(UserError, match=r"data_preprocessor: .*size=\(512, 512\)"):
        check_config(config(name, model__data_preprocessor__size=None))
    check_config(config(name, model__data_preprocessor__size=None, **{DIVISOR: 32}))
    with pytest.raises(UserError, match="size and size_divisor"):
        check_config(config(name, **{DIVISOR: 32}))
    check_config(config(name))
    assert not any("data_preprocessor" in text for text in told)
    check_config(config(name, model__data_preprocessor__size=(640, 640)))
    assert "size=(640, 640), but training crops to (512, 512)" in told[-1]


def test_classes_of_a_classifier() -> None:
    name = "dw_vit_t_cifar10"
    with pytest.raises(UserError, match=r"data_preprocessor: num_classes=1000, .*head has 10"):
        check_config(config(name, data_preprocessor__num_classes=1000))
    cfg = config(name, data_preprocessor__num_classes=1000)
    cfg.model.train_cfg = None  # nothing is mixed, and the number is not read
    check_config(cfg)
    with pytest.raises(UserError, match=r"val_evaluator: topk=\(1, 11\), .*head has 10"):
        check_config(config(name, val_evaluator=dict(type="Accuracy", topk=(1, 11))))
    head = dict(topk=(1, 12), cal_acc=False)
    check_config(config(name, model__head=head))  # nothing is counted
    with pytest.raises(UserError, match=r"model.head: topk=\(1, 12\)"):
        check_config(config(name, model__head=head | dict(cal_acc=True)))


def test_images_of_other_channels() -> None:
    options = dict(model__backbone__in_channels=4)
    check_config(config(model__data_preprocessor=dict(mean=[127.0], std=[58.0]), **options))
    check_config(config(model__data_preprocessor=dict(mean=None, std=None), **options))
    # Two images in one tensor, and a neck that flattens its map.
    check_config(config(model__data_preprocessor=dict(mean=[127.0] * 8, std=[58.0] * 8), **options))
    with pytest.raises(UserError, match=r"in_channels=4, but data_preprocessor\.mean has 3"):
        check_config(config("dw_vit_t_cifar10", **options))


@pytest.mark.parametrize("backbone", backbone_classes(), ids=lambda one: one.__name__)
def test_maps_that_no_neck_takes(backbone: type, monkeypatch) -> None:
    """Processes would wait for the gradients of what belongs to the first map alone."""
    cfg = config("retinanet_transxnet_t_coco")
    cfg.model.backbone = dict(type=backbone.__name__, **backbone.test_options)
    channels = list(backbone(**backbone.test_options).feature_channels)
    cfg.model.neck.update(in_channels=channels, start_level=1)
    log = mock.Mock()
    monkeypatch.setattr("mmhybrid.engine.runner.check_channels.print_log", log)
    own = dict(TransXNet="norm0", DWSwinTransformer="norm0")
    own |= dict.fromkeys(("DWCaiT", "DWVisionTransformer"), "pyramid.levels.0")
    part = own.get(backbone.__name__)
    check_unused_maps(cfg)
    assert log.call_count == bool(part)
    cfg.launcher = "pytorch"
    if part:
        told = rf"leaves {part}.*out_indices=\(1, 2, 3\), .*in_channels=\[{channels[1]}"
        with pytest.raises(UserError, match=told):
            check_unused_maps(cfg)
    for wrapper in (dict(static_graph=True), dict(type="MMFullyShardedDataParallel")):
        check_unused_maps(Config(dict(cfg, model_wrapper_cfg=wrapper)))
    cfg.find_unused_parameters = True
    check_unused_maps(cfg)
    cfg.find_unused_parameters = False
    cfg.model.neck.start_level = 0
    check_unused_maps(cfg)
    cfg.model.neck.start_level = len(channels)  # FPN's own error speaks
    check_unused_maps(cfg)
    cfg.model.neck.start_level, cfg.model.backbone.frozen_stages = 1, 4
    check_unused_maps(cfg)


def test_weights_that_a_segmentor_would_hand_to_its_backbone(tmp_path: Path) -> None:
    name = "semantic_fpn_transxnet_t_ade20k"
    told = (
        r"^model\.pretrained: TransXNet takes weights by model\.backbone\.init_cfg\. Set model\.p"
    )
    with pytest.raises(UserError, match=told):
        check_config(config(name, model__pretrained="open-mmlab://resnet50_v1c"))
    args = dict(config=str(CONFIGS / f"{name}.py"), quick=True, work_dir=str(tmp_path))
    args |= dict(cfg_options={"model.pretrained": "mine.pth"}, launcher="none")
    more = ("data", "data_root", "resume", "amp", "auto_scale_lr", "no_validate", "weights")
    with pytest.raises(UserError, match=told):  # though --quick drops them
        prepare_config(Namespace(**args | dict.fromkeys(more)))
    cfg = config(name, model__pretrained="open-mmlab://resnet50_v1c")
    cfg.model.backbone = dict(type="ResNet", depth=18)
    check_pretrained(cfg)


@pytest.mark.parametrize("name", ["yolov3_xformer_s_coco", "dw_vit_t_cifar10"])
def test_right_configs_pass(name: str) -> None:
    check_config(config(name))


@pytest.mark.parametrize("bug", [TypeError, ValueError, KeyError])
def test_bugs_of_our_own_keep_their_traceback(bug: type, monkeypatch) -> None:
    failing = mock.Mock(side_effect=bug("a bug"))
    monkeypatch.setattr("mmhybrid.backbones.transxnet.resolve_arch", failing)
    with pytest.raises(bug, match="a bug") as error:
        check_config(config())
    assert not isinstance(error.value, UserError)


def test_messages_are_one_sentence() -> None:
    text = "frozen_stages=7: allowed are -1 (none) to 4 (all)"
    place = "class `FPN` in mmdet/models/necks/fpn.py: "
    assert str(ArgumentError(f"{place}{place}{text}")) == text  # as MMEngine hands it on
    traceback = f"Caught ArgumentError in worker 0.\n  ...\nmmhybrid.errors.ArgumentError: {text}\n"
    assert str(ArgumentError(traceback)) == text  # as PyTorch's data loader hands it on


def test_checkpoint_of_another_model(tmp_path) -> None:
    write_checkpoint(dict(state_dict=resnet18().state_dict()), tmp_path / "resnet.pth")
    told = r"resnet\.pth.*XFormer|XFormer.*resnet\.pth"
    with mmhybrid.enable_safe_checkpoints(), pytest.raises(CheckpointError, match=told):
        load_checkpoint(XFormer(), str(tmp_path / "resnet.pth"))


def test_missing_base_batch_size() -> None:
    with pytest.raises(UserError, match=r"--auto-scale-lr needs auto_scale_lr=dict\(base_batch"):
        with_scaled_lr(Config(dict()))


UNREADABLE = {
    "an older OpenMMLab's": (
        "model = dict(type='FasterRCNN')\ndata = dict(samples_per_gpu=2, train=dict())\n",
        {},
        "is written for mmdet 2, mmseg 0 or mmcls 0",
    ),
    "no Python": ("model = dict(type='FasterRCNN'\n", {}, r"leaf\.py.*line 1"),
    "no base config": ("_base_ = ['./absent.py']\n", {}, r"leaf\.py.*absent\.py"),
    "option that does not fit": (
        "default_scope = 'mmdet'\n",
        {"default_scope.a": 1},
        r"--cfg-options do not fit .*default_scope",
    ),
    "option in the place of a dictionary": (
        "train_cfg = dict(by_epoch=True)\n",
        {"train_cfg": "{1}"},
        r"train_cfg=.*'\{1\}'.* Set its keys.*train_cfg\.KEY=VALUE",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_config_that_cannot_be_read(case: str, tmp_path) -> None:
    text, options, told = UNREADABLE[case]
    (tmp_path / "leaf.py").write_text(text)
    with pytest.raises(UserError, match=told):
        load_config(str(tmp_path / "leaf.py"), options)


def test_options_of_a_backbone_that_no_model_reads() -> None:
    told = r"backbone\.drop_path_rate=0\.5 changes nothing.* Set model\.backbone\.drop_path_rate="
    path, options = str(CONFIGS / "retinanet_transxnet_t_coco.py"), {"backbone.drop_path_rate": 0.5}
    with pytest.raises(UserError, match=told):
        load_config(path, options)
    cfg = load_config(path, {"model.backbone.drop_path_rate": 0.5})
    assert cfg.model.backbone.drop_path_rate == 0.5


def test_a_config_of_a_checkout_that_is_not_installed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mmengine.config.config.get_installed_path", lambda name: str(tmp_path))
    monkeypatch.setattr("mmhybrid.engine.runner.run_config.OF_MIM", tmp_path / ".mim")
    for name in ("_base_/mmhybrid.py", "_base_/../transxnet_t_imagenet.py"):
        (tmp_path / "leaf.py").write_text(f"_base_ = 'mmhybrid::{name}'\n")
        with pytest.raises(UserError, match=r"need an installed mmhybrid: pip install -e \.$"):
            load_config(str(tmp_path / "leaf.py"))


def test_options_that_fit() -> None:
    cfg = load_config(str(CONFIGS / "dw_vit_t_cifar10.py"), {"val_cfg": None, "train_cfg.by": 1})
    assert cfg.val_cfg is None
    assert cfg.train_cfg.by == 1


def test_download_with_another_sha256(tmp_path) -> None:
    path = tmp_path / "weights.pth"
    write_checkpoint(dict(state_dict={}), path)
    url, right = path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_url(f"{url}#sha256={right}", tmp_path / "cache", progress=False)
    (cached,) = (tmp_path / "cache").iterdir()
    cached.unlink()
    told = f"its SHA-256 is {right} and should start with 0{{8}}"
    with pytest.raises(CheckpointError, match=told):
        load_url(f"{url}#sha256={'0' * 8}", tmp_path / "cache", progress=False)
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(CheckpointError, match=r"sha256=12 of .* is no SHA-256"):
        load_url(f"{url}#sha256=12", tmp_path / "cache", progress=False)


def test_metric_of_other_data(tmp_path: Path, monkeypatch) -> None:
    cfg = config()
    for name in ("train", "val"):
        (tmp_path / f"{name}.json").write_text("{}")
    cfg.val_dataloader.dataset.update(data_root=str(tmp_path), ann_file="val.json")
    check_metrics_of = partial(check_metrics, cfg, ("val_dataloader",))
    told = (
        rf"val_evaluator: ann_file=.* does not exist. The data are read from .*: set .*{tmp_path}"
    )
    with pytest.raises(UserError, match=told):
        check_metrics_of()
    log = mock.Mock()
    monkeypatch.setattr("mmhybrid.datasets.data_paths.print_log", log)
    cfg.val_evaluator.ann_file = str(tmp_path / "train.json")
    check_metrics_of()
    assert "train.json, but the data are read from" in log.call_args.args[0]
    cfg.val_evaluator.ann_file = str(tmp_path / "val.json")
    check_metrics_of()
    assert log.call_count == 1


def test_missing_package_of_a_visualizer(toy_config) -> None:
    backends = [dict(type="NeptuneVisBackend")]
    toy_config.visualizer = dict(type="Visualizer", vis_backends=backends, save_dir="absent")
    with pytest.raises(UserError, match=r"needs what is not installed: .*neptune"):
        build_runner(toy_config)
