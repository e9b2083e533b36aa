"""Images beside masks: files of class numbers, with or without a palette, or of colours."""

import posixpath
import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from mmhybrid.datasets.folders.class_table import ClassRow, find_class_table
from mmhybrid.datasets.folders.listing import Listing, folder_split, split_named, stem
from mmhybrid.datasets.folders.problems import Notes
from mmhybrid.datasets.folders.records import IGNORED, FolderData, ImageRecord
from mmhybrid.datasets.image_files import BROKEN_FILE
from mmhybrid.errors import UserError

# Words of folders, and of the end of names, that say which of two files is the mask.
MASKS = {
    *("mask", "masks", "label", "labels", "annotation", "annotations", "annot", "annots", "ann"),
    *("gt", "groundtruth", "truth", "seg", "segmentation", "segmentationclass", "dir", "ground"),
    *("l", "labelids", "labeltrainids", "gtfine", "png"),
}
IMAGES = {"image", "images", "img", "imgs", "jpegimages", "leftimg8bit", "dir", "rgb", "jpg"}
STRONG = MASKS - {"dir", "l", "png", "ground"}  # of these, one suffices
VOID = {"void", "ignore", "ignored", "unlabelled", "unlabeled", "__ignore__", "unknown"}
BACKGROUND = "background"
MOST_UNNAMED = 50  # values of masks
MOST_IGNORED = 0.1  # share of all pixels that may have the value 255, where nothing names values
GROUND = 0.1  # share of all pixels from which a value 0 without a name is the background


def read_masks(listing: Listing, notes: Notes) -> FolderData | None:
    """Pairs of an image and a mask; None where there are none."""
    pairs = _pairs(listing, notes)
    if pairs is None:
        return None
    found = find_class_table(listing)
    rows = found[1] if found else []
    colours_named = any(row.colour for row in rows)
    lists = listing.split_lists("ImageSets/Segmentation/") or listing.split_lists()
    counted, splits = {}, defaultdict(list)
    with ThreadPoolExecutor(4) as pool:
        counts = pool.map(lambda pair: _count(listing.root / pair[1], colours_named), pairs)
        for (image, mask), (in_colour, values) in zip(_track(pairs), counts, strict=True):
            if values is None:
                notes.add("bad-file", mask)
                continue
            told = lists.get(image) or lists.get(mask)
            if "train" in lists.values() and told is None:
                notes.add("image-without-split", image)
                continue
            split = told or folder_split(image) or folder_split(mask) or ""
            record = ImageRecord(image, listing.root / image, mask=listing.root / mask)
            splits[split].append(record)
            counted[image] = (in_colour, values)
    in_colour = any(one for one, _ in counted.values())
    total: Counter[int] = sum((values for _, values in counted.values()), Counter())
    values = _classes_by_colour(rows, total) if in_colour else _classes_by_value(rows, total, notes)
    if not in_colour and IGNORED not in values:
        _tell_ignored(rows, total, notes)
    odd = [image for image, (one, _) in counted.items() if one != in_colour]
    if odd:
        told = f"some masks are colours and others are class numbers, such as that of {odd[0]}"
        raise UserError(told)
    for records in splits.values():
        for record in records:
            _tell_pixels(record, counted[record.name][1], values, in_colour, notes)
    classes = tuple(dict.fromkeys(name for name in values.values() if name))
    if len(classes) >= IGNORED:
        raise UserError(f"{len(classes)} classes of masks are more than 8 bits hold")
    by_name = {row.name: row.colour for row in rows if row.colour}
    palette = [by_name[name] for name in classes] if set(classes) <= set(by_name) else None
    type_ = "colours" if in_colour else "class numbers"
    format_ = f"images and masks of {type_}" + (f", {found[0]}" if found else "")
    return FolderData(
        *(listing.root, "", format_, classes, dict(splits), palette),
        values=values,
        in_colour=in_colour,
    )


def read_mask(path: Path, in_colour: bool) -> np.ndarray:
    """A mask as integers (H, W): class numbers, or colours as ``0xRRGGBB``."""
    with Image.open(path) as image:
        if in_colour:
            red, green, blue = np.moveaxis(np.array(image.convert("RGB"), np.int64), -1, 0)
            return (red << 16) + (green << 8) + blue
        if image.mode in ("1", "LA"):
            image = image.convert("L")
        values = np.array(image)
    return (values if values.ndim == 2 else values[..., 0]).astype(np.int64)


def _is_colour(path: Path, colours_named: bool) -> bool:
    with Image.open(path) as image:
        if image.mode == "P":
            return colours_named
        if image.mode not in ("RGB", "RGBA"):
            return False
        values = np.array(image)
    is_grey = (values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all()
    return colours_named or not is_grey


def _count(path: Path, colours_named: bool) -> tuple[bool, Counter[int] | None]:
    """Whether a mask is of colours, and the pixels of each value; None where it is unreadable."""
    try:
        in_colour = _is_colour(path, colours_named)
        mask = read_mask(path, in_colour)
        if in_colour or mask.max() > 2**16 or mask.min() < 0:
            values, counts = np.unique(mask, return_counts=True)
        else:  # by far the quicker
            every = np.bincount(mask.ravel())
            values = every.nonzero()[0]
            counts = every[values]
    except BROKEN_FILE:
        return False, None
    return in_colour, Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def _track(pairs: list) -> list:
    return track(pairs, "Reading masks", transient=True, disable=len(pairs) < 200)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def is_mask(name: str) -> bool:
    """By a folder called ``masks`` or ``train_labels``, or a name that ends in ``_mask``."""
    *folders, file = name.split("/")
    words = [word for folder in folders for word in _words(re.sub(r"annots?$", "_annot", folder))]
    return bool(STRONG & set(words)) or bool(
        _words(stem(file))[1:] and _words(stem(file))[-1] in MASKS - {"png", "dir", "ground"}
    )


def _key(name: str, is_mask: bool) -> tuple[str, ...]:
    """What an image and its mask have in common: folders without the words above, and the stem."""
    *folders, file = name.split("/")
    parts = []
    for folder in folders:
        words = _words(re.sub(r"annots?$", "_annot", folder))
        split = split_named(folder)
        rest = [word for word in words if word not in MASKS | IMAGES]
        parts.append(split or "_".join(rest))
    words = re.split(r"(?<=[^_\-. ])(?=[_\-. ])", stem(file))
    while len(words) > 1 and words[-1].strip("_-. ") in (MASKS if is_mask else {"leftimg8bit"}):
        words.pop()
    return (*(part for part in parts if part), "".join(words))


def _pairs(listing: Listing, notes: Notes) -> list[tuple[str, str]] | None:
    """Each image with its mask, which versions of it share; None where no image has one."""
    masks = {name for name in listing.images if is_mask(name)}
    if not masks:  # NAME.jpg beside NAME.png
        photos = {".jpg", ".jpeg", ".jfif"}
        suffix = {name: posixpath.splitext(name)[1].lower() for name in listing.images}
        bases = {posixpath.splitext(name)[0] for name, one in suffix.items() if one in photos}
        masks = {
            name
            for name, one in suffix.items()
            if one == ".png" and posixpath.splitext(name)[0] in bases
        }
    # Of the files of Cityscapes, those of the 19 classes: they number them otherwise.
    has_train_ids = any(one.endswith("_labelTrainIds.png") for one in masks)
    others = {one for one in masks if has_train_ids and one.endswith("_labelIds.png")}
    by_key: dict[tuple[str, ...], list[str]] = defaultdict(list)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in sorted(masks - others):
        by_key[_key(name, True)].append(name)
        by_stem[_key(name, True)[-1]].append(name)
    claims: dict[str, dict[str, tuple[bool, bool]]] = defaultdict(dict)  # of images to a mask
    without = []
    for image in listing.images:
        if image in masks:
            continue
        key = _key(image, False)
        found = by_key.get(key) or by_stem.get(key[-1], [])
        if len(found) == 1 and len({folder_split(image), folder_split(found[0])} - {None}) < 2:
            is_in_images = bool(IMAGES & set(_words(posixpath.dirname(image))))
            claims[found[0]][image] = (key in by_key, is_in_images)
        else:
            without.append(image)
    if not claims:
        return None
    pairs = []
    for mask, ranks in claims.items():
        length = len(_key(mask, True))
        most = max(ranks.values())
        best = [image for image, rank in ranks.items() if rank == most]
        # A mask beside folders of the same images in several versions belongs to all of them.
        are_versions = most == (False, True) and all(
            len(_key(image, False)) > length for image in best
        )
        if len(best) > 1 and not are_versions:
            notes.add("ambiguous-image", mask)
            continue
        pairs += [(image, mask) for image in best]
        for image in sorted(ranks.keys() - best):
            # In a folder images, and as deep as the mask: of another sequence.
            is_other = ranks[image] == (False, True) and len(_key(image, False)) == length
            if not is_other and folder_split(image) == folder_split(best[0]):
                notes.add("image-beside-image", image)
            else:
                without.append(image)
    for name in sorted(without):
        notes.add("image-without-label", name)
    for name in sorted(masks - others - claims.keys()):
        if not stem(name).endswith(("_color", "_instanceids")):  # Cityscapes has these too
            notes.add("label-without-image", name)
    return sorted(pairs)


def _name_or_none(name: str) -> str | None:
    return None if name.lower() in VOID else name


def _classes_by_colour(rows: list[ClassRow], total: Counter[int]) -> dict[int, str | None]:
    table = {
        (row.colour[0] << 16) + (row.colour[1] << 8) + row.colour[2]: _name_or_none(row.name)
        for row in rows
        if row.colour
    }
    if not table:
        colours = ", ".join(f"{c >> 16},{c >> 8 & 255},{c & 255}" for c, _ in total.most_common(8))
        raise UserError(
            "the masks are colours, and no file says which class each is. The most frequent are "
            f"{colours}. Write class_dict.csv beside the folders: a first line name,r,g,b and a "
            "line such as road,128,64,128 for each class"
        )
    return table


def _classes_by_value(
    rows: list[ClassRow], total: Counter[int], notes: Notes
) -> dict[int, str | None]:
    used = sorted(total.keys() - {IGNORED})
    if rows and any(row.value is not None for row in rows):
        return {row.value: _name_or_none(row.name) for row in rows if row.value is not None}
    names = [row.name for row in rows]
    is_binary = len(total) == 2 and 0 in total
    if is_binary and (len(names) < 2 or (len(names) == 2 and IGNORED in total)):
        first, second = [BACKGROUND, "foreground"][: 2 - len(names)] + names
        return {0: _name_or_none(first), max(total): second}
    if not names and len(used) > MOST_UNNAMED:
        raise UserError(
            f"the masks have {len(total)} values, and no file names their classes. JPEG changes "
            "class numbers: save masks as PNG. If there are as many classes, write classes.txt"
        )
    if not names:
        told = "no file names the classes of the masks: write classes.txt, value 0 on line 1"
        notes.say("no-names", "warning", told)
        return {value: BACKGROUND if value == 0 else f"class {value}" for value in used}
    # As many names as values from 1 on: 0 has none.
    if total[0] and total[len(names)] and names[0].lower() not in VOID | {BACKGROUND}:
        is_ground = len(names) == 1 or total[0] > GROUND * total.total()
        done = "it is the class background" if is_ground else "they are ignored"
        told = (
            f"{total[0] / total.total():.0%} of the pixels have the value 0, which has no name: "
            f"{done}. To choose, write background or ignore as first line of the names"
        )
        notes.say("zero-unnamed", "warning", told)
        return dict(enumerate([BACKGROUND if is_ground else None, *map(_name_or_none, names)]))
    return dict(enumerate(map(_name_or_none, names)))


def _tell_ignored(rows: list[ClassRow], total: Counter[int], notes: Notes) -> None:
    """Says how much has the value 255: without names it may be a class."""
    ignored = total[IGNORED]
    if not ignored:
        return
    objects = total.total() - total[0] - ignored
    is_class = not rows and (ignored > MOST_IGNORED * total.total() or ignored > objects)
    severity = "error" if is_class else "warning"
    told = (
        f"{ignored / total.total():.1%} of the pixels have the value {IGNORED}, which is ignored. "
        f"If it is a class, write classes.txt with a line for each value, such as {IGNORED} cup"
    )
    notes.say("ignored-pixels", severity, told)


def _tell_pixels(
    record: ImageRecord, counts: Counter[int], values: dict, in_colour: bool, notes: Notes
) -> None:
    unknown = []
    for value, pixels in counts.items():
        if values.get(value):
            record.pixels[values[value]] = record.pixels.get(values[value], 0) + pixels
        elif value not in values and (in_colour or value != IGNORED):
            unknown.append(f"#{value:06x}" if in_colour else str(value))
    if unknown:
        more = ", ..." if len(unknown) > 5 else ""
        notes.add("unknown-value", f"{record.name}: {', '.join(unknown[:5])}{more}")
