"""``model.json``: all that a service needs to know of an exported graph beside it."""

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config
from torch import nn

from mmhybrid.backbones import is_backbone
from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.registry import type_name

# Steps of a pipeline that leave an image as it is.
NEUTRAL = ("LoadImageFromFile", "LoadAnnotations", "PackDetInputs", "PackSegInputs", "PackInputs")


def task_of(model: nn.Module) -> str:
    """``'features'`` of a backbone, ``'segmentation'`` and so on of a whole model."""
    if is_backbone(model):
        return "features"
    if hasattr(model, "decode_head"):
        return "segmentation"
    if hasattr(model, "rpn_head") or hasattr(model, "bbox_head"):
        has_masks = getattr(getattr(model, "roi_head", None), "with_mask", False)
        return "instance_segmentation" if has_masks else "detection"
    return "classification"


def describe(
    model: nn.Module, cfg: Config | None, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """What can be said of a model before it is exported.

    Args:
        model (nn.Module): Its ``dataset_meta``, where it has one, names classes and colours.
        cfg (Config, optional): Whose test pipeline says how images are resized.
        report (Callable[[str], None]): Called with a sentence for what has no place in the file.
    """
    task, meta = task_of(model), getattr(model, "dataset_meta", None) or {}
    given = getattr(model, "data_preprocessor", None)
    mean, std = (getattr(given, name, None) for name in ("mean", "std"))
    mean, std = (None if one is None else one.flatten().tolist() for one in (mean, std))
    if task == "features" and cfg:  # what its images are normalised by
        normalising = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
        mean, std = (normalising.get(name) for name in ("mean", "std"))
    classes, palette = meta.get("classes"), meta.get("palette")
    return dict(
        task=task,
        classes=list(classes) if classes else None,
        palette=[list(colour) for colour in palette] if isinstance(palette, list | tuple) else None,
        resize=_resize(cfg, report) if cfg else dict(type="none"),
        pad=None,  # detectors pad in their graphs, and no other model pads to a multiple
        mean=mean,
        std=std,
        normalized_in_graph=task != "features",
        **_thresholds(model, task),
    )


def _thresholds(model: nn.Module, task: str) -> dict[str, float | None]:
    found = {}
    if task in ("detection", "instance_segmentation"):
        found = (model.test_cfg.get("rcnn") if hasattr(model, "roi_head") else model.test_cfg) or {}
    mask = found.get("mask_thr_binary") if task == "instance_segmentation" else None
    return dict(mask_threshold=mask, score_threshold=found.get("score_thr"))


def _resize(cfg: Config, report: Callable[[str], None]) -> dict[str, Any]:
    """The rule for sizes that a test pipeline follows."""
    _, dataset = next(datasets_of(cfg, ("test_dataloader",)), ("", {}))
    rule: dict[str, Any] = dict(type="none")
    for step in dataset.get("pipeline", []):
        name = type_name(step)
        if name == "Resize" and step.get("keep_ratio"):
            new = dict(type="keep_ratio", scale=list(step["scale"]))
        elif name == "Resize" and "scale" in step:
            width, height = _pair(step["scale"])
            new = dict(type="exact", width=width, height=height)
        elif name == "ResizeEdge" and step.get("edge", "short") == "short":
            new = dict(type="short_edge", edge=step["scale"])
        elif name == "CenterCrop" and rule["type"] == "short_edge":
            rule["crop"] = list(_pair(step["crop_size"]))
            continue
        elif name in NEUTRAL:
            continue
        else:
            report(f"model.json has no word for the step {name} of the test pipeline")
            continue
        if rule["type"] != "none":
            report(f"model.json has one resize, and the test pipeline more: {rule['type']} first")
        rule = new | _interpolation(step)
    return rule


def _interpolation(step: Mapping[str, Any]) -> dict[str, str]:
    return {key: step[key] for key in ("interpolation", "backend") if key in step}


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
