"""COCO's annotation files: images, boxes, categories."""

import difflib
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mmhybrid.datasets.check_data.contents import Contents
from mmhybrid.datasets.check_data.images import check_image
from mmhybrid.datasets.check_data.problems import Found

NOT_TRAINED = {"crowd-box", "unknown-image", "unknown-class", "bad-box", "empty-box", "box-outside"}


def read_coco(dataset: Any, classes: tuple[str, ...], header_only: bool) -> Contents:
    """The contents of a ``CocoDataset``, from its config."""
    root = Path(dataset.get("data_root") or "")
    path = root / dataset["ann_file"]
    try:
        content = json.loads(path.read_bytes())
        images, boxes = content["images"], content.get("annotations", [])
        categories = {one["id"]: one["name"] for one in content["categories"]}
        files = [(one["id"], one["file_name"]) for one in images]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{path}: {type(error).__name__} {error}"
        return Contents(found=[Found("bad-file", str(path), reason)])
    known = tuple(name for name in classes if name in categories.values())
    contents = Contents(known, unit="objects")
    found = contents.found
    if not files:
        found.append(Found("no-images", str(path)))
    found += _names_that_do_not_match(classes, list(categories.values()), path)
    folder = dataset.get("data_prefix") or {}
    folder = folder if isinstance(folder, str) else folder.get("img", folder.get("img_path", ""))
    sizes: dict[Any, tuple[int, int]] = {}
    paths: dict[Any, str] = {}
    for (number, name), image in zip(files, images, strict=True):
        place = str(root / folder / name)
        if number in sizes:
            found.append(Found("image-named-twice", place, f"id {number}, {name}"))
        sizes[number], paths[number] = (image.get("width"), image.get("height")), place
        contents.images.append(place)
    needs_mask = "'with_mask': True" in str(dataset.get("pipeline") or "").replace('"', "'")
    for one in boxes:
        image, category = one.get("image_id"), one.get("category_id")
        codes = list(_problems_of_box(one, sizes, categories, needs_mask))
        if codes:
            name, bbox = f"annotation {one.get('id')}", one.get("bbox")
            detail = f"{name} of image {image}: bbox {bbox}, category {category}"
            place = paths.get(image, f"{path}: {name}")
            found += [Found(code, place, detail) for code in codes]
        if NOT_TRAINED.isdisjoint(codes) and categories[category] in known:
            contents.counts[categories[category]] += 1
    with_boxes = {one.get("image_id") for one in boxes}
    for (number, _), place in zip(files, contents.images, strict=True):
        size = None if None in sizes[number] else sizes[number]
        contents.checks.append(partial(check_image, Path(place), size, header_only))
        if number not in with_boxes:
            found.append(Found("image-without-label", place))
    return contents


def _names_that_do_not_match(
    classes: tuple[str, ...], names: list[str], path: Path
) -> Iterator[Found]:
    for name in sorted(set(classes) - set(names)):
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; it has {close[0]!r}" if close else f", which has {names[:10]}"
        yield Found("class-not-in-file", "", f"{name!r} is not in {path}{hint}")
    for name in sorted(set(names) - set(classes)):
        yield Found("class-not-in-config", "", repr(name))


def _problems_of_box(
    box: dict, sizes: dict[Any, tuple[int, int]], categories: dict[Any, str], needs_mask: bool
) -> Iterator[str]:
    if box.get("image_id") not in sizes:
        yield "unknown-image"
        return
    if box.get("category_id") not in categories:
        yield "unknown-class"
    if box.get("iscrowd"):
        yield "crowd-box"
    elif needs_mask and not box.get("segmentation"):
        yield "no-outline"
    numbers = box.get("bbox")
    is_finite = isinstance(numbers, list) and all(
        isinstance(n, int | float) and math.isfinite(n) for n in numbers
    )
    if not is_finite or len(numbers) != 4:
        yield "bad-box"
        return
    x, y, width, height = numbers
    right, bottom = sizes[box["image_id"]]
    if width <= 0 or height <= 0:
        yield "empty-box"
    elif right is None or bottom is None:
        return
    elif x >= right or y >= bottom or x + width <= 0 or y + height <= 0:
        yield "box-outside"
    elif x < -1 or y < -1 or x + width > right + 1 or y + height > bottom + 1:
        yield "box-cut"
