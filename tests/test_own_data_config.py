"""Configs of ours and of others, changed to data of one's own; `own_data_sweep.py` has them all."""

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config

import mmhybrid
from mmhybrid.apis.models import model_of
from mmhybrid.datasets.check_data import check
from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.datasets.prepared_data import PreparedData
from mmhybrid.datasets.synthetic import coco
from mmhybrid.datasets.synthetic.classification import labelled_images
from mmhybrid.datasets.synthetic.segmentation_map import views
from mmhybrid.datasets.synthetic.shapes import write_image
from mmhybrid.engine.runner.check_config import check_config
from mmhybrid.engine.runner.classes import fitting_topk, task_of, with_classes
from mmhybrid.engine.runner.config_parts import parts_of
from mmhybrid.engine.runner.own_data import with_own_data
from mmhybrid.engine.runner.prepare_config import for_its_processes, with_test_time_augmentation
from mmhybrid.engine.runner.quick import make_quick
from mmhybrid.engine.runner.run_config import build_runner
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name

CLASSES = ("disc", "square", "star")
PALETTE = [(220, 60, 50), (60, 170, 75), (160, 70, 190)]


def data_of(task: str, **options: Any) -> PreparedData:
    ann_files = {split: f"/work/{split}.json" for split in ("train", "val")}
    options = dict(image_root="/images", ann_files=ann_files, mask_root="/work/masks") | options
    return PreparedData(task, CLASSES, PALETTE, **options)


@cache
def _read(name: str) -> Config:
    import mmdet
    import mmpretrain
    import mmseg

    package, _, path = name.partition("::")
    folder = Path(dict(mmdet=mmdet, mmseg=mmseg, mmpretrain=mmpretrain)[package].__file__).parent
    return Config.fromfile(folder / ".mim" / "configs" / f"{path}.py")


def read(name: str) -> Config:
    return deepcopy(_read(name))


def numbers(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Path and value of every class count and list of class weights, found by their names alone."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        here = (*path, str(key))
        if isinstance(value, dict | list | tuple) and key != "class_weight":
            yield from numbers(value, here)
        elif value is not None and ("classes" in str(key) or key == "class_weight"):
            yield ".".join(here), value


OURS = [
    "mask_rcnn_transxnet_t_coco",
    "cascade_mask_rcnn_dw_swin_t_coco",
    "retinanet_transxnet_t_coco",
    "yolov3_xformer_s_coco",
]
MMDETS = [
    "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco",
    "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco",
    "mmdet::dino/dino-4scale_r50_8xb2-12e_coco",
    "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco",
]
BACKBONE = dict(type="TransXNet", arch=dict(depths=(1, 1, 1, 1)))


def with_our_backbone(cfg: Config) -> Config:
    if head := cfg.model.get("panoptic_head"):  # which takes the maps itself
        cfg.model.backbone = BACKBONE
        head.in_channels = [48, 96, 224, 448]
    else:
        cfg.merge_from_dict(dict(model=mmhybrid.replace_backbone(cfg.model, BACKBONE)))
    return cfg


@pytest.mark.parametrize("name", OURS + MMDETS)
def test_number_is_new_everywhere(name: str, read_config) -> None:
    cfg = with_our_backbone(read(name)) if "::" in name else read_config(name)
    before = cfg.to_dict()
    new = with_own_data(cfg, data_of(task_of(cfg)))
    assert cfg.to_dict() == before
    saved = new.to_dict()
    found = dict(numbers(saved))
    stuff = [path for path in found if path.endswith("num_stuff_classes")]
    assert all(found.pop(path) == 0 for path in stuff)
    weights = [path for path in found if path.endswith("class_weight")]
    if "mask2former" in name:
        assert [found.pop(path) for path in weights] == [[1.0] * 3 + [0.1]]
        assert len(stuff) == 2
    places = {
        "mask_rcnn_transxnet_t_coco": ["roi_head.bbox_head", "roi_head.mask_head"],
        "cascade_mask_rcnn_dw_swin_t_coco": [
            *(f"roi_head.bbox_head.{stage}" for stage in range(3)),
            "roi_head.mask_head",
        ],
        MMDETS[-1]: ["panoptic_head.num_things_classes", "panoptic_fusion_head.num_things_classes"],
    }.get(name, ["bbox_head"])
    assert {f"model.{one.removesuffix('.num_things_classes')}" for one in places} == {
        path.rpartition(".")[0] for path in found
    }
    assert set(found.values()) == {3}
    assert "data/coco" not in str(saved)


def test_saved_config_trains_the_same(read_config, tmp_path) -> None:
    new = with_own_data(read_config("yolov3_xformer_s_coco"), data_of("detection"))
    new.dump(tmp_path / "saved.py")
    assert Config.fromfile(tmp_path / "saved.py").to_dict() == new.to_dict()


@pytest.mark.parametrize("name", [OURS[1], OURS[3], *MMDETS[2:]])
def test_model_is_built_with_so_many_outputs(name: str, read_config) -> None:
    cfg = read(name) if "::" in name else read_config(name)
    cfg = with_classes(with_our_backbone(cfg), CLASSES, PALETTE)
    with torch.device("meta"):
        model = model_of(cfg)
    counts = {
        path: module.num_classes
        for path, module in model.named_modules()
        if isinstance(getattr(module, "num_classes", None), int) and "rpn_head" not in path
    }
    assert counts
    assert set(counts.values()) == {3}


@pytest.mark.parametrize(
    ("name", "places"),
    [
        # Stages, a kernel head in a head, and an auxiliary head.
        (
            "mmseg::knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512",
            [
                "auxiliary_head",
                "decode_head.kernel_generate_head",
                *(f"decode_head.kernel_update_head.{stage}" for stage in range(3)),
            ],
        ),
        ("mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes", ["decode_head"]),
        ("mmpretrain::vgg/vgg11_8xb32_in1k", ["backbone"]),
        ("mmpretrain::repvgg/repvgg-B2g4_8xb32_in1k", ["head", "head.loss"]),
        ("mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco", None),
        ("mmdet::seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1", None),
        ("mmdet::faster_rcnn/faster-rcnn_r50_fpn_fcos-rpn_1x_coco", None),
        ("mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1", None),
        ("mmdet::pascal_voc/ssd300_voc0712", ["bbox_head"]),
    ],
)
def test_other_places(name: str, places: list[str] | None) -> None:
    cfg = read(name)
    old = {path: value for path, value in numbers(cfg.to_dict()) if path.startswith("model.")}
    new = with_own_data(cfg, data_of(task_of(cfg))).to_dict()
    counts = dict(numbers(new))
    assert counts.pop("model.rpn_head.num_classes", 1) == 1
    assert all(value == 3 for value in counts.values())
    assert {path for path in old if not path.endswith("class_weight")} <= {
        *counts,
        "model.rpn_head.num_classes",
    }
    if places is not None:
        found = {path for path in counts if path.startswith("model.")}
        assert found == {f"model.{place}.num_classes" for place in places}
    if "mmpretrain" in name:
        assert new["data_preprocessor"]["num_classes"] == 3
        assert new["val_evaluator"][0]["topk"] == (1,)
        assert new["model"]["head"].get("topk", (1,)) == (1,)
        assert all(len(metric["type"]) for metric in new["val_evaluator"])
    leaves = [dataset for _, dataset in datasets_of(Config(new))]
    assert len(leaves) == 3
    for leaf in leaves:
        assert leaf.metainfo == dict(classes=CLASSES, palette=PALETTE)
        assert leaf.type in ("CocoDataset", "BaseSegDataset", "CustomDataset")


def test_wrappers_that_choose_and_mix_stay_and_those_that_repeat_go() -> None:
    for name, wrappers in (
        ("mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1", ["ClassBalancedDataset"]),
        ("mmdet::yolox/yolox_tiny_8xb8-300e_coco", ["MultiImageMixDataset"]),
        ("mmdet::pascal_voc/ssd300_voc0712", []),
        ("mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512", []),
        ("mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64", []),
    ):
        cfg = read(name)
        new = with_own_data(cfg, data_of(task_of(cfg)))
        found, dataset = [], new.train_dataloader.dataset
        while "dataset" in dataset:
            found.append(dataset.type)
            dataset = dataset.dataset
        assert found == wrappers
        assert dataset.pipeline
        assert new.train_dataloader.batch_size == cfg.train_dataloader.batch_size
        assert new.train_dataloader.sampler == cfg.train_dataloader.sampler


def test_class_as_type_scope_and_partial() -> None:
    from mmdet.models import FCOS, CrossEntropyLoss, FCNMaskHead, FCOSHead

    head = dict(type="LinearClsHead", num_classes=1000)
    nested = dict(type="ImageClassifier", _scope_="mmpretrain", head=head)
    loss = dict(type=partial(CrossEntropyLoss, class_weight=[1.0] * 80 + [0.2]))
    model = dict(
        type=FCOS,
        bbox_head=dict(type=partial(FCOSHead, num_classes=80), loss_cls=loss),
        mask_head=dict(type=partial(FCNMaskHead, num_convs=2)),
        extra=[dict(teacher=nested)],
    )
    cfg = Config(dict(default_scope="mmdet", model=model))
    scopes = {part.where: part.scope for part in parts_of(cfg)}
    assert scopes["model.extra[0].teacher.head"] == "mmpretrain"
    assert scopes["model.bbox_head.loss_cls"] == "mmdet"
    new = with_classes(cfg, CLASSES, PALETTE)
    assert new.model.bbox_head.type.func is FCOSHead
    assert new.model.bbox_head.num_classes == new.model.mask_head.num_classes == 3
    assert new.model.bbox_head.loss_cls.class_weight == [1.0] * 3 + [0.2]
    assert new.model.extra[0].teacher.head.num_classes == 3


def test_models_around_a_model() -> None:
    name = "soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.01-coco"
    cfg = read(f"mmdet::soft_teacher/{name}")
    new = with_classes(cfg, CLASSES, PALETTE)
    assert new.model.detector.roi_head.bbox_head.num_classes == 3
    with pytest.raises(UserError, match="needs images without labels"):
        with_own_data(cfg, data_of("detection"))
    cfg = read("mmseg::ann/ann_r50-d8_4xb4-80k_ade20k-512x512")
    new = with_classes(with_test_time_augmentation(cfg), CLASSES, PALETTE)
    assert new.model.type == "SegTTAModel"
    assert new.model.module.auxiliary_head.num_classes == 3


LAZY = """
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.evaluation import CocoMetric
from mmdet.models import FCNMaskHead, MaskRCNN, Shared2FCBBoxHead, StandardRoIHead
from mmdet.models.losses import SeesawLoss
from mmengine.dataset import DefaultSampler, RepeatDataset

default_scope = "mmdet"
model = dict(
    type=MaskRCNN,
    rpn_head=dict(num_classes=1),
    roi_head=dict(
        type=StandardRoIHead,
        bbox_head=[dict(type=Shared2FCBBoxHead, loss_cls=dict(type=SeesawLoss))],
        mask_head=dict(type=FCNMaskHead, num_classes=80),
    ),
)
pipeline = [dict(type=LoadAnnotations, with_bbox=True), dict(type=PackDetInputs)]
dataset = dict(type=CocoDataset, data_root="data/coco/", ann_file="a.json", pipeline=pipeline)
train_dataloader = dict(
    batch_size=2,
    sampler=dict(type=DefaultSampler),
    dataset=dict(type=RepeatDataset, times=3, dataset=dataset),
)
val_dataloader = None
test_dataloader = dict(dataset=dataset)
test_evaluator = dict(type=CocoMetric, ann_file="data/coco/a.json", format_only=True)
"""


def test_pure_python_style(tmp_path: Path) -> None:
    (tmp_path / "lazy.py").write_text(LAZY)
    cfg = Config.fromfile(tmp_path / "lazy.py")
    new = with_own_data(cfg, data_of("instances", category_ids=[3, 7, 90]))
    bbox_head = new.model.roi_head.bbox_head[0]
    assert type_name(bbox_head) == "Shared2FCBBoxHead"
    assert bbox_head.num_classes == bbox_head.loss_cls.num_classes == 3  # defaults: 80, 1203
    assert new.model.roi_head.mask_head.num_classes == 3
    assert new.model.rpn_head.num_classes == 1
    train = new.train_dataloader.dataset
    assert train.type == "CocoDataset"
    assert train.metainfo.category_ids == [3, 7, 90]
    for loader in ("train", "val", "test"):
        assert new[f"{loader}_dataloader"].dataset.pipeline[0].with_mask is True
    assert new.val_evaluator.ann_file == new.test_evaluator.ann_file == "/work/val.json"
    assert new.val_evaluator.metric == ["bbox", "segm"]
    assert "format_only" not in new.test_evaluator
    assert new.val_cfg == {}
    assert "pipeline" not in new
    assert "dataset" not in new


def test_what_is_evaluated_and_chosen_by() -> None:
    cfg = read("mmdet::pascal_voc/ssd300_voc0712")
    cfg.default_hooks.checkpoint.save_best = "pascal_voc/mAP"
    cfg.custom_hooks = [dict(type="EarlyStoppingHook", monitor="pascal_voc/mAP")]
    new = with_own_data(cfg, data_of("detection", ann_files=dict(train="a", val="b", test="c")))
    assert new.default_hooks.checkpoint.save_best == "coco/bbox_mAP"
    assert new.custom_hooks[0].monitor == "coco/bbox_mAP"
    told = dict(type="CocoMetric", metric=["bbox"], classwise=True)
    assert new.val_evaluator == dict(told, ann_file="b")
    assert new.test_evaluator == dict(told, ann_file="c")
    # Boxes are learnt from objects with masks too, and their masks are not loaded.
    new = with_own_data(cfg, data_of("instances"))
    assert new.val_evaluator.metric == ["bbox"]
    assert "with_mask" not in str(new.train_dataloader)
    # SOLO gives masks alone.
    cfg = read("mmdet::solo/solo_r50_fpn_1x_coco")
    assert with_own_data(cfg, data_of("instances")).val_evaluator.metric == ["segm"]
    cfg = read("mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64")
    new = with_own_data(cfg, data_of("segmentation"))
    assert new.val_evaluator.iou_metrics == ["mIoU", "mDice"]
    with_nothing_held_out = data_of("segmentation", ann_files=dict(train="a"))
    new = with_own_data(cfg, with_nothing_held_out)
    assert new.val_dataloader is new.val_evaluator is new.val_cfg is new.test_cfg is None


def test_labels_of_masks_are_taken_as_they_are() -> None:
    cfg = read("mmseg::ann/ann_r50-d8_4xb4-80k_ade20k-512x512")
    cfg.model.decode_head.loss_decode.class_weight = [float(n % 7) for n in range(150)]
    new = with_own_data(cfg, data_of("segmentation"))
    loading = [part.node for part in parts_of(new) if type_name(part.node) == "LoadAnnotations"]
    assert len(loading) == 4  # with test-time augmentation
    assert not any("reduce_zero_label" in step for step in loading)
    for _, dataset in datasets_of(new):
        assert dataset.reduce_zero_label is False
        assert dataset.data_prefix == dict(img_path="", seg_map_path="/work/masks")
    assert new.model.decode_head.loss_decode.class_weight is None
    new.model.decode_head.loss_decode.class_weight = [1.0, 2.0, 3.0]
    again = with_own_data(new, data_of("segmentation"))
    assert again.to_dict() == new.to_dict()


def test_images_in_memory_are_replaced_by_files() -> None:
    new = with_own_data(
        read("mmpretrain::resnet/resnet18_8xb16_cifar10"), data_of("classification")
    )
    assert new.data_preprocessor.to_rgb is True
    for loader, size in (("train", 32), ("val", 32), ("test", 32)):
        load, resize, *_ = new[f"{loader}_dataloader"].dataset.pipeline
        assert load.type == "LoadImageFromFile"
        assert resize == dict(type="Resize", scale=(size, size))
    new = with_own_data(read("mmpretrain::lenet/lenet5_mnist"), data_of("classification"))
    assert new.train_dataloader.dataset.pipeline[0].color_type == "grayscale"
    assert new.model.backbone.num_classes == 3


def test_validation_is_made_where_there_is_none() -> None:
    new = with_own_data(
        read("mmpretrain::convnext/convnext-base_32xb128_in21k"), data_of("classification")
    )
    steps = [step.type for step in new.val_dataloader.dataset.pipeline]
    assert steps == ["LoadImageFromFile", "Resize", "PackInputs"]
    assert new.val_dataloader.sampler == dict(type="DefaultSampler", shuffle=False)
    assert new.val_cfg == {}


@pytest.mark.parametrize(("topk", "classes", "fitting"), [((1, 5), 3, (1,)), ((1, 5), 6, (1, 5))])
def test_topk(topk: tuple[int, ...], classes: int, fitting: tuple[int, ...]) -> None:
    assert fitting_topk(topk, classes) == fitting
    assert fitting_topk(5, 3) == (1,)


@pytest.mark.parametrize(
    ("name", "task", "told"),
    [
        ("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco", "detection", "boxes alone: configs/retina"),
        ("mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco", "segmentation", "configs/upernet"),
        ("mmseg::ann/ann_r50-d8_4xb4-80k_ade20k-512x512", "instances", "configs/mask_rcnn"),
        ("mmpretrain::vgg/vgg11_8xb32_in1k", "detection", "one label for each image"),
        ("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic", "instances", "panoptic"),
        ("mmdet::grounding_dino/grounding_dino_swin-t_finetune_16xb2_1x_coco", "detection", "text"),
        ("mmdet::rpn/rpn_r50_fpn_1x_coco", "detection", "boxes of no class"),
        ("mmdet::htc/htc_r50_fpn_1x_coco", "instances", "label maps of stuff"),
        ("mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco", "detection", "a teacher"),
        ("mmpretrain::simclr/simclr_resnet50_16xb256-coslr-200e_in1k", "classification", "SimCLR"),
        ("mmpretrain::csra/resnet101-csra_1xb16_voc07-448px", "classification", "several labels"),
    ],
)
def test_what_does_not_fit_is_one_sentence(name: str, task: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        with_own_data(read(name), data_of(task))
    assert "configs/" in str(error.value)
    assert "\n" not in str(error.value)


def test_models_without_a_place_for_a_number(read_config) -> None:
    cfg = read_config("transxnet_t_imagenet")
    cfg.model.head = dict(type="MyHead", num_classes=9)
    with pytest.raises(UserError, match=r"model.head: there is no type 'MyHead'"):
        with_classes(cfg, CLASSES, PALETTE)
    cfg.model.head = None
    with pytest.raises(UserError, match="ImageClassifier of this config has no place for a number"):
        with_classes(cfg, CLASSES, PALETTE)
    one = data_of("classification")
    one.classes = ("all",)
    with pytest.raises(UserError, match="'all' is the only class"):
        with_own_data(read_config("transxnet_t_imagenet"), one)


def draw(task: str, folder: Path) -> PreparedData:
    """Six images with their annotations, as `PreparedData` describes them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    options: dict[str, Any] = dict(image_root=str(folder), ann_files={}, mask_root=None)
    for split in ("train", "val"):
        ann_file = folder / f"{split}.{'json' if task == 'instances' else 'txt'}"
        options["ann_files"][split] = str(ann_file)
        names = [f"{split}/{number}.jpg" for number in range(3)]
        if task == "instances":
            dataset = dict(ann_file=ann_file.name, data_prefix=dict(img=split))
            coco.draw(dataset, CLASSES, folder, 3, rng)
            content = json.loads(ann_file.read_text())
            for image in content["images"]:
                image["file_name"] = f"{split}/{image['file_name']}"
            ann_file.write_text(json.dumps(content))
        elif task == "segmentation":
            options["mask_root"] = str(folder / "masks")
            ann_file.write_text("".join(f"{name}\n" for name in names))
            for name, (image, mask) in zip(names, views(rng, 3, 320, CLASSES), strict=True):
                write_image(folder / name, image)
                write_image(folder / "masks" / f"{name}.png", mask)
        else:
            images = list(labelled_images(3, 3, 64, rng))
            lines = [f"{name} {label}\n" for name, (label, _) in zip(names, images, strict=True)]
            ann_file.write_text("".join(lines))
            for name, (_, image) in zip(names, images, strict=True):
                write_image(folder / name, image)
    return data_of(task, **options)


@pytest.mark.train
@pytest.mark.parametrize(
    ("name", "task", "metrics"),
    [
        (
            "mask_rcnn_transxnet_t_coco",
            "instances",
            {"coco/bbox_mAP", "coco/segm_mAP", "coco/star_precision"},
        ),
        ("semantic_fpn_dmformer_camvid", "segmentation", {"mIoU", "aAcc"}),
        (
            "dw_vit_t_cifar10_32px",
            "classification",
            {"accuracy/top1", "single-label/recall_classwise"},
        ),
    ],
)
def test_trains_and_evaluates(
    name: str, task: str, metrics: set[str], read_config, tmp_path
) -> None:
    data = draw(task, tmp_path / "data")
    cfg = read_config(name)
    cfg.quick = dict(iterations=2, batch_size=2, size=64)
    cfg.update(work_dir=str(tmp_path / "run"), launcher="none")
    cfg.default_hooks.checkpoint.save_best = "auto"
    cfg = for_its_processes(make_quick(with_own_data(cfg, data), data.image_root))
    if task == "instances":
        cfg.model.backbone.arch = BACKBONE["arch"]
        cfg.model.test_cfg.rpn.max_per_img = cfg.model.train_cfg.rpn_proposal.max_per_img = 20
        cfg.model.train_cfg.rcnn.sampler.num = cfg.model.test_cfg.rcnn.max_per_img = 4
    check_config(cfg)
    assert not [one for one in check(cfg) if one.severity == "error"]
    runner = build_runner(cfg)
    runner.train()
    log = next(Path(runner.log_dir).glob("*.log")).read_text()
    assert all(f" {metric}: " in log for metric in metrics)
