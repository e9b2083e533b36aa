"""All data sets but COCO's: built, and asked for what they know of each sample."""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import DATASETS
from PIL import Image

from mmhybrid.datasets.check_data.contents import Contents
from mmhybrid.datasets.check_data.images import check_image
from mmhybrid.datasets.check_data.problems import Found
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name

VOID = 255  # the label that mmseg gives to 0 with reduce_zero_label


def read_samples(dataset: Any, scope: str | None, header_only: bool) -> Contents:
    """The contents of a data set, from its config.

    Raises:
        UserError: It cannot be built.
    """
    unfiltered = {"filter_cfg": None} if "filter_cfg" in dataset else {}
    with DATASETS.switch_scope_and_registry(scope) as registry:
        try:
            built = registry.build(dict(dataset, pipeline=[], _scope_=scope, **unfiltered))
        except UserError:
            raise
        except Exception as error:  # each data set has errors of its own
            raise UserError(f"{type_name(dataset)} cannot be read: {error}") from error
    contents = Contents(tuple(map(str, built.metainfo.get("classes") or ())))
    if not len(built):
        contents.found.append(Found("no-images", str(dataset.get("data_root"))))
    for index in range(len(built)):
        info = built.get_data_info(index)
        path = info.get("img_path")
        if path is not None:
            contents.images.append(path)
        if info.get("seg_map_path") is not None and hasattr(built, "ignore_index"):
            contents.unit = "masks"
            ignored = built.ignore_index
            check = partial(_check_mask, info, ignored, contents, header_only)
            contents.checks.append(check)
        elif path is not None:
            contents.checks.append(partial(check_image, Path(path), None, header_only))
        _count(info, str(path or index), contents)
    return contents


def _count(info: dict[str, Any], name: str, contents: Contents) -> None:
    """Adds the labels of an image or its objects."""
    if "instances" in info:  # mmdet
        contents.unit = "objects"
        labels = [one["bbox_label"] for one in info["instances"] if not one.get("ignore_flag")]
        if not info["instances"]:
            contents.found.append(Found("image-without-label", name))
    elif "gt_label" in info:  # mmpretrain
        contents.unit = "images"
        labels = np.atleast_1d(info["gt_label"]).tolist()
    else:
        return
    for label in labels:
        if 0 <= label < len(contents.classes):
            contents.counts[contents.classes[label]] += 1
        elif contents.classes:
            contents.found.append(Found("class-out-of-range", name, f"{name}: {label}"))


def _check_mask(
    info: dict[str, Any], ignored: int, contents: Contents, header_only: bool
) -> list[Found]:
    found = check_image(Path(info["img_path"]), None, header_only)
    path, classes = info["seg_map_path"], len(contents.classes)
    if not Path(path).is_file():
        return [*found, Found("missing-mask", path)]
    try:
        with Image.open(path) as mask:
            labels = np.array(mask)
    except (OSError, SyntaxError, ValueError) as error:
        return [*found, Found("unreadable-image", path, f"{path} ({error})")]
    if labels.ndim != 2:
        return [*found, Found("colour-mask", path, f"{path} has {labels.shape[2]} channels")]
    height, width = labels.shape
    size = None
    with suppress(OSError, SyntaxError, ValueError), Image.open(info["img_path"]) as image:
        size = image.size  # of what cannot be read, check_image says so
    if size not in (None, (width, height)):
        sizes = f"{width}x{height} pixels, its image {size[0]}x{size[1]}"
        found.append(Found("mask-size", path, f"{path} has {sizes}"))
    values = _labels_trained(labels, info)
    known = (values >= 0) & (values < classes) & (values != ignored)
    unknown = values[~known & (values != ignored)].tolist()
    contents.shown.append(values[known])
    if unknown:
        allowed = f"allowed are 0 to {classes - 1} and {ignored}"
        detail = f"{path} has {unknown[:10]}; {allowed}"
        found.append(Found("unknown-value", path, detail))
    elif not known.any():
        found.append(Found("image-without-label", path))
    return found


def _labels_trained(labels: np.ndarray, info: dict[str, Any]) -> np.ndarray:
    """The different labels that training sees: mapped as mmseg's LoadAnnotations does."""
    few = labels.dtype == np.uint8  # counting is much faster than sorting
    values = np.flatnonzero(np.bincount(labels.ravel())) if few else np.unique(labels)
    values = values.astype(np.int64)
    if info.get("reduce_zero_label"):
        values = np.where(values == 0, VOID, values - 1)
        values = np.where(values == VOID - 1, VOID, values)
    mapping = info.get("label_map") or {}
    return np.unique([mapping.get(value, value) for value in values.tolist()])
