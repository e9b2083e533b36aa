"""``model.json``: all that a service needs to know of an exported graph beside it."""

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config
from torch import nn

from mmhybrid.backbones import is_backbone
from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.deploy.onnx_outputs import reads_files, takes_bgr
from mmhybrid.registry import type_name

# ImageNet's, by which all backbones here were trained.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CONVERSIONS = ("to_rgb", "bgr_to_rgb", "rgb_to_bgr")  # of a data preprocessor
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
        cfg (Config, optional): Whose test pipeline says how images are resized and padded.
        report (Callable[[str], None]): Called with a sentence for what has no place in the file.
    """
    task, meta = task_of(model), getattr(model, "dataset_meta", None) or {}
    given = getattr(model, "data_preprocessor", None)
    mean, std = (getattr(given, name, None) for name in ("mean", "std"))
    mean, std = (None if one is None else one.flatten().tolist() for one in (mean, std))
    bgr = False  # whether the graph takes images so; of a whole model it takes RGB
    if takes_bgr(model, cfg):
        mean, std = (one and one[::-1] for one in (mean, std))
    if task == "features":  # what its images are normalised by
        normalising = dict(mean=[*MEAN], std=[*STD])
        if cfg:
            normalising = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
            converts = any(normalising.get(key) for key in CONVERSIONS)
            bgr = bool(normalising) and not converts and reads_files(cfg)
        mean, std = (normalising.get(name) for name in ("mean", "std"))
    classes, palette = meta.get("classes"), meta.get("palette")
    return dict(
        task=task,
        classes=list(classes) if classes else None,
        palette=[list(colour) for colour in palette] if isinstance(palette, list | tuple) else None,
        category_ids=_category_ids(meta),
        resize=(_steps(cfg, report) if cfg else []) + _padding_of_segmentor(model, cfg),
        mean=mean,
        std=std,
        bgr=bgr,
        normalized_in_graph=task != "features",
        **_thresholds(model, task),
    )


def _thresholds(model: nn.Module, task: str) -> dict[str, Any]:
    found = {}
    if task == "segmentation":  # mmseg's own windows
        window = list(getattr(model, "test_cfg", {}).get("crop_size") or ()) or None
        head = model.decode_head[-1] if hasattr(model, "num_stages") else model.decode_head
        return dict(window=window, label_threshold=getattr(head, "threshold", None))
    if task in ("detection", "instance_segmentation"):
        found = (model.test_cfg.get("rcnn") if hasattr(model, "roi_head") else model.test_cfg) or {}
    mask = found.get("mask_thr_binary") if task == "instance_segmentation" else None
    overlap = (found.get("nms") or {}).get("iou_threshold")
    return dict(mask_threshold=mask, score_threshold=found.get("score_thr"), iou_threshold=overlap)


def _category_ids(meta: Mapping[str, Any]) -> list[int] | None:
    ids = meta.get("category_ids")
    return [int(number) for number in ids] if ids else None


def _padding_of_segmentor(model: nn.Module, whole: Config | None) -> list[dict[str, Any]]:
    """What mmseg's data preprocessor pads in tests; other models pad in their graphs or not."""
    given = getattr(model, "data_preprocessor", None)
    cfg = getattr(given, "test_cfg", None) or {}
    value = ((given.mean + given.pad_val * given.std).flatten().tolist()) if cfg else None
    value = value[::-1] if value and takes_bgr(model, whole) else value
    if size := cfg.get("size"):
        height, width = _pair(size)
        return [dict(type="pad", height=height, width=width, value=value)]
    if divisor := cfg.get("size_divisor"):
        return [dict(type="pad", divisor=divisor, value=value)]
    return []


def _steps(cfg: Config, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """What a test pipeline does to the size of an image, step by step."""
    _, dataset = next(datasets_of(cfg, ("test_dataloader",)), ("", {}))
    steps = []
    for step in dataset.get("pipeline", []):
        name = type_name(step)
        if name in NEUTRAL:
            continue
        made = STEPS.get(name, lambda step: None)(step)
        if isinstance(made, list):
            steps += made
        elif made:
            how = _interpolation(step)
            if (word := how.get("interpolation", "bilinear")) not in ("bilinear", "bicubic"):
                report(f"model.json has no word for interpolation={word!r} of the step {name}")
                del how["interpolation"]
            steps.append(made | how)
        else:
            report(f"model.json has no word for the step {name} of the test pipeline")
    return steps


def _resized(step: Mapping[str, Any]) -> dict[str, Any] | None:
    if "scale" not in step:
        return None
    width, height = _pair(step["scale"])
    if step.get("keep_ratio"):
        return dict(type="keep_ratio", scale=[width, height])
    return dict(type="exact", width=width, height=height)


def _resized_down(step: Mapping[str, Any]) -> dict[str, Any] | None:
    """mmdet's ``FixScaleResize``, which cuts off what ``Resize`` rounds."""
    made = _resized(step)
    return made | dict(round=False) if made and step.get("keep_ratio") else made


def _of_short_edge(step: Mapping[str, Any]) -> dict[str, Any] | None:
    if step.get("edge", "short") != "short":
        return None
    return dict(type="short_edge", edge=step["scale"])


def _of_shortest_edge(step: Mapping[str, Any]) -> dict[str, Any]:
    edge = min(_pair(step["scale"]))
    return dict(type="short_edge", edge=edge, longest=step["max_size"])


def _multiple(step: Mapping[str, Any]) -> dict[str, Any]:
    return dict(type="multiple", divisor=step.get("size_divisor", 32))


def _cropped(step: Mapping[str, Any]) -> dict[str, Any]:
    width, height = _pair(step["crop_size"])
    return dict(type="crop", width=width, height=height)


def _cropped_and_resized(step: Mapping[str, Any]) -> list[dict[str, Any]]:
    size = step["crop_size"]
    how = dict(interpolation="bicubic") | _interpolation(step)
    share = size / (size + step.get("crop_padding", 32))
    return [
        dict(type="crop_square", share=share),
        dict(type="exact", width=size, height=size, **how),
    ]


def _padded(step: Mapping[str, Any]) -> dict[str, Any] | None:
    if step.get("padding_mode", "constant") != "constant":
        return None
    value = step.get("pad_val", 0)
    value = value.get("img", 0) if isinstance(value, Mapping) else value
    value = [value] * 3 if isinstance(value, int | float) else list(value)[::-1]  # of BGR
    made = dict(type="pad", value=value)
    if size := step.get("size"):
        return made | dict(zip(("width", "height"), _pair(size), strict=True))
    return made | dict(
        divisor=step.get("size_divisor") or 1, square=bool(step.get("pad_to_square"))
    )


STEPS = {
    "Resize": _resized,
    "FixScaleResize": _resized_down,
    "ResizeEdge": _of_short_edge,
    "ResizeShortestEdge": _of_shortest_edge,
    "ResizeToMultiple": _multiple,
    "CenterCrop": _cropped,
    "EfficientNetCenterCrop": _cropped_and_resized,
    "Pad": _padded,
}


def _interpolation(step: Mapping[str, Any]) -> dict[str, str]:
    return {key: step[key] for key in ("interpolation", "backend") if step.get(key)}


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
