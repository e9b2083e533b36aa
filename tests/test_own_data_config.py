"""Configs of ours and of others, changed to data of one's own; `own_data_sweep.py` has them all."""

from collections.abc import Iterator
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

import mmhybrid
from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.datasets.prepared_data import PreparedData
from mmhybrid.engine.runner.classes import fitting_topk, task_of, with_classes
from mmhybrid.engine.runner.config_parts import parts_of
from mmhybrid.engine.runner.own_data import with_own_data
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
        elif "classes" in str(key) or key == "class_weight":
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
def test_saved_config_has_the_new_number_everywhere(name: str, read_config, tmp_path) -> None:
    cfg = with_our_backbone(read(name)) if "::" in name else read_config(name)
    before = cfg.to_dict()
    new = with_own_data(cfg, data_of(task_of(cfg)))
    assert cfg.to_dict() == before
    new.dump(tmp_path / "saved.py")
    saved = Config.fromfile(tmp_path / "saved.py").to_dict()
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


@pytest.mark.parametrize("name", [*OURS[1:], *MMDETS])
def test_model_is_built_with_so_many_outputs(name: str, read_config) -> None:
    import torch

    from mmhybrid.apis.models import model_of

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
