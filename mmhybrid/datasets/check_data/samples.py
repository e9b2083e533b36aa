"""All data sets but COCO's: built, and asked for what they know of each sample."""

import copy
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import Compose
from mmengine.registry import DATASETS, TRANSFORMS
from PIL import Image

from mmhybrid.datasets.check_data.contents import Contents
from mmhybrid.datasets.check_data.images import check_image, turns_images
from mmhybrid.datasets.check_data.problems import Found
from mmhybrid.datasets.image_files import BROKEN_FILE, size_of
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name, type_of

Load = Callable[[dict[str, Any]], dict[str, Any]]


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
            raise why_unreadable(dataset, error) from error
    names = tuple(map(str, _metainfo(built).get("classes") or ()))
    contents = Contents(names, names=names)
    if not len(built):
        contents.found.append(Found("no-images", str(dataset.get("data_root"))))
    folders = list(getattr(built, "folder_to_idx", None) or ())  # mmpretrain's CustomDataset
    if set(folders) & set(names) and folders != list(names):
        told = f"the folders are {folders[:10]}, the classes {list(names[:10])}"
        contents.found.append(Found("classes-differ", "", told))
    turns = turns_images(dataset)
    load_image = _loader(dataset, scope, False)
    load_mask = _loader(dataset, scope, True) if hasattr(built, "ignore_index") else None
    for index in range(len(built)):
        try:
            info = built.get_data_info(index)
            path = info.get("img_path")
        except Exception:  # of videos, whose samples are frames; of pairs of images
            contents.found.append(Found("not-checked", "", type_name(dataset)))
            return contents
        if path is not None:
            contents.images.append(path)
        load = None if header_only else load_image
        image = partial(_check_image, info, load, header_only, turns)
        if "segments_info" in info:
            _count_segments(info, contents)
            contents.checks.append(partial(_check_segments, info, image))
        elif info.get("seg_map_path") is not None and hasattr(built, "ignore_index"):
            contents.unit = "masks"
            contents.checks.append(
                partial(_check_mask, info, built.ignore_index, contents, image, load_mask, turns)
            )
        elif path is not None:
            contents.checks.append(image)
        if "segments_info" not in info:
            _count(info, str(path or index), contents)
    if contents.unit is None and contents.checks:
        contents.found.append(Found("labels-not-checked", "", type_name(dataset)))
    elif not contents.images and len(built) and contents.unit is None:
        contents.found.append(Found("not-checked", "", type_name(dataset)))
    if contents.unit == "segments":
        _leave_out_missing_categories(contents, built)
    return contents


def why_unreadable(dataset: Any, error: Exception) -> UserError:
    """What to say of a data set that cannot be built."""
    told = f"the data set {type_name(dataset)} cannot be read: {error or type(error).__name__}"
    if "need at least one array to concatenate" in str(error):
        told = f"the data set {type_name(dataset)} has no image: nothing is found in its folders, "
        told += "or none has an object of the classes"
    file = dataset.get("ann_file") if isinstance(dataset, dict) else None
    if isinstance(file, list | tuple):
        told += ". ann_file must be one file: join several with ConcatDataset"
    elif file:
        told += f" ({Path(dataset.get('data_root') or '', file)}{_odd_line(dataset, file)})"
    return UserError(told)


def _odd_line(dataset: Any, file: str) -> str:
    """The first line of a list of images that is not written as mmpretrain and mmseg read it."""
    try:
        lines = Path(dataset.get("data_root") or "", file).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    if not file.endswith((".txt", ".csv", ".tsv", ".lst")):
        return ""
    for number, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.lstrip("-").isdigit():
            return (
                f", line {number}: {line[:60]!r} is no name of a file, a blank and the number of "
                "its class"
            )
    return ""


def _metainfo(built: Any) -> dict[str, Any]:
    metainfo = built.metainfo
    return metainfo if isinstance(metainfo, dict) else metainfo[0]


def _loader(dataset: Any, scope: str | None, annotations: bool) -> Load | None:
    """Those steps at the beginning of a pipeline that read images, or annotations."""
    steps: list[Any] = []
    for step in dataset.get("pipeline") or []:
        found = type_of(step, TRANSFORMS, scope) if isinstance(step, dict) else type(step)
        bases = inspect.getmro(found) if inspect.isclass(found) else ()
        if not any(one.__name__.startswith("Load") for one in bases):
            break
        if annotations == any("Annotation" in one.__name__ for one in bases):
            steps.append(step)
    with TRANSFORMS.switch_scope_and_registry(scope):
        return Compose(steps) if steps else None


def _check_image(
    info: dict[str, Any], load: Load | None, header_only: bool, turns: bool
) -> list[Found]:
    """Reads an image as the pipeline does, and looks for what is remarkable of it."""
    path = info["img_path"]
    own = load is not None and type(load.transforms[0]).__name__ != "LoadImageFromFile"
    found = (
        [] if own and Path(path).is_file() else check_image(Path(path), None, header_only, turns)
    )
    known = {"missing-image", "empty-file", "unreadable-image", "truncated-image"}
    if load is None or known & {one.code for one in found if one.code != "unreadable-image"}:
        return found
    try:
        load(copy.deepcopy(info))
    except BROKEN_FILE as error:
        return [Found("unreadable-image", path, f"{path} ({error})")]
    except Exception as error:  # a mistake in a loader of one's own
        return [*found, _failing(load, path, error)]
    return [one for one in found if one.code != "unreadable-image"]  # Pillow's limits are not its


def _failing(load: Load, path: str, error: Exception) -> Found:
    names = ", ".join(type(step).__name__ for step in load.transforms)
    return Found("failing-sample", path, f"{path}: {names}: {type(error).__name__} {error}")


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
    info: dict[str, Any],
    ignored: int,
    contents: Contents,
    check: Callable[[], list[Found]],
    load: Load | None,
    turns: bool,
) -> list[Found]:
    """Reads a mask as the pipeline does, with its labels lowered and mapped."""
    found = check()
    path, classes = info["seg_map_path"], len(contents.classes)
    if not Path(path).is_file():
        return [*found, Found("missing-mask", path)]
    if load is None:
        from mmseg.datasets.transforms import LoadAnnotations

        load = Compose([LoadAnnotations()])
    try:
        with Image.open(path) as mask:
            largest = np.array(mask).max() if mask.mode[:1] in "IF" else 0
        labels = load(copy.deepcopy(info))["gt_seg_map"]
    except BROKEN_FILE as error:
        return [*found, Found("unreadable-image", path, f"{path} ({error})")]
    except Exception as error:  # a mistake in a loader of one's own
        return [*found, _failing(load, path, error)]
    if labels.ndim != 2:
        return [*found, Found("colour-mask", path, f"{path} has {labels.shape[2]} channels")]
    height, width = labels.shape
    size = size_of(Path(info["img_path"]), turns)  # of what cannot be read, check_image says so
    if size not in (None, (width, height)):
        sizes = f"{width}x{height} pixels, its image {size[0]}x{size[1]}"
        found.append(Found("mask-size", path, f"{path} has {sizes}"))
    few = labels.dtype == np.uint8  # counting is much faster than sorting
    values = np.flatnonzero(np.bincount(labels.ravel())) if few else np.unique(labels)
    known = (values >= 0) & (values < classes) & (values != ignored)
    unknown = values[~known & (values != ignored)].tolist()
    unknown += [int(largest)] if largest > 255 else []  # of which mmseg keeps the last eight bits
    contents.shown.append(values[known].astype(np.int64))
    if (values == ignored).any():
        contents.ignored[ignored] += 1
    if unknown:
        allowed = f"allowed are 0 to {classes - 1} and {ignored}"
        detail = f"{path} has {unknown[:10]}; {allowed}"
        found.append(Found("unknown-value", path, detail))
    elif not known.any():
        found.append(Found("image-without-label", path))
    return found


def _count_segments(info: dict[str, Any], contents: Contents) -> None:
    """Adds the things and stuff of a panoptic data set."""
    contents.unit = "segments"
    for one in info["segments_info"]:
        if 0 <= one["category"] < len(contents.classes):
            contents.counts[contents.classes[one["category"]]] += 1
    if not info["segments_info"]:
        contents.found.append(Found("image-without-label", info["img_path"]))


def _leave_out_missing_categories(contents: Contents, built: Any) -> None:
    """Keeps of the classes those that the file of a panoptic data set has."""
    number = len(getattr(built, "cat_ids", contents.classes))
    if number < len(contents.classes):
        told = f"{number} of {len(contents.classes)} are there"
        contents.found.append(Found("category-missing", "", told))
        contents.classes = contents.classes[:number]


def _check_segments(info: dict[str, Any], check: Callable[[], list[Found]]) -> list[Found]:
    """Compares a panoptic mask, whose colours are numbers of segments, with its annotations."""
    found, path = check(), info["seg_map_path"]
    if path is None or not Path(path).is_file():
        return [*found, Found("missing-mask", str(path))]
    try:
        with Image.open(path) as mask:
            colours = np.array(mask.convert("RGB")).astype(np.int64)
    except BROKEN_FILE as error:
        return [*found, Found("unreadable-image", path, f"{path} ({error})")]
    size = size_of(Path(info["img_path"]))
    if size not in (None, colours.shape[1::-1]):
        sizes = f"{colours.shape[1]}x{colours.shape[0]} pixels, its image {size[0]}x{size[1]}"
        found.append(Found("mask-size", path, f"{path} has {sizes}"))
    numbers = set(np.unique(colours @ (1, 256, 256**2)).tolist())
    lacking = {one["id"] for one in info["segments_info"]} - numbers
    unknown = numbers - {one["id"] for one in info["segments_info"]} - {0}
    if unknown or lacking:
        told = f"{path} has segments {sorted(unknown)[:5]} that are not annotated"
        told = told if unknown else f"{path} lacks the annotated segments {sorted(lacking)[:5]}"
        found.append(Found("unknown-value", path, told))
    return found
