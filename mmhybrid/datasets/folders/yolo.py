"""YOLO: a text file an image, boxes or polygons as shares of its size; also as CVAT exports it."""

import math
import posixpath
from typing import Any

from mmhybrid.datasets.folders.class_table import read_class_names
from mmhybrid.datasets.folders.listing import Listing, folder_split, split_named, stem
from mmhybrid.datasets.folders.problems import Notes
from mmhybrid.datasets.folders.records import FolderData, ImageRecord, Instance
from mmhybrid.errors import UserError


def read_yolo(listing: Listing, notes: Notes) -> FolderData | None:
    """``data.yaml``, ``obj.data`` or nothing but label files; None where none of them is."""
    about, format_ = _read_about(listing)
    texts: dict[str, list[str]] = {}
    for name in listing.with_suffix(".txt"):
        texts.setdefault(stem(name), []).append(name)
    labels = {image: _label_file(listing, image) for image in listing.images}
    files = {name for name in labels.values() if name}
    claims: dict[str, list[str]] = {}
    for image in [image for image, name in labels.items() if name is None]:
        if only := _only_file(image, texts, files):
            claims.setdefault(only, []).append(image)
    for name, images in claims.items():
        # Of several images that with the folder of the file: img/1/0.jpg and txt/1/0.txt.
        nearest = [one for one in images if _folder(one) == _folder(name)]
        nearest = images if len(images) == 1 else nearest
        if len(nearest) == 1:
            labels[nearest[0]] = name
        else:
            notes.add("ambiguous-image", name)
            for image in images:
                del labels[image]
    files = {name for name in labels.values() if name}
    if not about and not any(_looks_right(listing, name) for name in sorted(files)[:5]):
        return None
    if not files:
        return None
    names = _names(listing, about)
    splits = _splits(listing, notes, about)
    data: dict[str, list[ImageRecord]] = {}
    for split, images in splits.items():
        for image in (one for one in images if one in labels):
            record = ImageRecord(image, listing.root / image, in_shares=True)
            if labels[image]:
                key_points = "kpt_shape" in about
                record.instances = _read_labels(listing, notes, labels[image], names, key_points)
            else:
                notes.add("image-without-label-file", image)
            data.setdefault(split, []).append(record)
    for name in sorted(set(listing.images) - {one for images in splits.values() for one in images}):
        notes.add("image-without-split", name)
    for name in _without_image(listing, files):
        notes.add("label-without-image", name)
    used = {one.name for records in data.values() for record in records for one in record.instances}
    classes = names.values() if names else sorted(used, key=lambda one: (len(one), one))
    return FolderData(listing.root, "", format_, tuple(dict.fromkeys(classes)), data)


def _read_about(listing: Listing) -> tuple[dict[str, Any], str]:
    """What ``data.yaml`` or ``obj.data`` says, with its own path at ``""``."""
    candidates = listing.with_suffix(".yaml", ".yml")
    for name in sorted(candidates, key=lambda one: (one.count("/"), one)):
        try:
            content = listing.yaml(name)
        except ValueError as error:
            if stem(name) in ("data", "dataset"):
                raise UserError(f"a data set's file cannot be read: {error}") from error
            continue
        if isinstance(content, dict) and content.keys() & {"names", "train", "val"}:
            return content | {"": name}, f"YOLO, {posixpath.basename(name)}"
    for name in listing.named("obj.data"):
        pairs = (line.partition("=") for line in listing.lines(name) if "=" in line)
        content = {key.strip(): value.strip() for key, _, value in pairs}
        return content | {"": name}, "YOLO, obj.data"
    return {}, "YOLO, label files"


def _names(listing: Listing, about: dict[str, Any]) -> dict[int, str]:
    """Names by number; empty where nothing names them."""
    names = about.get("names")
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    if isinstance(names, dict):
        try:
            return {int(number): str(name) for number, name in sorted(names.items())}
        except (ValueError, TypeError) as error:
            told = f"{about['']}: names must be a list, or names by number, not {names}"
            raise UserError(told) from error
    for name in listing.named(
        "classes.txt", "obj.names", "names.txt", "labels.txt", "_darknet.labels"
    ):
        return read_class_names(listing, name)
    return {}


def _splits(listing: Listing, notes: Notes, about: dict[str, Any]) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    home = posixpath.dirname(about.get("", ""))
    for key, entry in about.items():
        if key not in ("train", "val", "valid", "validation", "test") or not entry:
            continue
        images: dict[str, None] = {}
        for one in entry if isinstance(entry, list) else [entry]:
            bases = [posixpath.join(home, str(about.get("path") or "")), home, ""]
            place = listing.place(str(one), bases)
            if place in listing.known:
                found = [listing.find(line, place) for line in listing.lines(place) if line]
                images |= dict.fromkeys(image for image in found if image)
                for _ in range(found.count(None)):
                    notes.add("missing-image", f"of {place}")
            elif place is not None:
                below = f"{place}/" if place else ""
                images |= dict.fromkeys(one for one in listing.images if one.startswith(below))
            else:
                notes.add("split-missing", f"{about['']}: {key}: {one}")
        if images:
            splits[split_named(key)] = list(images)
    if splits.get("val") and set(splits["val"]) <= set(splits.get("train", ())):
        told = f"{about['']} names the same images for training and validation: split anew"
        notes.say("same-split", "warning", told, splits.pop("val"))
    if not splits:
        for image in listing.images:
            splits.setdefault(folder_split(image) or "", []).append(image)
    return splits


def _label_file(listing: Listing, image: str) -> str | None:
    """The text file of an image: in ``labels/`` for ``images/``, or beside it."""
    base = posixpath.splitext(image)[0]
    head, sep, tail = f"/{base}".rpartition("/images/")
    candidates = [f"{head}/labels/{tail}.txt".lstrip("/")] if sep else []
    return next((one for one in [*candidates, f"{base}.txt"] if one in listing.known), None)


def _only_file(image: str, texts: dict[str, list[str]], taken: set[str]) -> str | None:
    """The only text file of an image's name and split: of another case, or in another folder."""
    found = [one for one in texts.get(stem(image), []) if folder_split(one) == folder_split(image)]
    return found[0] if len(found) == 1 and found[0] not in taken else None


def _folder(name: str) -> str:
    return posixpath.basename(posixpath.dirname(name))


def _without_image(listing: Listing, used: set[str]) -> list[str]:
    """Files beside label files that are read as such, but belong to no image."""
    folders = {posixpath.dirname(name) for name in used}
    return [
        name
        for name in listing.with_suffix(".txt")
        if name not in used
        and posixpath.dirname(name) in folders
        and stem(name) not in listing.by_stem
        and _looks_right(listing, name)
    ]


def _looks_right(listing: Listing, name: str) -> bool:
    """Whether the first line of a file is one of a label file."""
    words = next((line.split() for line in listing.lines(name) if line), [])
    try:
        values = [float(word) for word in words]
    except ValueError:
        return False
    return len(values) >= 5 and values[0].is_integer() and all(-0.5 < v < 1.5 for v in values[1:])


def _read_labels(
    listing: Listing, notes: Notes, name: str, names: dict[int, str], key_points: bool
) -> list[Instance]:
    """The objects of a file, in shares of the image's size."""
    instances = []
    for number, line in enumerate(listing.lines(name), 1):
        try:
            label, *values = [float(word) for word in line.split()]
        except ValueError:
            if line:
                notes.add("bad-line", f"{name}:{number}")
            continue
        values = values[:4] if key_points else values
        is_right = len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)
        if not is_right or not label.is_integer() or not all(map(math.isfinite, values)):
            notes.add("bad-line", f"{name}:{number}")
        elif names and int(label) not in names:
            notes.add("unknown-class", f"{name}:{number}, class {int(label)}")
        else:
            class_ = names.get(int(label), f"class {int(label)}")
            if len(values) == 4:
                x, y, w, h = values
                instances.append(Instance(class_, (x - w / 2, y - h / 2, w, h)))
            else:
                xs, ys = values[::2], values[1::2]
                box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
                instances.append(Instance(class_, box, [values]))
    return instances
