"""What the name of a config says: ``{method}_{backbone}_{size}_{dataset}``."""

from __future__ import annotations

import re
from typing import NamedTuple

METHODS = {
    "cascade_mask_rcnn": "Cascade Mask R-CNN",
    "mask_rcnn": "Mask R-CNN",
    "retinanet": "RetinaNet",
    "yolov3": "YOLOv3",
    "semantic_fpn": "Semantic FPN",
    "upernet": "UperNet",
    "segformer": "all-MLP head",
}
FAMILIES = {
    "transxnet": "TransXNet",
    "dmformer": "DMFormer",
    "xformer": "XFormer",
    "dw_vit": "DW-ViT",
    "dw_swin": "DW-Swin",
    "dw_cait": "DW-CaiT",
    "swin_t_with_dw_shortcut": "Swin-T with DW shortcut",
}
DATASETS = {
    "coco": "COCO",
    "ade20k": "ADE20K",
    "cityscapes": "Cityscapes",
    "camvid": "CamVid",
    "imagenet": "ImageNet-1K",
    "tiny_imagenet": "Tiny-ImageNet",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "cifar10_32px": "CIFAR-10 at 32 pixels",
}
TASKS = {
    "COCO": "Object Detection",
    "ADE20K": "Semantic Segmentation",
    "Cityscapes": "Semantic Segmentation",
    "CamVid": "Semantic Segmentation",
}


class ConfigName(NamedTuple):
    """The parts of a config's name, as people write them.

    Attributes:
        method: e.g. ``'Mask R-CNN'``; empty for a classifier.
        family: e.g. ``'TransXNet'``; empty where the name is not of this form.
        model: family and size, e.g. ``'TransXNet-T'``, or the whole name.
        dataset: e.g. ``'COCO'``; empty where the name is not of this form.
    """

    method: str
    family: str
    model: str
    dataset: str

    @property
    def task(self) -> str:
        """As OpenMMLab's indices call it."""
        return TASKS.get(self.dataset, "Image Classification")


def parse_config_name(stem: str) -> ConfigName:
    """Takes the name of a config apart.

    Args:
        stem: without folder and ``.py``.
    """
    pattern = f"(?:({'|'.join(METHODS)})_)?({'|'.join(FAMILIES)})(?:_([a-z0-9]+))?_(.+)"
    match = re.fullmatch(pattern, stem)
    if match is None:
        return ConfigName("", "", stem, "")
    method, family, size, dataset = match.groups()
    return ConfigName(
        METHODS.get(method, ""),
        FAMILIES[family],
        FAMILIES[family] + (f"-{size.upper()}" if size else ""),
        DATASETS.get(dataset, dataset),
    )
