"""What mmdet, mmseg and mmpretrain read, written once into a work folder."""

import colorsys
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from rich.progress import track

from mmhybrid.datasets.findings import Finding
from mmhybrid.datasets.folders.labelme import embedded_image
from mmhybrid.datasets.folders.listing import decoded
from mmhybrid.datasets.folders.masks import VOID, read_mask
from mmhybrid.datasets.folders.measuring import area
from mmhybrid.datasets.folders.reading import count_classes
from mmhybrid.datasets.folders.records import ABOUT, IGNORED, FolderData, ImageRecord
from mmhybrid.datasets.prepared_data import PreparedData
from mmhybrid.datasets.whole_files import write_whole
from mmhybrid.errors import UserError


def write_dataset(data: FolderData, work_dir: str | Path) -> PreparedData:
    """Writes annotation files and masks to ``WORK_DIR/data``; images stay where they are.

    A split of ours that is there already is kept: images that are new are trained on, and
    ``data`` is changed accordingly.

    Raises:
        UserError: What is there was written from other classes or for another task.
    """
    out = Path(work_dir).resolve() / "data"
    out.mkdir(parents=True, exist_ok=True)
    old = _read_about(work_dir)
    if old:
        _keep(data, old, out)
    records = [record for part in data.splits.values() for record in part]
    embedded = [one for one in records if one.embedded_in is not None]
    for record in embedded:
        _write_embedded(record, out / "images" / record.name)
    root = Path(os.path.commonpath([data.folder, out])) if embedded else data.folder
    names = {id(one): os.path.relpath(one.path, root).replace(os.sep, "/") for one in records}
    ann_files = {}
    for split, part in data.splits.items():
        if data.task in ("detection", "instances"):
            name, text = f"{split}.json", json.dumps(_coco(part, names, data.classes))
        else:
            name, text = f"{split}.txt", "".join(_line(one, names, data.classes) for one in part)
        write_whole(out / name, text.encode())
        ann_files[split] = str(out / name)
    values = {str(value): name for value, name in data.values.items()}
    if data.task == "segmentation":
        paths = {key: out / "masks" / f"{name}.png" for key, name in names.items()}
        _write_masks(data, records, paths, is_same=bool(old) and old["values"] == values)
    prepared = PreparedData(
        data.task,
        data.classes,
        data.palette or _palette(len(data.classes)),
        image_root=str(root),
        ann_files={"test": ann_files["val"]} | ann_files,
        images={split: len(part) for split, part in data.splits.items()},
        counts={split: count_classes(part, data.task) for split, part in data.splits.items()},
        mask_root=str(out / "masks") if data.task == "segmentation" else None,
        category_ids=_ids(data),
        format=data.format,
    )
    splits = {split: [one.name for one in part] for split, part in data.splits.items()}
    about = dict(splits=splits, own_split=data.own_split, values=values, prepared=asdict(prepared))
    write_whole(Path(work_dir) / ABOUT, json.dumps(about, indent=1).encode())
    return prepared


def _ids(data: FolderData) -> list[int]:
    """Ids of the classes, if all have one of their own."""
    ids = [data.category_ids.get(name) for name in data.classes]
    has_all = data.task != "segmentation" and None not in ids and len(set(ids)) == len(ids)
    return ids if has_all else []


def read_prepared(work_dir: str | Path) -> PreparedData:
    """What ``write_dataset`` returned for this work folder.

    Raises:
        UserError: Nothing was written there.
    """
    about = _read_about(work_dir)
    if about is None:
        raise UserError(f"{work_dir} has no {ABOUT}: it was not prepared from a folder")
    content = dict(about["prepared"])
    content["classes"] = tuple(content["classes"])
    content["palette"] = [tuple(colour) for colour in content["palette"]]
    return PreparedData(**content)


def _read_about(work_dir: str | Path) -> dict[str, Any] | None:
    path = Path(work_dir) / ABOUT
    if not path.is_file():
        return None
    try:
        about = json.loads(path.read_text())
        assert about["prepared"]["classes"]
        return about
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(
            f"{path} cannot be read: delete it, and the data are prepared anew"
        ) from error


def _keep(data: FolderData, about: dict[str, Any], out: Path) -> None:
    """Takes the split that was written before, where it was ours."""
    before = about["prepared"]
    for key, now in (("task", data.task), ("classes", list(data.classes))):
        if before[key] != now:
            raise UserError(
                f"{out} was prepared for the {key} {before[key]}, and now it would be {now}. "
                "Choose another work folder, or delete this one"
            )
    if not (data.own_split and about["own_split"]):
        return
    split_of = {name: split for split, names in about["splits"].items() for name in names}
    records = [record for part in data.splits.values() for record in part]
    new = [one.name for one in records if one.name not in split_of]
    gone = sorted(split_of.keys() - {one.name for one in records})
    data.splits = {split: [] for split in about["splits"]}
    for record in sorted(records, key=lambda one: one.name):
        data.splits[split_of.get(record.name, "train")].append(record)
    if not (data.splits["train"] and data.splits["val"]):
        raise UserError(
            f"{out} was prepared from other images than those of {data.folder}. Choose another "
            "work folder, or delete this one"
        )
    if new:
        told = f"images that are new since the split was made, trained on: {len(new):,}"
        data.findings.append(Finding("new-image", "info", told, new))
    if gone:
        told = f"images of the split that are no longer there: {len(gone):,}"
        data.findings.append(Finding("gone-image", "warning", told, gone))


def _coco(
    records: list[ImageRecord], names: dict[int, str], classes: tuple[str, ...]
) -> dict[str, Any]:
    ids = {name: number for number, name in enumerate(classes, 1)}
    images, annotations = [], []
    for number, record in enumerate(records, 1):
        size = dict(width=record.width, height=record.height)
        images.append(dict(id=number, file_name=names[id(record)], **size))
        for one in record.instances:
            row = dict(id=len(annotations) + 1, image_id=number, category_id=ids[one.name])
            row |= dict(bbox=list(one.box), area=area(one.segmentation, one.box))
            row |= dict(iscrowd=int(one.crowd), segmentation=one.segmentation or [])
            annotations.append(row)
    # mmdet's coco_error_analysis asks for a supercategory.
    categories = [dict(id=ids[name], name=name, supercategory="none") for name in ids]
    return dict(images=images, annotations=annotations, categories=categories)


def _line(record: ImageRecord, names: dict[int, str], classes: tuple[str, ...]) -> str:
    """An image's line of a list, with its label, if it has one."""
    name = names[id(record)]
    name = f"./{name}" if name[0].isspace() else name  # readers strip the line
    label = "" if record.label is None else f" {classes.index(record.label)}"
    return f"{name}{label}\n"


def _write_masks(
    data: FolderData, records: list[ImageRecord], paths: dict[int, Path], is_same: bool
) -> None:
    """``is_same``: masks that are there and newer than what they were made of are right."""
    labels = {name: label for label, name in enumerate(data.classes)}
    table = {value: labels.get(name, IGNORED) for value, name in data.values.items()}

    def write(record: ImageRecord) -> None:
        path = paths[id(record)]
        if record.mask is None:
            mask = _draw(record, labels)
        elif is_same and path.exists() and path.stat().st_mtime > record.mask.stat().st_mtime:
            return
        else:
            mask = _renumber(read_mask(record.mask, data.in_colour), table)
        buffer = io.BytesIO()
        Image.fromarray(mask).save(buffer, "PNG")
        write_whole(path, buffer.getvalue())

    with ThreadPoolExecutor(4) as pool:
        done = pool.map(write, records)
        many = len(records) >= 200
        list(track(done, "Writing masks", len(records), transient=True, disable=not many))


def _renumber(values: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """Labels (H, W) of values; what the table lacks is ignored."""
    keys = np.array(sorted(table))
    labels = np.array([table[key] for key in sorted(table)], np.uint8)
    places = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    return np.where(keys[places] == values, labels[places], IGNORED).astype(np.uint8)


def _draw(record: ImageRecord, labels: dict[str, int]) -> np.ndarray:
    """Outlines as labels (H, W), crowds first, then the largest; the rest is class 0."""
    mask = np.full((record.height, record.width), 0, np.uint8)
    order = sorted(
        record.instances, key=lambda one: (not one.crowd, -area(one.segmentation, one.box))
    )
    for one in order:
        rle = one.segmentation
        if isinstance(rle, list):
            rle = coco_mask.merge(coco_mask.frPyObjects(rle, record.height, record.width))
        ignored = one.name.lower() in VOID
        mask[coco_mask.decode(rle) > 0] = IGNORED if ignored else labels[one.name]
    return mask


def _write_embedded(record: ImageRecord, path: Path) -> None:
    record.path = path
    if not path.exists():
        buffer = io.BytesIO()
        content = json.loads(decoded(record.embedded_in.read_bytes()))
        embedded_image(content).convert("RGB").save(buffer, "PNG")
        write_whole(path, buffer.getvalue())


def _palette(count: int) -> list[tuple[int, int, int]]:
    """Colours that differ, by the golden ratio around the wheel."""
    colours = (
        colorsys.hsv_to_rgb(0.618034 * i % 1, 0.75, 0.95 - 0.3 * (i % 2)) for i in range(count)
    )
    return [tuple(round(255 * value) for value in colour) for colour in colours]
