"""LabelMe JSON: a file an image, with the image beside it or in it."""

import base64
import io
import math
import posixpath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mmhybrid.datasets.folders.listing import Listing, folder_split, stem
from mmhybrid.datasets.folders.problems import Notes
from mmhybrid.datasets.folders.records import FolderData, ImageRecord, Instance, size_told

CORNERS = 24  # of the polygon that a circle becomes


def read_labelme(listing: Listing, notes: Notes) -> FolderData | None:
    """Every JSON file that has ``shapes``; None where there is none."""
    splits: dict[str, list[ImageRecord]] = {}
    broken, labelled = [], set()
    for name in listing.with_suffix(".json"):
        try:
            content = listing.json(name)
        except ValueError as error:
            broken.append(str(error))
            continue
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            continue
        record = _record(listing, name, content)
        if record is None:
            notes.add("label-without-image", name)
            continue
        if record.embedded_in:
            notes.add("embedded-image", name)
        labelled.add(record.name)
        record.annotated_size = size_told(content.get("imageWidth"), content.get("imageHeight"))
        record.instances = _instances(name, content["shapes"], notes, record.annotated_size)
        splits.setdefault(folder_split(name) or "", []).append(record)
    if not splits:
        return None
    for place in broken:
        notes.add("bad-file", place)
    for image in sorted(set(listing.images) - labelled):
        notes.add("image-without-label", image)
    used = {
        one.name for records in splits.values() for record in records for one in record.instances
    }
    return FolderData(listing.root, "", "LabelMe JSON", tuple(sorted(used)), splits)


def _record(listing: Listing, name: str, content: dict) -> ImageRecord | None:
    base = posixpath.splitext(name)[0]
    beside = [
        one for one in listing.by_stem.get(stem(name), []) if posixpath.splitext(one)[0] == base
    ]
    path = str(content.get("imagePath") or "")
    found = beside[0] if len(beside) == 1 else listing.find(path, name) if path else None
    if found:
        return ImageRecord(found, listing.root / found)
    if isinstance(content.get("imageData"), str):
        return ImageRecord(f"{base}.png", listing.root / name, embedded_in=listing.root / name)
    return None


def embedded_image(content: dict) -> Image.Image:
    """The image in a file; ``ValueError`` or ``OSError`` where it is none."""
    return Image.open(io.BytesIO(base64.b64decode(content["imageData"])))


def _instances(
    name: str, shapes: list[Any], notes: Notes, size: tuple[int, int] | None
) -> list[Instance]:
    """Shapes with an area; those of one ``group_id`` and label are one object."""
    instances: dict[Any, Instance] = {}
    for number, shape in enumerate(shapes):
        place = f"{name}: shape {number}"
        try:
            label, type_ = str(shape["label"]), shape.get("shape_type") or "polygon"
            points = [(float(x), float(y)) for x, y in shape["points"]]
            group = shape.get("group_id")
            if not all(abs(value) < 1e5 for point in points for value in point):
                raise ValueError("far away")
        except (KeyError, TypeError, ValueError, AttributeError):
            notes.add("bad-line", place)
            continue
        if type_ == "mask" and len(points) == 2 and size is not None:
            segmentation = _mask(shape.get("mask"), points[0], size)
            if segmentation is not None:
                box = tuple(map(float, coco_mask.toBbox(segmentation)))
                instances[number, "mask"] = Instance(label, box, segmentation)
                continue
        outline = _outline(type_, points)
        if not outline:
            notes.add("dropped-shape", f"{place}, {type_} with {len(points)} points")
            continue
        flat = [value for point in outline for value in point]
        key = (group, label) if isinstance(group, int) else (number, "shape")
        if key in instances:
            instances[key].segmentation.append(flat)
        else:
            instances[key] = Instance(label, None, [flat])
    for one in instances.values():
        if one.box is None:
            xs, ys = (
                [value for part in one.segmentation for value in part[start::2]] for start in (0, 1)
            )
            one.box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    return list(instances.values())


def _outline(type_: str, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The polygon of a shape; empty where it has none."""
    if type_ == "rectangle" and len(points) == 2:
        (x, y), (right, bottom) = points
        return [(x, y), (right, y), (right, bottom), (x, bottom)]
    if type_ in ("polygon", "rectangle") and len(points) >= 3:
        return points
    if type_ == "circle" and len(points) == 2:
        (x, y), radius = points[0], math.dist(*points)
        turns = (2 * math.pi * i / CORNERS for i in range(CORNERS))
        return [(x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns]
    return []


def _mask(text: Any, corner: tuple[float, float], size: tuple[int, int]) -> dict | None:
    """RLE of a mask that is an image of its own, at a corner."""
    try:
        part = np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("L")) > 0
    except (TypeError, ValueError, OSError):
        return None
    left, top = (max(0, round(value)) for value in corner)
    whole = np.zeros(size[::-1], np.uint8, order="F")
    room = whole[top : top + part.shape[0], left : left + part.shape[1]]
    room[:] = part[: room.shape[0], : room.shape[1]]
    return coco_mask.encode(whole) if whole.any() else None
