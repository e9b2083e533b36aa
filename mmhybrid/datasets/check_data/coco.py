"""COCO's annotation files: images, boxes, categories."""

import difflib
import inspect
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from mmhybrid.datasets.check_data.coco_schema import ADDED, is_polygon, mend, read_json
from mmhybrid.datasets.check_data.contents import Contents
from mmhybrid.datasets.check_data.images import check_image, turns_images
from mmhybrid.datasets.check_data.problems import MENDED, Found
from mmhybrid.datasets.image_files import size_of
from mmhybrid.registry import type_of

NOT_TRAINED = {"crowd-box", "unknown-image", "unknown-class", "bad-box", "empty-box", "box-outside"}
NOT_TRAINED |= {"marked-ignore"}


def is_coco(dataset: Any, scope: str | None) -> bool:
    """Whether a data set reads one file of COCO's boxes, as mmdet's ``CocoDataset`` does."""
    found = type_of(dataset, DATASETS, scope)
    if not inspect.isclass(found):
        return False
    base = next((one for one in inspect.getmro(found) if one.__name__ == "CocoDataset"), None)
    readers = ("load_data_list", "parse_data_info", "filter_data")
    return (
        base is not None
        and isinstance(dataset.get("ann_file"), str)
        and bool(dataset["ann_file"])
        and all(getattr(found, name) is getattr(base, name) for name in readers)
    )


def read_coco(dataset: Any, classes: tuple[str, ...], header_only: bool) -> Contents:
    """The contents of a ``CocoDataset``, from its config; ``mended`` where the file needs it."""
    root = Path(dataset.get("data_root") or "")
    path = root / dataset["ann_file"]
    folder = dataset.get("data_prefix") or {}
    folder = folder if isinstance(folder, str) else folder.get("img", folder.get("img_path", ""))
    place, turns = {}, turns_images(dataset)

    def name_of(part: str, row: dict[str, Any]) -> str:
        if part == "annotations":
            return place.get(row.get("image_id"), f"{path}: annotation {row.get('id')}")
        return str(root / folder / str(row.get("file_name"))) if part == "images" else str(path)

    try:
        content, found = read_json(path)
        place = {
            row.get("id"): str(root / folder / str(row.get("file_name")))
            for row in content["images"]
            if isinstance(row, dict) and isinstance(row.get("id"), int | str)
        }
        found += mend(content, classes, name_of, lambda name: size_of(root / folder / name, turns))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{path}: {type(error).__name__} {error}"
        return Contents(found=[Found("bad-file", str(path), reason)])
    images, boxes = content["images"], content["annotations"]
    added = {one["name"] for one in content["categories"] if one.get("supercategory") == ADDED}
    names = [one["name"] for one in content["categories"]]
    is_mended = bool(added) or any(one.code in MENDED for one in found)
    found += _names_that_do_not_match(classes, names, path, added)
    known = tuple(name for name in classes if name in {*names} - added)
    contents = Contents(known, names=classes, found=found, unit="objects")
    contents.mended = content if is_mended else None
    if not images:
        found.append(Found("no-images", str(path)))
    sizes: dict[Any, tuple[int, int]] = {}
    for one in images:
        number, file = one["id"], name_of("images", one)
        if number in sizes:
            found.append(Found("image-named-twice", file, f"id {number}, {one['file_name']}"))
        sizes[number] = (one["width"], one["height"])
        place[number] = file
        contents.images.append(file)
    categories = {one["id"]: one["name"] for one in content["categories"]}
    needs_mask = "'with_mask': True" in str(dataset.get("pipeline") or "").replace('"', "'")
    for one in boxes:
        image, category = one["image_id"], one["category_id"]
        codes = list(_problems_of_box(one, sizes, categories, needs_mask))
        if codes:
            name = f"annotation {one['id']}"
            detail = f"{name} of image {image}: bbox {one['bbox']}, category {category}"
            file = place.get(image, f"{path}: {name}")
            found += [Found(code, file, detail) for code in codes]
        if NOT_TRAINED.isdisjoint(codes) and categories[category] in known:
            contents.counts[categories[category]] += 1
    with_boxes = {one["image_id"] for one in boxes}
    with_classes = {one["image_id"] for one in boxes if categories.get(one["category_id"]) in known}
    for one, file in zip(images, contents.images, strict=True):
        size = tuple(map(int, sizes[one["id"]]))
        contents.checks.append(partial(check_image, Path(file), size, header_only, turns))
        if one["id"] not in with_boxes:
            found.append(Found("image-without-label", file))
    options = {} if dataset.get("test_mode") else dataset.get("filter_cfg") or {}
    kept = [one for one in images if min(sizes[one["id"]]) >= options.get("min_size", 0)]
    kept_ids = {one["id"] for one in kept}
    found += [
        Found("image-left-out", name_of("images", one))
        for one in images
        if one["id"] not in kept_ids
    ]
    without = len(kept_ids - with_classes) if options.get("filter_empty_gt") else 0
    if boxes and not contents.counts and without < len(kept_ids):
        found.append(Found("no-objects", str(path), f"of {len(boxes):,}"))
    if images and without == len(kept_ids):
        own = [name for name in names if name not in added]
        told = f"of {len(images):,} images none is left: {without:,} have no object of the classes"
        told = f"{told} {list(classes[:10])}, where the file has {own[:10]}"
        found.append(Found("no-images", str(path), told))
    return contents


def _names_that_do_not_match(
    classes: tuple[str, ...], names: list[str], path: Path, added: set[str]
) -> Iterator[Found]:
    own = [name for name in names if name not in added]
    for name in sorted(added | (set(classes) - set(names))):
        close = difflib.get_close_matches(name, own, n=1)
        hint = f"; it has {close[0]!r}" if close else f", which has {own[:10]}"
        yield Found("class-not-in-file", "", f"{name!r} is not in {path}{hint}")
    for name in sorted(set(own) - set(classes)):
        yield Found("class-not-in-config", "", repr(name))


def _problems_of_box(
    box: dict, sizes: dict[Any, tuple[int, int]], categories: dict[Any, str], needs_mask: bool
) -> Iterator[str]:
    if box["image_id"] not in sizes:
        yield "unknown-image"
        return
    if box["category_id"] not in categories:
        yield "unknown-class"
    if box["iscrowd"]:
        yield "crowd-box"
    elif box.get("ignore"):
        yield "marked-ignore"
    elif needs_mask:
        yield from _problems_of_outline(box.get("segmentation"), sizes[box["image_id"]])
    x, y, width, height = box["bbox"]
    if not all(map(math.isfinite, box["bbox"])):
        yield "bad-box"
        return
    right, bottom = sizes[box["image_id"]]
    if width < 1 or height < 1 or box["area"] <= 0:
        yield "empty-box"
    elif x >= right or y >= bottom or x + width <= 0 or y + height <= 0:
        yield "box-outside"
    elif x < -1 or y < -1 or x + width > right + 1 or y + height > bottom + 1:
        yield "box-cut"


def _problems_of_outline(outline: Any, size: tuple[int, int]) -> Iterator[str]:
    """As mmdet's ``LoadAnnotations`` and pycocotools take it."""
    if not outline:
        yield "no-outline"
    elif isinstance(outline, list):
        if not all(map(is_polygon, outline)):
            yield "bad-outline"
    else:
        counts = outline.get("counts") if isinstance(outline, dict) else None
        good = isinstance(counts, str) or (
            isinstance(counts, list)
            and all(isinstance(one, int) for one in counts)
            and sum(counts) == size[0] * size[1]
        )
        if not good or list(outline.get("size") or ()) != [int(size[1]), int(size[0])]:
            yield "bad-outline"
