"""What the name of a config says: ``{method}_{backbone}_{size}_{dataset}``."""

import re
from typing import NamedTuple

import mmhybrid  # noqa: F401  (registers the backbones)
from mmhybrid.backbones.base import backbone_classes

METHODS = {
    "cascade_mask_rcnn": "Cascade Mask R-CNN",
    "mask_rcnn": "Mask R-CNN",
    "retinanet": "RetinaNet",
    "yolov3": "YOLOv3",
    "semantic_fpn": "Semantic FPN",
    "upernet": "UperNet",
    "segformer": "all-MLP head",
}
# Pretrained backbones of OpenMMLab and timm, which examples put under the same heads.
NEIGHBOURS = {"van": "VAN", "mobilevit": "MobileViT", "timm_nextvit": "Next-ViT"}
CLASSIFICATION = "Image Classification"
# Names as people write them, with the task as OpenMMLab's indices call it.
DATASETS = {
    "coco": ("COCO", "Object Detection"),
    "ade20k": ("ADE20K", "Semantic Segmentation"),
    "cityscapes": ("Cityscapes", "Semantic Segmentation"),
    "camvid": ("CamVid", "Semantic Segmentation"),
    "imagenet": ("ImageNet-1K", CLASSIFICATION),
    "tiny_imagenet": ("Tiny-ImageNet", CLASSIFICATION),
    "cifar10": ("CIFAR-10", CLASSIFICATION),
    "cifar100": ("CIFAR-100", CLASSIFICATION),
    "cifar10_32px": ("CIFAR-10 at 32 pixels", CLASSIFICATION),
}
# A backbone of OpenMMLab's in DepthwiseShortcutBackbone.
WRAPPED = " with DW shortcut"


class ConfigName(NamedTuple):
    """The parts of a config's name, as people write them."""

    method: str  # 'Mask R-CNN'; empty for a classifier
    family: str  # 'TransXNet'; empty where the name is not of this form
    model: str  # 'TransXNet-T', or the whole name
    dataset: str  # 'COCO'; empty where the name is not of this form
    task: str  # 'Object Detection'


def family_names() -> dict[str, str]:
    """Families of all registered backbones by what configs call them: ``dw_vit`` is DW-ViT.

    And of :data:`NEIGHBOURS`.
    """
    families = (backbone.family for backbone in backbone_classes())
    return {family.lower().replace("-", "_"): family for family in families} | NEIGHBOURS


def parse_config_name(stem: str) -> ConfigName:
    """Takes the name of a config, without folder and ``.py``, apart."""
    families = family_names()
    pattern = (
        f"(?:({'|'.join(METHODS)})_)?"
        f"(?:({'|'.join(families)})(?:_([a-z0-9]+))?|(.+)_with_dw_shortcut)_(.+)"
    )
    match = re.fullmatch(pattern, stem)
    if match is None:
        return ConfigName("", "", stem, "", CLASSIFICATION)
    method, family, size, wrapped, dataset = match.groups()
    if wrapped:
        family = model = wrapped.title().replace("_", "-") + WRAPPED
    else:
        family = families[family]
        model = family + (f"-{size.upper()}" if size else "")
    shown = DATASETS.get(dataset, (dataset, CLASSIFICATION))
    return ConfigName(METHODS.get(method, ""), family, model, *shown)
