"""All that is wrong with the data of a config, told before training."""

from __future__ import annotations

import difflib
import json
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.utils import ProgressBar
from PIL import Image

from mmhybrid.datasets.data_paths import LOADERS, classes_of, datasets_of
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name

EXAMPLES = 3
SMALLEST = 32  # pixels, of an image
ORIENTATION = 0x0112  # the tag of EXIF

# What can be found, whether it is an error, and what training does with it.
KINDS: dict[str, tuple[bool, str]] = {
    "missing image": (True, "training leaves it out and says so; evaluation stops"),
    "empty file": (True, "training leaves it out and says so; evaluation stops"),
    "unreadable image": (True, "training leaves it out and says so; evaluation stops"),
    "truncated image": (True, "training leaves it out, or an older OpenCV reads grey"),
    "image of another size than annotated": (True, "its boxes lie in the wrong places"),
    "image smaller than 32 pixels": (False, "it is enlarged by Resize, if there is one"),
    "CMYK image": (False, "it is read as RGB, with colours slightly off"),
    "16-bit image": (False, "its values are reduced to 8 bits"),
    "palette image": (False, "it is read as RGB"),
    "image with transparency": (False, "transparency is ignored"),
    "grey image": (False, "it is read as RGB"),
    "image turned by EXIF": (False, "it is turned while it is read; annotations must agree"),
    "annotation file that cannot be read": (True, "training stops"),
    "class of the config that the file lacks": (True, "nothing of this class is learnt"),
    "category of the file that the config lacks": (False, "its boxes are ignored"),
    "box of an unknown image": (True, "it is ignored"),
    "box of an unknown category": (True, "it is ignored"),
    "box that is no four numbers": (True, "training stops"),
    "empty box": (False, "it is ignored"),
    "box outside the image": (True, "it is ignored"),
    "box that reaches beyond the image": (False, "it is cut at the border"),
    "crowd box": (False, "it is ignored in training, and treated as a crowd in evaluation"),
    "object without a mask": (True, "training of masks stops or learns an empty mask"),
    "image without a box": (False, "it is left out unless filter_cfg keeps it"),
    "image named twice": (True, "one of the two counts"),
    "missing mask": (True, "training leaves it out and says so; evaluation stops"),
    "mask of another size than its image": (True, "training leaves it out or stops"),
    "mask in colour": (True, "labels are wrong; save class numbers in one channel"),
    "label outside the classes": (True, "training ignores these pixels and says so"),
    "class label out of range": (True, "training stops"),
    "class without an image": (True, "nothing of this class is learnt"),
    "no images": (True, "training stops"),
}


class Findings:
    """Counts what was found, and keeps a few examples of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, example: str) -> None:
        if kind not in KINDS:
            raise KeyError(kind)
        self.counts[kind] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(example)

    @property
    def errors(self) -> int:
        return sum(count for kind, count in self.counts.items() if KINDS[kind][0])

    def lines(self) -> Iterable[str]:
        """What was found: errors first, the most frequent first."""
        for kind, count in sorted(
            self.counts.items(), key=lambda one: (not KINDS[one[0]][0], -one[1])
        ):
            is_error, consequence = KINDS[kind]
            yield f"{'ERROR' if is_error else 'note ':5} {count:8,}  {kind}: {consequence}"
            for example in self.examples[kind]:
                yield f"                  {example}"
            if count > EXAMPLES:
                yield f"                  and {count - EXAMPLES:,} more"


def check_datasets(
    cfg: Config, loaders: tuple[str, ...] = LOADERS, most: int | None = None, workers: int = 4
) -> dict[str, Findings]:
    """Read everything that a config trains and evaluates on.

    Args:
        cfg: Complete.
        loaders: Those to check.
        most: Images to open of each data set, evenly spread; all by default.
        workers: Threads that open images.

    Returns:
        What was found, by the name of each data set. One that two loaders share comes once.

    Raises:
        UserError: A data set cannot be built.
    """
    found: dict[str, Findings] = {}
    seen: dict[str, str] = {}
    for loader, dataset in datasets_of(cfg, loaders):
        key = json.dumps(
            [dataset.get(k) for k in ("type", "data_root", "ann_file", "data_prefix", "split")],
            default=str,
        )
        if key in seen:
            continue
        seen[key] = loader
        name = f"{loader.removesuffix('_dataloader')}: {type_name(dataset)}"
        found[name] = check_dataset(dataset, cfg.get("default_scope"), most, workers, name)
    return found


def check_dataset(
    dataset: Any, scope: str | None, most: int | None = None, workers: int = 4, name: str = ""
) -> Findings:
    """Read everything of one data set; arguments as in :func:`check_datasets`."""
    findings = Findings()
    if type_name(dataset) == "CocoDataset" and dataset.get("ann_file"):
        images = _check_coco(dataset, classes_of(dataset, scope), findings)
    else:
        images = _check_samples(dataset, scope, findings)
    if not images and not findings.counts:
        findings.add("no images", str(dataset.get("data_root")))
    if most is not None and len(images) > most:
        images = [images[i * len(images) // most] for i in range(most)]
    bar = ProgressBar(len(images)) if len(images) > 500 else None
    with ThreadPoolExecutor(workers) as pool:
        for results in pool.map(lambda check: check(), images):
            for kind, example in results:
                findings.add(kind, example)
            if bar is not None:
                bar.update()
    if bar is not None:
        print()
    return findings


Check = Callable[[], list[tuple[str, str]]]


def check_image(path: Path, size: tuple[int, int] | None = None) -> list[tuple[str, str]]:
    """Open an image as far as it goes.

    Args:
        path: Of the image.
        size: Width and height that the annotations give.

    Returns:
        Kinds of :data:`KINDS`, each with an example.
    """
    if not path.is_file():
        return [("missing image", str(path))]
    if path.stat().st_size == 0:
        return [("empty file", str(path))]
    found = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                mode, shape = image.mode, image.size
                turned = image.getexif().get(ORIENTATION, 1)
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        kind = "truncated image" if "truncated" in str(error) else "unreadable image"
        return [(kind, f"{path} ({error})")]
    if mode == "CMYK":
        found.append("CMYK image")
    elif mode.startswith("I") or mode == "F":
        found.append("16-bit image")
    elif mode == "P":
        found.append("palette image")
    elif mode in ("RGBA", "LA", "PA"):
        found.append("image with transparency")
    elif mode in ("L", "1"):
        found.append("grey image")
    if turned != 1:
        found.append("image turned by EXIF")
        if turned >= 5:
            shape = shape[::-1]
    if min(shape) < SMALLEST:
        found.append("image smaller than 32 pixels")
    results = [(kind, f"{path} ({mode}, {shape[0]}x{shape[1]})") for kind in found]
    if size is not None and size != shape:
        told = f"{path} has {shape[0]}x{shape[1]} pixels, the annotations say {size[0]}x{size[1]}"
        results.append(("image of another size than annotated", told))
    return results


def _check_coco(dataset: Any, classes: tuple[str, ...], findings: Findings) -> list[Check]:
    path = Path(dataset.get("data_root") or "") / dataset["ann_file"]
    try:
        content = json.loads(path.read_bytes())
        images, boxes = content["images"], content.get("annotations", [])
        categories = {one["id"]: one["name"] for one in content["categories"]}
        files = [(one["id"], one["file_name"]) for one in images]
    except (OSError, ValueError, KeyError, TypeError) as error:
        findings.add(
            "annotation file that cannot be read", f"{path}: {type(error).__name__} {error}"
        )
        return []
    for name in set(classes) - set(categories.values()):
        close = difflib.get_close_matches(name, categories.values(), n=1)
        hint = (
            f"; it has {close[0]!r}" if close else f", which has {list(categories.values())[:10]}"
        )
        findings.add("class of the config that the file lacks", f"{name!r} is not in {path}{hint}")
    for name in set(categories.values()) - set(classes):
        findings.add("category of the file that the config lacks", repr(name))
    sizes: dict[Any, tuple[int, int]] = {}
    for (number, name), image in zip(files, images, strict=True):
        if number in sizes:
            findings.add("image named twice", f"id {number}, {name}")
        sizes[number] = image.get("width"), image.get("height")
    with_boxes = set()
    masks = str(dataset.get("pipeline") or "").replace('"', "'")
    for one in boxes:
        with_boxes.add(one.get("image_id"))
        for kind in _wrong_with_box(one, sizes, categories, "'with_mask': True" in masks):
            example = f"annotation {one.get('id')} of image {one.get('image_id')}: "
            findings.add(
                kind, f"{example}bbox {one.get('bbox')}, category {one.get('category_id')}"
            )
    folder = dataset.get("data_prefix") or {}
    folder = folder if isinstance(folder, str) else folder.get("img", folder.get("img_path", ""))
    checks: list[Check] = []
    for number, name in files:
        file = Path(dataset.get("data_root") or "") / folder / name
        if number not in with_boxes:
            findings.add("image without a box", name)
        size = sizes[number] if None not in sizes[number] else None
        checks.append(lambda file=file, size=size: check_image(file, size))
    return checks


def _wrong_with_box(
    box: dict[str, Any],
    sizes: dict[Any, tuple[int, int]],
    categories: dict[Any, str],
    needs_mask: bool,
) -> Iterable[str]:
    if box.get("image_id") not in sizes:
        yield "box of an unknown image"
        return
    if box.get("category_id") not in categories:
        yield "box of an unknown category"
    if box.get("iscrowd"):
        yield "crowd box"
    elif needs_mask and not box.get("segmentation"):
        yield "object without a mask"
    numbers = box.get("bbox")
    if (
        not isinstance(numbers, list)
        or len(numbers) != 4
        or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
    ):
        yield "box that is no four numbers"
        return
    x, y, width, height = numbers
    right, bottom = sizes[box["image_id"]]
    if width <= 0 or height <= 0:
        yield "empty box"
    elif right is None or bottom is None:
        return
    elif x >= right or y >= bottom or x + width <= 0 or y + height <= 0:
        yield "box outside the image"
    elif x < -1 or y < -1 or x + width > right + 1 or y + height > bottom + 1:
        yield "box that reaches beyond the image"


def _check_samples(dataset: Any, scope: str | None, findings: Findings) -> list[Check]:
    """Check a data set of classification or segmentation by building it without a pipeline."""
    with DATASETS.switch_scope_and_registry(scope) as registry:
        try:
            built = registry.build(dict(dataset, pipeline=[], _scope_=scope))
        except Exception as error:  # each data set has errors of its own
            if isinstance(error, UserError):
                raise
            raise UserError(f"{type_name(dataset)} cannot be read: {error}") from error
    classes = built.metainfo.get("classes") or ()
    used: Counter[int] = Counter()
    checks: list[Check] = []
    for index in range(len(built)):
        info = built.get_data_info(index)
        path, mask = info.get("img_path"), info.get("seg_map_path")
        labels = np.atleast_1d(info["gt_label"]).tolist() if "gt_label" in info else []
        used.update(labels)
        for label in labels:
            if classes and not 0 <= label < len(classes):
                findings.add("class label out of range", f"{path or index}: {label}")
        if mask is not None:
            checks.append(lambda info=info: _check_mask(info, len(classes), built.ignore_index))
        elif path is not None:
            checks.append(lambda path=path: check_image(Path(path)))
    for label, name in enumerate(classes if used else ()):
        if not used[label]:
            findings.add("class without an image", str(name))
    if not len(built):
        findings.add("no images", str(dataset.get("data_root")))
    return checks


def _check_mask(info: dict[str, Any], classes: int, ignored: int) -> list[tuple[str, str]]:
    """An image and its mask of class numbers."""
    found = check_image(Path(info["img_path"]))
    path = Path(info["seg_map_path"])
    if not path.is_file():
        return [*found, ("missing mask", str(path))]
    try:
        with Image.open(path) as mask, Image.open(info["img_path"]) as image:
            labels, size = np.array(mask), image.size
    except (OSError, SyntaxError, ValueError) as error:
        return [*found, ("unreadable image", f"{path} ({error})")]
    if labels.ndim != 2:
        return [*found, ("mask in colour", f"{path} has {labels.shape[2]} channels")]
    if labels.shape[::-1] != size:
        height, width = labels.shape
        told = f"{path} has {width}x{height} pixels, its image {size[0]}x{size[1]}"
        found.append(("mask of another size than its image", told))
    values = np.unique(labels).astype(np.int64)
    for old, new in (info.get("label_map") or {}).items():
        values = np.where(values == old, new, values)
    if info.get("reduce_zero_label"):
        values = np.where(values == 0, ignored, values - 1)
        values = np.where(values == 254, ignored, values)
    unknown = values[(values != ignored) & ((values < 0) | (values >= classes))].tolist()
    if unknown:
        told = f"{path} has {unknown[:10]}; allowed are 0 to {classes - 1} and {ignored}"
        found.append(("label outside the classes", told))
    return found
