"""From a folder to its images, classes, splits and findings."""

import posixpath
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from prettytable import PrettyTable

from mmhybrid.datasets.findings import is_many
from mmhybrid.datasets.folders.class_folders import read_class_folders
from mmhybrid.datasets.folders.coco import read_coco
from mmhybrid.datasets.folders.label_table import UnclearTableError, read_label_table
from mmhybrid.datasets.folders.labelme import read_labelme
from mmhybrid.datasets.folders.listing import UNREAD_SUFFIXES, Listing, stem
from mmhybrid.datasets.folders.masks import BACKGROUND, VOID, read_masks
from mmhybrid.datasets.folders.measuring import clean, decodable, measure
from mmhybrid.datasets.folders.problems import Notes
from mmhybrid.datasets.folders.records import SPLITS, TASKS, FolderData, ImageRecord, TaskError
from mmhybrid.datasets.folders.splitting import classes_in, same_bytes, split_off
from mmhybrid.datasets.folders.voc import read_voc
from mmhybrid.datasets.folders.yolo import read_yolo
from mmhybrid.errors import ArgumentError, UserError

Reader = Callable[[Listing, Notes], FolderData | None]
OBJECTS: tuple[Reader, ...] = (read_coco, read_yolo, read_voc, read_labelme)
LABELS: tuple[Reader, ...] = (read_label_table, read_class_folders)
# What is tried for a task, in this order.
READERS: dict[str, tuple[Reader, ...]] = {
    "detection": OBJECTS,
    "instances": OBJECTS,
    "segmentation": (read_masks, *OBJECTS),
    "classification": LABELS,
}
EXPECTED = {
    "detection": "COCO JSON, YOLO, Pascal VOC XML or LabelMe JSON",
    "instances": "COCO JSON, YOLO polygons or LabelMe JSON",
    "segmentation": "images beside masks (folders images and masks), COCO JSON or LabelMe JSON",
    "classification": "a folder a class, or a CSV of image names and labels",
}


def read_folder(folder: str | Path, task: str, seed: int = 0) -> FolderData:
    """Recognises and reads the data in a folder, without writing anything.

    Args:
        folder (str | Path): What was unpacked or exported.
        task (str): ``"detection"``, ``"instances"`` (boxes and outlines), ``"segmentation"`` or
            ``"classification"``.
        seed (int): Of the split, where the folder has none. Defaults to 0.

    Raises:
        TaskError: Nothing is recognised that serves the task; ``offers`` says what would.
        UserError: No folder, no images, an annotation file that cannot be read.
    """
    if task not in TASKS:
        raise ArgumentError(f"task must be one of {', '.join(TASKS)}, not {task!r}")
    listing = Listing(folder, Notes())
    if not listing.images and not listing.with_suffix(".json"):
        unread = listing.with_suffix(*UNREAD_SUFFIXES)
        told = f" but such as {unread[0]}, which are not read: save them as JPEG" if unread else ""
        raise UserError(f"{folder} has no images{told}")
    data, notes = _recognise(listing, READERS[task])
    if data is None:
        raise _wrong_task(listing, folder, task)
    data.task = task
    _tell_names(listing, notes)
    data.splits = measure(listing, data.splits, notes)
    records = [record for part in data.splits.values() for record in part]
    if not records:
        reasons = ". ".join(map(str, notes.findings(0, 0)))
        raise UserError(f"{folder} ({data.format}) has no image that can be used. {reasons}")
    if task != "classification" and data.values == {}:
        _check_objects(data, records, notes)
    records = [record for part in data.splits.values() for record in part]
    _check_half(data, records, notes)
    _drop_unused(data, records, notes)
    _complete_splits(data, notes, seed)
    for split in ("val", "test"):  # a training goes on without an image
        data.splits[split] = decodable(data.splits.get(split, []), notes)
    if not data.splits["test"]:
        del data.splits["test"]
    if not data.splits["val"]:
        raise UserError(f"{data.folder} ({data.format}): no image to validate on can be read")
    _compare_splits(data, notes)
    objects = sum(len(one.instances) for one in records)
    data.findings = notes.findings(len(records), objects or len(records))
    return data


def _recognise(listing: Listing, readers: tuple[Reader, ...]) -> tuple[FolderData | None, Notes]:
    unclear = None
    for reader in readers:
        listing.notes = notes = Notes()
        try:
            data = reader(listing, notes)
        except UnclearTableError as error:
            unclear = error
            continue
        # Folders part_1 and part_2 are no classes.
        if data and unclear and len({re.sub(r"\d+", "", one) for one in data.classes}) < 2:
            break
        if data and unclear:
            notes.say("unclear-table", "warning", f"{data.format} is read, no table: {unclear}")
        if data:
            return data, notes
    if unclear:
        raise unclear
    return None, listing.notes


def _wrong_task(listing: Listing, folder: str | Path, task: str) -> TaskError:
    others = {"detection": OBJECTS, "segmentation": (read_masks,), "classification": LABELS}
    for offer, readers in others.items():
        if offer == task:
            continue
        try:
            data, _ = _recognise(listing, readers)
        except UserError:
            continue
        if data is not None:
            records = [record for part in data.splits.values() for record in part]
            if any(one.segmentation for record in records for one in record.instances):
                offers = ("detection", "instances", "segmentation")
            else:
                offers = (offer,)
            told = f"{folder} holds {data.format}, which is for {offer}; {task} needs "
            return TaskError(told + EXPECTED[task], offers)
    suffixes = Counter(posixpath.splitext(name)[1] or "no extension" for name in listing.files)
    held = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(5))
    broken = []
    for name in listing.with_suffix(".json", ".xml")[:5]:
        try:
            listing.json(name) if name.lower().endswith(".json") else listing.xml(name)
        except ValueError as error:
            broken.append(f". It cannot be read: {error}")
    told = f"{folder} ({held}) holds nothing that is recognised for {task}; expected is "
    return TaskError(told + EXPECTED[task] + "".join(broken[:1]))


def _check_objects(data: FolderData, records: list[ImageRecord], notes: Notes) -> None:
    has_outline = any(one.segmentation for record in records for one in record.instances)
    needs_outline = data.task != "detection"
    if needs_outline and not has_outline:
        told = f"{data.folder} ({data.format}) has boxes but no outlines, which {data.task} needs"
        raise TaskError(told, ("detection",))
    clean(records, notes, needs_outline)
    if not any(record.instances for record in records):
        reasons = ". ".join(map(str, notes.findings(len(records), 0)))
        raise UserError(f"{data.folder} ({data.format}) has no object to learn. {reasons}")
    if data.task == "segmentation":
        names = [one for one in data.classes if one.lower() not in VOID]
        ground = next((one for one in names if one.lower().strip("_") == BACKGROUND), BACKGROUND)
        data.classes = tuple(dict.fromkeys([ground, *names]))
    for split in ("val", "test"):
        if not any(record.instances for record in data.splits.get(split, ())):
            unlabelled = [record.name for record in data.splits.pop(split, ())]
            if unlabelled:
                told = f"{split} has images without a label, left out: {len(unlabelled):,}"
                notes.say("split-without-labels", "warning", told, unlabelled)


def _check_half(data: FolderData, records: list[ImageRecord], notes: Notes) -> None:
    is_drawn = data.task != "classification" and not data.values
    empty = [record.name for record in records if is_drawn and not record.instances]
    without, total = notes.places.get("image-without-label", []), len(records)
    if 2 * (len(empty) + len(without)) >= total + len(without):
        told = f"images without a label: {len(empty) + len(without):,} of {total + len(without):,}"
        notes.say("half-unlabelled", "error", told, empty + without)
    elif empty:
        told = f"images without an object, which stay in: {len(empty):,}"
        notes.say("image-without-object", "info", told, empty)


def _drop_unused(data: FolderData, records: list[ImageRecord], notes: Notes) -> None:
    shown = set().union(*map(classes_in, records))
    if data.task == "segmentation" and not data.values:
        shown.add(data.classes[0])  # the background of outlines
    unused = [one for one in data.classes if one not in shown]
    if unused:
        told = f"classes without an image, left out: {len(unused)}"
        notes.say("class-without-image", "warning", told, unused)
        colours = zip(data.classes, data.palette or (), strict=False)
        data.palette = [colour for name, colour in colours if name not in unused] or None
        data.classes = tuple(one for one in data.classes if one not in unused)
    if data.task == "classification" and len(data.classes) < 2:
        raise UserError(f"{data.folder} has images of {len(data.classes)} class; it takes two")


def _complete_splits(data: FolderData, notes: Notes, seed: int) -> None:
    """Makes train and val, where there is no train or no val."""
    parts = {split: records for split, records in data.splits.items() if records}
    if "train" not in parts:
        if set(parts) & set(SPLITS):
            told = "no images are for training: the images of all splits are split anew"
            notes.say("no-train-split", "warning", told)
        every = {record.name: record for records in parts.values() for record in records}
        parts = {"train": list(every.values())}
    else:  # of some files nothing tells the split
        parts["train"] = parts["train"] + parts.pop("", [])
    if "val" not in parts:
        parts["train"], parts["val"] = split_off(parts["train"], seed=seed)
        data.own_split = True
    if not parts["val"]:
        raise UserError(
            f"{data.folder} has one image, or copies of one; to train and to validate takes two"
        )
    order = {split: parts[split] for split in SPLITS if parts.get(split)}
    data.splits = {key: sorted(part, key=lambda one: one.name) for key, part in order.items()}


def _compare_splits(data: FolderData, notes: Notes) -> None:
    trained = set().union(*map(classes_in, data.splits["train"]))
    held_out = [record for split in ("val", "test") for record in data.splits.get(split, ())]
    unseen = sorted(set().union(*map(classes_in, held_out)) - trained)
    if unseen:
        told = f"classes that no training image shows, so that they cannot be learnt: {len(unseen)}"
        notes.say("class-not-in-train", "error", told, unseen)
    split = {one.name: key for key, part in data.splits.items() for one in part}
    everything = {one.name: one for part in data.splits.values() for one in part}
    leaked = [
        names for names in same_bytes(everything.values()) if len({split[n] for n in names}) > 1
    ]
    twice = Counter(one.name for part in data.splits.values() for one in part)
    leaked += [[name] for name, count in twice.items() if count > 1]
    if leaked:
        severity = "error" if is_many(len(leaked), len(held_out)) else "warning"
        told = f"images in more than one split, so that the metric is too good: {len(leaked):,}"
        notes.say("duplicate-across-splits", severity, told, [" = ".join(one) for one in leaked])


def _tell_names(listing: Listing, notes: Notes) -> None:
    for name in listing.images:
        base = posixpath.basename(name)
        if " " in name or not name.isascii():
            notes.add("odd-name", name)
        if not posixpath.splitext(base)[1].islower():
            notes.add("mixed-case", name)
    for name in listing.bad_names:
        notes.add("bad-name", name)
    for name in listing.dead_links:
        notes.add("dead-link", name)
    for name in listing.with_suffix(*UNREAD_SUFFIXES):
        if stem(name) not in listing.by_stem:  # a camera writes 0.NEF and 0.jpg
            notes.add("unread-format", name)


def describe(data: FolderData) -> str:
    """What was found, as a text: format, images and sizes, a table of classes, findings."""
    records = [record for part in data.splits.values() for record in part]
    sizes = sorted(
        (record.width * record.height, record.width, record.height) for record in records
    )
    small, middle, large = (f"{w}x{h}" for _, w, h in (sizes[0], sizes[len(sizes) // 2], sizes[-1]))
    unit = {"classification": "images of", "segmentation": "images that show"}
    table = PrettyTable(
        ["class", *data.splits], title=f"{unit.get(data.task, 'objects of')} each class"
    )
    table.align = "r"
    table.align["class"] = "l"
    counts = {split: count_classes(part, data.task) for split, part in data.splits.items()}
    for name in data.classes:  # how many outlines leave ground uncovered is not known yet
        row = [counts[split].get(name, 0) for split in data.splits]
        table.add_row([name, *(f"{count:,}" if any(row) else "-" for count in row)])
    whose = "split by us" if data.own_split else "as the folder has them"
    images = ", ".join(f"{split} {len(part):,}" for split, part in data.splits.items())
    head = [
        f"{data.folder}: {data.format}",
        f"images: {images} ({whose}); {small} to {large} pixels, half of them up to {middle}",
    ]
    return "\n".join([*head, table.get_string(), *map(str, data.findings)])


def count_classes(records: list[ImageRecord], task: str) -> dict[str, int]:
    """Objects of each class (detection, instances), or images that show it."""
    by_object = task in ("detection", "instances")
    names = (
        [one.name for one in record.instances] if by_object else classes_in(record)
        for record in records
    )
    return dict(sorted(Counter(name for some in names for name in some).items()))
