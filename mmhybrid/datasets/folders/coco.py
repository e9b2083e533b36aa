"""COCO JSON in any layout: COCO's own, Roboflow's, CVAT's, one file or a file a split."""

import posixpath
from collections import Counter
from typing import Any

from mmhybrid.datasets.folders.listing import Listing, split_of
from mmhybrid.datasets.folders.problems import Notes
from mmhybrid.datasets.folders.records import FolderData, ImageRecord, Instance, size_told
from mmhybrid.errors import UserError


def read_coco(listing: Listing, notes: Notes) -> FolderData | None:
    """All files that have images, annotations and categories; None where there are none."""
    files, broken = {}, []
    for name in listing.with_suffix(".json"):
        try:
            content = listing.json(name)
        except ValueError as error:
            broken.append(str(error))
            continue
        if _is_coco(content):
            files[name] = content
        elif isinstance(content, dict) and "shapes" in content:
            return None  # LabelMe's, which may be thousands of files
    if not files:
        return None
    if broken:
        raise UserError(f"an annotation file cannot be read: {broken[0]}")
    # COCO's own folder has files of key points for the same images.
    instances = {
        name: one for name, one in files.items() if "instances" in posixpath.basename(name)
    }
    splits: dict[str, dict[str, ImageRecord]] = {}
    ids: dict[str, list[Any]] = {}
    files = instances or files
    places = _places(listing, files)
    numbers = Counter(split_of(name) or "" for name in files)
    # The objects of splits of several files.
    seen = {split: set() if number > 1 else None for split, number in numbers.items()}
    for name, content in files.items():
        split = split_of(name) or ""
        records = splits.setdefault(split, {})
        told = _read_file(listing, notes, name, content, places, records, seen[split])
        for one, id_ in told.items():
            ids.setdefault(one, []).append(id_)
    listed = {name for records in splits.values() for name in records}
    for name in sorted(set(listing.images) - listed):
        notes.add("image-not-listed", name)
    data = {split: list(records.values()) for split, records in splits.items()}
    found = FolderData(listing.root, "", "COCO JSON", tuple(ids), data)
    if all(len(set(one)) == 1 and isinstance(one[0], int) for one in ids.values()):
        found.category_ids = {name: one[0] for name, one in ids.items()}
    return found


def _is_coco(content: Any) -> bool:
    keys = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in keys)


def _places(listing: Listing, files: dict[str, dict]) -> dict[tuple[str, str], str]:
    """The image of each annotation file and ``file_name``, none for two names of a file.

    Where several names would lead to one image, it belongs to those that it ends with.
    """
    rows = (
        (name, str(row.get("file_name")))
        for name, content in files.items()
        for row in content["images"]
        if isinstance(row, dict)
    )
    found = {(name, told): listing.find(told, name) for name, told in dict.fromkeys(rows)}
    names: Counter[tuple[str, str | None]] = Counter(
        (name, image) for (name, _), image in found.items()
    )

    def ends_with(image: str, told: str) -> bool:
        return f"/{image}".endswith("/" + told.replace("\\", "/").lstrip("./"))

    return {
        key: image
        for key, image in found.items()
        if image and (names[key[0], image] == 1 or ends_with(image, key[1]))
    }


def _read_file(
    listing: Listing,
    notes: Notes,
    name: str,
    content: dict,
    places: dict[tuple[str, str], str],
    records: dict[str, ImageRecord],
    before: set | None,
) -> dict[str, Any]:
    """Adds the images of a file to ``records``; returns its classes with ids, in its order.

    ``before`` has the objects of other files, and gets those of this one.
    """
    rows = {}
    for key in ("images", "annotations", "categories"):
        rows[key] = [row for row in content[key] if isinstance(row, dict)]
        for _ in range(len(content[key]) - len(rows[key])):
            notes.add("bad-line", f"{name}: an entry of {key}")
    names = {_key(row.get("id")): str(row.get("name")) for row in rows["categories"]}
    by_id: dict[Any, ImageRecord | None] = {}
    told_by_id: dict[Any, str] = {}
    for row in rows["images"]:
        told = str(row.get("file_name"))
        found = places.get((name, told))
        by_id[_key(row.get("id"))] = None
        if (other := told_by_id.setdefault(_key(row.get("id")), told)) != told:
            raise UserError(
                f"{name}: the image id {row.get('id')} is that of {other} and of {told}, so that "
                "nothing says whose the annotations are. Number the images anew, or leave the "
                "files apart that were merged"
            )
        if found is None:
            notes.add("missing-image", row.get("file_name"))
            continue
        record = records.setdefault(found, ImageRecord(found, listing.root / found))
        by_id[_key(row.get("id"))] = record
        record.annotated_size = size_told(row.get("width"), row.get("height"))
    used, own = set(), set()
    for number, row in enumerate(rows["annotations"]):
        image, category = _key(row.get("image_id")), _key(row.get("category_id"))
        place = f"{name}: annotation {row.get('id', number)}"
        if image not in by_id:
            notes.add("unknown-image", place)
        elif category not in names:
            notes.add("unknown-class", f"{place}, category {category}")
        elif (record := by_id[image]) is not None:
            used.add(category)
            box, outline = row.get("bbox"), row.get("segmentation") or None
            crowd = row.get("iscrowd") in (1, True) or row.get("ignore") in (1, True)
            instance = Instance(names[category], box, outline, crowd)
            if before is not None:
                # What two objects differ in.
                object_ = (record.name, instance.name, str(box), str(outline))
                own.add(object_)
                if object_ in before:
                    notes.add("repeated-object", place)
                    continue
            record.instances.append(instance)
    if before is not None:
        before |= own
    # Roboflow's first category is the project itself: the others belong to it.
    groups = {str(row.get("supercategory")) for row in rows["categories"]}
    kept = {key: one for key, one in names.items() if key in used or one not in groups}
    ids: dict[str, Any] = {}
    for key, one in kept.items():
        ids.setdefault(one, key)
    return ids


def _key(value: Any) -> Any:
    """An id, also one that is written as a text or as 1.0; of everything else its text."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int | float) else str(value)
