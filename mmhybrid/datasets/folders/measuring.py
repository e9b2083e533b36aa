"""Sizes of images, and boxes and outlines that can be learnt from."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from rich.progress import track

from mmhybrid.datasets.folders.labelme import embedded_image
from mmhybrid.datasets.folders.listing import Listing
from mmhybrid.datasets.folders.problems import Notes
from mmhybrid.datasets.folders.records import ImageRecord
from mmhybrid.datasets.image_files import BROKEN_FILE, opened, orientation


def measure(
    listing: Listing, splits: dict[str, list[ImageRecord]], notes: Notes
) -> dict[str, list[ImageRecord]]:
    """Fills in the sizes, from the heads of the files; without the images that have none."""
    records = list({id(one): one for part in splits.values() for one in part}.values())
    readable, masked = set(), {}
    with ThreadPoolExecutor(8) as pool:
        sizes = pool.map(lambda record: _size(listing, record), records)
        shown = track(
            sizes, "Reading sizes", len(records), transient=True, disable=len(records) < 500
        )
        for record, size in zip(records, shown, strict=True):
            if isinstance(size, str):
                notes.add("unreadable-image", f"{record.name} ({size})")
                continue
            record.width, record.height, is_turned, mask_size = size
            if is_turned:
                notes.add("exif-turned", record.name)
            told = record.annotated_size
            if told is not None and told != (record.width, record.height):
                sizes_ = f"{record.width}x{record.height}, annotated {told[0]}x{told[1]}"
                notes.add("size-differs", f"{record.name} ({sizes_})")
            if mask_size not in (None, (record.width, record.height)):
                masked[record.name] = mask_size
                sizes_ = f"{record.width}x{record.height}, mask {mask_size[0]}x{mask_size[1]}"
                notes.add("mask-size", f"{record.name} ({sizes_})")
                continue
            readable.add(id(record))
            if record.in_shares:
                _scale(record)
    return {split: [one for one in part if id(one) in readable] for split, part in splits.items()}


def _size(listing: Listing, record: ImageRecord) -> tuple[int, int, bool, Any] | str:
    """Width and height as mmcv's loader has them, whether it turns the image, size of the mask."""
    try:
        if record.embedded_in is not None:
            name = os.path.relpath(record.embedded_in, listing.root).replace(os.sep, "/")
            return *embedded_image(listing.json(name)).convert("RGB").size, False, None
        with opened(record.path) as image:
            size, turned = image.size, orientation(image)
        mask_size = None
        if record.mask is not None:
            with opened(record.mask) as mask:
                mask_size = mask.size
    except (*BROKEN_FILE, KeyError) as error:  # a LabelMe file without its image
        return type(error).__name__
    return *(size[::-1] if turned >= 5 else size), turned != 1, mask_size


def decodable(records: list[ImageRecord], notes: Notes) -> list[ImageRecord]:
    """Without the images of which OpenCV, which reads them for a model, reads nothing."""

    def is_read(record: ImageRecord) -> bool:
        try:
            return record.embedded_in is not None or (
                cv2.imdecode(np.fromfile(record.path, np.uint8), cv2.IMREAD_COLOR) is not None
            )
        except (OSError, cv2.error):
            return False

    with ThreadPoolExecutor(8) as pool:
        are_read = pool.map(is_read, records)
        many = len(records) >= 500
        shown = track(are_read, "Reading images", len(records), transient=True, disable=not many)
        kept = []
        for record, is_good in zip(records, shown, strict=True):
            if is_good:
                kept.append(record)
            else:
                notes.add("unreadable-image", f"{record.name} (cut or damaged)")
    return kept


def _scale(record: ImageRecord) -> None:
    """Makes pixels of shares."""
    size = (record.width, record.height)
    for one in record.instances:
        one.box = tuple(value * size[i % 2] for i, value in enumerate(one.box))
        one.segmentation = one.segmentation and [
            [value * size[i % 2] for i, value in enumerate(part)] for part in one.segmentation
        ]
    record.in_shares = False


def clean(records: Iterable[ImageRecord], notes: Notes, needs_outline: bool) -> None:
    """Leaves the objects whose box lies in the image; cuts boxes, checks outlines."""
    for record in records:
        kept = []
        for one in record.instances:
            one.segmentation = _outline(one.segmentation, record, notes)
            one.box = _box(one.box, one.segmentation, record, notes)
            if one.box is None:
                continue
            if needs_outline and one.segmentation is None:
                notes.add("no-outline", record.name)
                x, y, w, h = one.box
                one.segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            kept.append(one)
        record.instances = kept


def _box(box: Any, outline: Any, record: ImageRecord, notes: Notes) -> tuple | None:
    is_box = isinstance(box, list | tuple) and len(box) == 4 and all(map(_is_number, box))
    if not is_box and isinstance(outline, list):  # the file gives the outline alone
        xs, ys = ([v for part in outline for v in part[start::2]] for start in (0, 1))
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    elif not is_box:
        notes.add("bad-box", f"{record.name}: {str(box)[:60]}")
        return None
    x, y, w, h = map(float, box)
    place = f"{record.name}: {x:g}, {y:g}, {w:g}, {h:g}"
    if w <= 0 or h <= 0:
        notes.add("empty-box", place)
        return None
    left, top, right, bottom = (
        max(x, 0),
        max(y, 0),
        min(x + w, record.width),
        min(y + h, record.height),
    )
    if right <= left or bottom <= top:
        notes.add("box-outside", place)
        return None
    if right - left < 1 or bottom - top < 1:  # mmdet leaves these out without a word
        notes.add("empty-box", place)
        return None
    if max(left - x, top - y, x + w - right, y + h - bottom) > 1:
        notes.add("box-cut", place)
    return left, top, right - left, bottom - top


def _is_number(value: Any) -> bool:
    """Whether it is a coordinate: a number that no image is too small for by far."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e5


def _outline(outline: Any, record: ImageRecord, notes: Notes) -> list | dict | None:
    """Polygons with an area, or RLE in COCO's compressed form; None for anything else."""
    if outline is None:
        return None
    if isinstance(outline, dict):
        return _rle(outline, record, notes)
    parts = outline if isinstance(outline, list) else []
    parts = [parts] if parts and all(map(_is_number, parts)) else parts
    good = [
        part
        for part in parts
        if isinstance(part, list)
        and len(part) >= 6
        and not len(part) % 2
        and all(map(_is_number, part))
    ]
    if len(good) < max(1, len(parts)):
        notes.add("bad-outline", record.name)
    return good or None


def _rle(outline: dict, record: ImageRecord, notes: Notes) -> dict | None:
    size, counts = [record.height, record.width], outline.get("counts")
    try:
        if list(outline.get("size", ())) != size:
            raise ValueError("of another size")
        if isinstance(counts, list):
            if sum(counts) != size[0] * size[1] or min(counts) < 0:
                raise ValueError("of another length")
            outline = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)
        counts = outline["counts"]
        text = counts.decode() if isinstance(counts, bytes) else counts
        if not coco_mask.decode({"size": size, "counts": text}).any():
            raise ValueError("empty")
    except (ValueError, TypeError, KeyError, OverflowError, UnicodeError):
        notes.add("bad-outline", record.name)
        return None
    return {"size": size, "counts": text}


def area(outline: list | dict | None, box: tuple[float, float, float, float]) -> float:
    """Of an outline, or else of its box, in pixels."""
    if isinstance(outline, dict):
        return float(coco_mask.area(outline))
    total = 0.0
    for part in outline or ():
        x, y = np.array(part[::2]), np.array(part[1::2])
        total += abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2
    return total or box[2] * box[3]
