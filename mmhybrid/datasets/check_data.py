"""Finds all that is wrong with the data of a config, before training."""

import difflib
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.utils import track_iter_progress
from PIL import Image

from mmhybrid.datasets.data_paths import LOADERS, classes_of, datasets_of
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name

EXAMPLES = 3
SMALLEST = 32  # pixels, of an image
ORIENTATION = 0x0112  # the tag of EXIF
# What is said of Pillow's modes; of all others but RGB nothing is known that goes wrong.
MODES = {
    "CMYK": "CMYK image",
    **dict.fromkeys(("I", "F"), "16-bit image"),
    "P": "palette image",
    **dict.fromkeys(("RGBA", "LA", "PA"), "image with transparency"),
    **dict.fromkeys(("L", "1"), "grey image"),
}

# What can be found, whether it is an error, and what training does with it.
PROBLEMS: dict[str, tuple[bool, str]] = {
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
    "mask of another size than its image": (True, "training stops, or learns wrong labels"),
    "mask in colour": (True, "labels are wrong; save class numbers in one channel"),
    "label outside the classes": (True, "training ignores these pixels and says so"),
    "class label out of range": (True, "training stops"),
    "class without an image": (True, "nothing of this class is learnt"),
    "no images": (True, "training stops"),
}

Found = tuple[str, str]  # one of PROBLEMS, and where it is
Check = Callable[[], list[Found]]


@dataclass
class Finding:
    """One of PROBLEMS, how often a data set has it, and where it was found first."""

    problem: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def is_error(self) -> bool:
        return PROBLEMS[self.problem][0]

    def __str__(self) -> str:
        severity = "ERROR" if self.is_error else "note"
        more = [f"and {self.count - EXAMPLES:,} more"] if self.count > EXAMPLES else []
        head = f"{severity:5} {self.count:8,}  {self.problem}: {PROBLEMS[self.problem][1]}"
        return ("\n" + " " * 18).join([head, *self.examples, *more])


def check_datasets(
    cfg: Config, loaders: tuple[str, ...] = LOADERS, most: int | None = None, workers: int = 4
) -> dict[str, list[Finding]]:
    """Reads everything that a complete config trains and evaluates on.

    Args:
        most (int, optional): Images to open of each data set, evenly distributed. Defaults to all.
        workers (int): Threads that open images.

    Returns:
        Findings by the name of each data set; one that two loaders share comes once.

    Raises:
        UserError: A data set cannot be built.
    """
    keys = ("type", "data_root", "ann_file", "data_prefix", "split")
    found, seen = {}, set()
    for loader, dataset in datasets_of(cfg, loaders):
        source = repr([dataset.get(key) for key in keys])
        if source not in seen:
            seen.add(source)
            name = f"{loader.removesuffix('_dataloader')}: {type_name(dataset)}"
            found.setdefault(name, [])
            found[name] += check_dataset(dataset, cfg.get("default_scope"), most, workers)
    return found


def check_dataset(
    dataset: Any, scope: str | None, most: int | None = None, workers: int = 4
) -> list[Finding]:
    """The findings of one data set: errors before notes, the most frequent first."""
    if type_name(dataset) == "CocoDataset" and dataset.get("ann_file"):
        found, checks = _check_coco(dataset, classes_of(dataset, scope))
    else:
        found, checks = _check_samples(dataset, scope)
    if most is not None and len(checks) > most:
        checks = [checks[i * len(checks) // most] for i in range(most)]
    findings: dict[str, Finding] = {}
    with ThreadPoolExecutor(workers) as pool:
        checked = pool.map(lambda check: check(), checks)
        if len(checks) > 500:
            checked = track_iter_progress((checked, len(checks)))
        for problem, example in chain(found, chain.from_iterable(checked)):
            finding = findings.setdefault(problem, Finding(problem))
            finding.count += 1
            if finding.count <= EXAMPLES:
                finding.examples.append(example)
    return sorted(findings.values(), key=lambda finding: (not finding.is_error, -finding.count))


def check_image(path: Path, size: tuple[int, int] | None = None) -> list[Found]:
    """Opens an image as far as it goes; ``size`` is the (width, height) of the annotations."""
    if not path.is_file() or path.stat().st_size == 0:
        return [("empty file" if path.is_file() else "missing image", str(path))]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                mode, shape = image.mode, image.size
                turned = image.getexif().get(ORIENTATION, 1)
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        problem = "truncated image" if "truncated" in str(error) else "unreadable image"
        return [(problem, f"{path} ({error})")]
    width, height = shape = shape[::-1] if turned >= 5 else shape
    problems = {
        MODES.get(mode.partition(";")[0]): True,  # "I;16B" is one of several
        "image turned by EXIF": turned != 1,
        "image smaller than 32 pixels": min(shape) < SMALLEST,
    }
    example = f"{path} ({mode}, {width}x{height})"
    found = [(problem, example) for problem, is_there in problems.items() if problem and is_there]
    if size is not None and size != shape:
        sizes = f"{width}x{height} pixels, the annotations say {size[0]}x{size[1]}"
        found.append(("image of another size than annotated", f"{path} has {sizes}"))
    return found


def _check_coco(dataset: Any, classes: tuple[str, ...]) -> tuple[list[Found], list[Check]]:
    root = Path(dataset.get("data_root") or "")
    path = root / dataset["ann_file"]
    try:
        content = json.loads(path.read_bytes())
        images, boxes = content["images"], content.get("annotations", [])
        categories = {one["id"]: one["name"] for one in content["categories"]}
        files = [(one["id"], one["file_name"]) for one in images]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{path}: {type(error).__name__} {error}"
        return [("annotation file that cannot be read", reason)], []
    found = [] if files else [("no images", str(path))]
    names = list(categories.values())
    for name in set(classes) - set(names):
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; it has {close[0]!r}" if close else f", which has {names[:10]}"
        example = f"{name!r} is not in {path}{hint}"
        found.append(("class of the config that the file lacks", example))
    unknown = set(names) - set(classes)
    found += [("category of the file that the config lacks", repr(name)) for name in unknown]
    sizes: dict[Any, tuple[int, int]] = {}
    for (number, name), image in zip(files, images, strict=True):
        if number in sizes:
            found.append(("image named twice", f"id {number}, {name}"))
        sizes[number] = image.get("width"), image.get("height")
    needs_mask = "'with_mask': True" in str(dataset.get("pipeline") or "").replace('"', "'")
    for one in boxes:
        example = (
            f"annotation {one.get('id')} of image {one.get('image_id')}: "
            f"bbox {one.get('bbox')}, category {one.get('category_id')}"
        )
        problems = _problems_of_box(one, sizes, categories, needs_mask)
        found += [(problem, example) for problem in problems]
    with_boxes = {one.get("image_id") for one in boxes}
    folder = dataset.get("data_prefix") or {}
    folder = folder if isinstance(folder, str) else folder.get("img", folder.get("img_path", ""))
    checks: list[Check] = []
    for number, name in files:
        size = None if None in sizes[number] else sizes[number]
        checks.append(partial(check_image, root / folder / name, size))
    found += [("image without a box", name) for number, name in files if number not in with_boxes]
    return found, checks


def _problems_of_box(
    box: dict, sizes: dict[Any, tuple[int, int]], categories: dict[Any, str], needs_mask: bool
) -> Iterator[str]:
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
    is_finite = isinstance(numbers, list) and all(
        isinstance(n, int | float) and math.isfinite(n) for n in numbers
    )
    if not is_finite or len(numbers) != 4:
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


def _check_samples(dataset: Any, scope: str | None) -> tuple[list[Found], list[Check]]:
    with DATASETS.switch_scope_and_registry(scope) as registry:
        try:
            built = registry.build(dict(dataset, pipeline=[], _scope_=scope))
        except UserError:
            raise
        except Exception as error:  # each data set has errors of its own
            raise UserError(f"{type_name(dataset)} cannot be read: {error}") from error
    classes = built.metainfo.get("classes") or ()
    used: Counter[int] = Counter()
    found = [] if len(built) else [("no images", str(dataset.get("data_root")))]
    checks: list[Check] = []
    for index in range(len(built)):
        info = built.get_data_info(index)
        path = info.get("img_path")
        for label in np.atleast_1d(info["gt_label"]).tolist() if "gt_label" in info else ():
            used[label] += 1
            if classes and not 0 <= label < len(classes):
                found.append(("class label out of range", f"{path or index}: {label}"))
        if info.get("seg_map_path") is not None:
            checks.append(partial(_check_mask, info, len(classes), built.ignore_index))
        elif path is not None:
            checks.append(partial(check_image, Path(path)))
    unused = [str(name) for label, name in enumerate(classes) if used and not used[label]]
    return found + [("class without an image", name) for name in unused], checks


def _check_mask(info: dict[str, Any], classes: int, ignored: int) -> list[Found]:
    found = check_image(Path(info["img_path"]))
    path = Path(info["seg_map_path"])
    if not path.is_file():
        return [*found, ("missing mask", str(path))]
    try:
        with Image.open(path) as mask:
            labels = np.array(mask)
    except (OSError, SyntaxError, ValueError) as error:
        return [*found, ("unreadable image", f"{path} ({error})")]
    if labels.ndim != 2:
        return [*found, ("mask in colour", f"{path} has {labels.shape[2]} channels")]
    height, width = labels.shape
    size = None
    with suppress(OSError, SyntaxError, ValueError), Image.open(info["img_path"]) as image:
        size = image.size  # of what cannot be read, check_image says so
    if size not in (None, (width, height)):
        sizes = f"{width}x{height} pixels, its image {size[0]}x{size[1]}"
        found.append(("mask of another size than its image", f"{path} has {sizes}"))
    values = np.unique(labels).astype(np.int64)
    for old, new in (info.get("label_map") or {}).items():
        values = np.where(values == old, new, values)
    if info.get("reduce_zero_label"):
        values = np.where(values == 0, ignored, values - 1)
        values = np.where(values == 254, ignored, values)
    unknown = values[(values != ignored) & ((values < 0) | (values >= classes))].tolist()
    if unknown:
        allowed = f"allowed are 0 to {classes - 1} and {ignored}"
        found.append(("label outside the classes", f"{path} has {unknown[:10]}; {allowed}"))
    return found
