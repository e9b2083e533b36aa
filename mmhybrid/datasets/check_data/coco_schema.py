"""What readers of COCO's annotations index, as a schema, and what of it can be mended.

``pycocotools.COCO``, mmdet's ``CocoDataset`` and ``COCOeval`` take each of these fields for
granted: one that is missing, or that is a text, stops a run in the first batch or in the first
evaluation.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mmhybrid.datasets.check_data.problems import Found

Id = int | str
ADDED = "(not in the file)"  # supercategory of a category that only keeps the labels in order


class Image(msgspec.Struct):
    """An entry of ``images``."""

    id: Id
    file_name: str
    width: float
    height: float


class Category(msgspec.Struct):
    """An entry of ``categories``."""

    id: Id
    name: str


class Annotation(msgspec.Struct):
    """An entry of ``annotations``."""

    id: int
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int | bool


SCHEMA = {"images": Image, "categories": Category, "annotations": Annotation}
FIELDS = {
    part: {one.name: one.type for one in msgspec.structs.fields(entry)}
    for part, entry in SCHEMA.items()
}


def read_json(path: Path) -> tuple[dict[str, Any], list[Found]]:
    """The content of an annotation file, and whether a byte-order mark stands before it.

    Raises:
        OSError, ValueError, KeyError, TypeError: It is none of COCO's.
    """
    raw = path.read_bytes()
    content = json.loads(raw.decode("utf-8-sig"))
    for part in ("images", "categories"):
        if not isinstance(content[part], list):
            raise TypeError(f"{part} is no list")
    if not isinstance(content.setdefault("annotations", []), list):
        raise TypeError("annotations is no list")
    marked = raw.startswith(b"\xef\xbb\xbf")
    return content, [Found("byte-order-mark", str(path))] if marked else []


def mend(
    content: dict[str, Any],
    classes: Sequence[str],
    name_of: Callable[[str, dict[str, Any]], str],
    size_of: Callable[[str], tuple[int, int] | None],
) -> Iterator[Found]:
    """Mends what can be mended without guessing, in place; entries that cannot be used go.

    Fields: ``area`` is that of the outline or else of the box, ``iscrowd`` 0, ``id`` of an
    annotation the next that is free, width and height those of the image. Numbers that are written
    as text become numbers, outlines that are written as pairs or without their inner list become
    lists of lists, and categories take the order of the classes, which gives them their labels.

    Args:
        content (dict): As :func:`read_json` gives it.
        classes (Sequence[str]): Names, in the order of their labels.
        name_of (Callable): The image of an entry, or the file and the entry, to be told.
        size_of (Callable): Width and height of an image file, or None.

    Yields:
        What was found, mended or not.

    Raises:
        ValueError: An image or a category cannot be used.
    """
    for part, fields in FIELDS.items():
        kept, is_right = [], _fits(content[part], part)
        for number, row in enumerate(content[part]):
            if not isinstance(row, dict):
                yield Found("bad-entry", f"{part}[{number}]", f"{part}[{number}] is {row!r:.40}")
                continue
            bad = False
            if part == "annotations" and (outline := mended_outline(row.get("segmentation"))):
                row["segmentation"] = outline
                yield Found("flat-outline", name_of(part, row))
            for field, type_ in () if is_right else fields.items():
                code, detail = _mend_field(part, row, field, type_, size_of)
                if code == "bad-entry" and part != "annotations":
                    raise ValueError(f"{part}[{number}]: {detail}")
                if code:
                    where = name_of(part, row)
                    yield Found(code, where, f"{where}: {detail}")
                bad |= code in ("bad-entry", "bad-box")
            if not bad:
                kept.append(row)
        content[part] = kept
    yield from _mend_ids(content["annotations"], name_of)
    yield from _mend_order(content, classes)


def _fits(rows: list[Any], part: str) -> bool:
    """Whether no entry has to be looked at by itself: most files are right, and large."""
    try:
        msgspec.convert(rows, list[SCHEMA[part]])
    except msgspec.ValidationError:
        return False
    ids = (row.get(key) for row in rows for key in ("id", "image_id", "category_id"))
    return not any(isinstance(one, str) for one in ids)


def _mend_field(
    part: str, row: dict[str, Any], field: str, type_: Any, size_of: Callable
) -> tuple[str, str]:
    """Mends a field; a code of ``PROBLEMS`` and what to say, or two empty texts."""
    value = row.get(field)
    if value is None:
        value = _known(part, row, field, size_of)
        if value is None:
            code = "bad-box" if field == "bbox" else "bad-entry"
            return code, f"{part} without {field}"
        row[field] = value
        return "missing-field", f"{part} without {field}"
    if isinstance(value, str) and type_ is Id and value.strip().isdecimal():
        row[field] = int(value)  # or it would not be the id that is written as a number elsewhere
        return "number-as-text", f"{field}={value!r}"
    try:
        msgspec.convert(value, type_)
        return "", ""
    except msgspec.ValidationError as error:
        try:
            row[field] = msgspec.to_builtins(msgspec.convert(value, type_, strict=False))
            if isinstance(row[field], tuple):
                row[field] = list(row[field])
        except msgspec.ValidationError:
            if (part, field) == ("annotations", "id"):
                row.pop("id")  # anything but a number: nothing refers to it
                return "missing-field", f"{part} whose id is {value!r:.40}"
            code = "bad-box" if field == "bbox" else "bad-entry"
            return code, f"{field}={value!r:.60} ({str(error).partition(' - ')[0]})"
    return "number-as-text", f"{field}={value!r:.60}"


def _known(part: str, row: dict[str, Any], field: str, size_of: Callable) -> Any:
    """The value of a missing field, where it is known."""
    if field in ("width", "height") and isinstance(row.get("file_name"), str):
        size = size_of(row["file_name"])
        return size and size[field == "height"]
    if part != "annotations":
        return None
    if field == "area":
        return _area(row)
    return {"iscrowd": 0, "id": -1}.get(field)  # -1 is made another below


def _area(row: dict[str, Any]) -> float | None:
    """Of the polygons of an object, or else of its box."""
    total = 0.0
    for part in _polygons(row.get("segmentation")):
        x, y = part[::2], part[1::2]
        total += abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))) / 2
    if total:
        return total
    try:
        _, _, width, height = msgspec.convert(
            row.get("bbox"), FIELDS["annotations"]["bbox"], strict=False
        )
    except msgspec.ValidationError:
        return 0.0  # the box is told
    return width * height


def _polygons(outline: Any) -> list[list[float]]:
    """Those parts of an outline that mmdet takes."""
    return [one for one in outline if is_polygon(one)] if isinstance(outline, list) else []


def is_polygon(part: Any) -> bool:
    """Whether mmdet takes a part of an outline: x and y of three points at least."""
    return (
        isinstance(part, list)
        and len(part) >= 6
        and len(part) % 2 == 0
        and all(isinstance(one, int | float) for one in part)
    )


def mended_outline(outline: Any) -> list[list[float]] | None:
    """Polygons, of an outline that is one without its list, or points as pairs; else None."""
    if not isinstance(outline, list) or not outline:
        return None
    parts = [outline] if is_polygon(outline) or _are_pairs(outline) else outline
    mended = [[v for x_y in one for v in x_y] if _are_pairs(one) else one for one in parts]
    return mended if mended != outline and all(map(is_polygon, mended)) else None


def _are_pairs(points: Any) -> bool:
    return (
        isinstance(points, list)
        and len(points) >= 3
        and all(
            isinstance(one, list)
            and len(one) == 2
            and all(isinstance(value, int | float) for value in one)
            for one in points
        )
    )


def _mend_ids(annotations: list[dict[str, Any]], name_of: Callable) -> Iterator[Found]:
    """Gives each annotation an id of its own; COCOeval takes one of 0 for no object at all."""
    seen: set[int] = set()
    free = max([0, *(row.get("id", 0) for row in annotations)]) + 1
    for row in annotations:
        now = row.get("id", -1)
        if now in seen or now in (0, -1):
            if now != -1:
                where = name_of("annotations", row)
                yield Found("repeated-id", where, f"{where}: id {now}")
            row["id"], free = free, free + 1
        seen.add(row["id"])


def _mend_order(content: dict[str, Any], classes: Sequence[str]) -> Iterator[Found]:
    """Sorts the categories as the classes are: mmdet numbers labels as the file has them.

    Of classes that the file lacks it gets a category, so that those after them keep their labels.
    """
    rows = content["categories"]
    names = [row["name"] for row in rows]
    for name in sorted({name for name in names if names.count(name) > 1} & {*classes}):
        yield Found("class-named-twice", "", repr(name))
    known = [name for name in names if name in set(classes)]
    expected = [name for name in classes if name in set(names)]
    if known != expected and len(known) == len(set(known)):
        told = f"the file has {known[:5]}, the classes are {expected[:5]}"
        yield Found("category-order", "", told)
    if not known:
        return
    free = max([0, *(row["id"] for row in rows if isinstance(row["id"], int))]) + 1
    for name in classes:
        if name not in names:
            rows.append(dict(id=free, name=name, supercategory=ADDED))
            free += 1
    place = {name: i for i, name in enumerate(classes)}
    rows.sort(key=lambda row: place.get(row["name"], len(place)))
