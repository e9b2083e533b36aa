"""What ``--quick`` draws is learnt, evaluated and shown under its own names."""

import json
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from mmengine.registry import DATASETS, init_default_scope

from mmhybrid.datasets.data_paths import with_data_root
from mmhybrid.datasets.synthetic import draw_data, drawn_classes
from mmhybrid.engine.runner.classes import with_classes
from mmhybrid.engine.runner.config_parts import parts_of
from mmhybrid.engine.runner.quick import make_quick


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("mask_rcnn_transxnet_t_coco", "gt_instances.labels"),
        ("yolov3_xformer_s_coco", "gt_instances.labels"),
        ("upernet_transxnet_t_ade20k", "gt_sem_seg.data"),
        ("segformer_xformer_s_cityscapes", "gt_sem_seg.data"),
        ("xformer_s_imagenet", "gt_label"),
        ("dw_vit_t_cifar10_32px", "gt_label"),
        ("dw_vit_t_tiny_imagenet", "gt_label"),
    ],
)
def test_what_is_drawn_has_its_own_names(name, labels, read_config, tmp_path: Path) -> None:
    cfg = read_config(name)
    cfg.work_dir = str(tmp_path)
    cfg.quick = dict(train_images=12, val_images=4)
    cfg = make_quick(cfg)
    names = ("sky", "ground") * ("sem_seg" in labels) + ("disc", "square", "triangle", "cross")
    counts = {part.node.get("num_classes") for part in parts_of(cfg) if part.key != "rpn_head"}
    assert counts == {None, len(names)}
    init_default_scope(cfg.default_scope)
    for loader in ("train_dataloader", "val_dataloader"):
        dataset = DATASETS.build(cfg[loader].dataset)
        assert dataset.metainfo["classes"] == names
    truths = (attrgetter(labels)(dataset[index]["data_samples"]) for index in range(4))
    found = torch.cat([torch.as_tensor(truth).flatten() for truth in truths])
    assert set(found.tolist()) - {255} <= set(range(len(names)))


def test_a_model_of_no_classes_keeps_those_of_its_config(read_config, tmp_path: Path) -> None:
    cfg = read_config("mask_rcnn_transxnet_t_coco")
    cfg.model.type = "RPN"
    cfg.work_dir = str(tmp_path)
    cfg.quick = dict(train_images=2, val_images=1)
    dataset = make_quick(cfg).train_dataloader.dataset
    assert "metainfo" not in dataset
    assert "person" in (tmp_path / "data" / dataset.ann_file).read_text()


def test_boxes_of_one_shape_suppress_each_other(read_config, tmp_path: Path) -> None:
    cfg = read_config("mask_rcnn_transxnet_t_coco")
    cfg.work_dir = str(tmp_path)
    cfg.quick = dict(train_images=2, val_images=1)
    quick = make_quick(cfg)
    assert quick.model.test_cfg.rcnn.nms.iou_threshold == 0.2
    assert quick.model.test_cfg.rpn.nms.iou_threshold == 0.7
    cfg = with_classes(cfg, *drawn_classes("instances"))
    real = make_quick(cfg, quick.train_dataloader.dataset.data_root)
    assert real.model.test_cfg.rcnn.nms.iou_threshold == 0.5


def test_images_of_other_classes_are_drawn_again(read_config, tmp_path: Path) -> None:
    cfg = with_data_root(read_config("mask_rcnn_transxnet_t_coco"), str(tmp_path / "data"))
    draw_data(cfg, tmp_path / "data", 2, 1, 0)
    draw_data(with_classes(cfg, *drawn_classes("instances")), tmp_path / "data", 2, 1, 0)
    content = json.loads((tmp_path / "data" / "annotations/instances_train2017.json").read_text())
    assert [one["name"] for one in content["categories"]] == ["disc", "square", "triangle", "cross"]
    # mmdet's coco_error_analysis asks for it.
    assert {one["supercategory"] for one in content["categories"]} == {"none"}
