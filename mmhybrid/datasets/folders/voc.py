"""Pascal VOC XML: VOC's own folders, or XML beside the images as labelImg and Roboflow write it."""

from xml.etree.ElementTree import Element

from mmhybrid.datasets.folders.listing import Listing, folder_split, stem
from mmhybrid.datasets.folders.masks import is_mask
from mmhybrid.datasets.folders.problems import Notes
from mmhybrid.datasets.folders.records import FolderData, ImageRecord, Instance, size_told


def read_voc(listing: Listing, notes: Notes) -> FolderData | None:
    """Every XML file whose root is ``annotation``; None where there is none."""
    trees: dict[str, Element] = {}
    broken = []
    for name in listing.with_suffix(".xml"):
        try:
            tree = listing.xml(name)
        except ValueError as error:
            broken.append(str(error))
            continue
        if tree.tag == "annotation":
            trees[name] = tree
    if not trees:
        return None
    for place in broken:
        notes.add("bad-file", place)
    lists = listing.split_lists("ImageSets/Main/")
    # VOC counts pixels from 1; a tool that writes a 0 counts from 0.
    values = [corner.text for tree in trees.values() for corner in tree.iterfind("object/bndbox/*")]
    first = 0 if any(_number(value) <= 0 for value in values if value) else 1
    splits: dict[str, list[ImageRecord]] = {}
    labelled = set()
    for name, tree in trees.items():
        beside = [one for one in listing.by_stem.get(stem(name), []) if "Segmentation" not in one]
        told = tree.findtext("filename") or ""  # which may be that of another image
        likely = told if stem(told) == stem(name) else stem(name)
        image = listing.find(beside[0] if len(beside) == 1 else likely, name)
        image = image or listing.find(told, name)
        if image is None:
            notes.add("label-without-image", name)
            continue
        labelled.add(image)
        if "train" in lists.values() and image not in lists:
            notes.add("image-without-split", image)
            continue
        split = lists.get(image) or folder_split(image) or ""
        record = ImageRecord(image, listing.root / image)
        record.annotated_size = size_told(tree.findtext("size/width"), tree.findtext("size/height"))
        record.instances = [_instance(one, first) for one in tree.iterfind("object")]
        splits.setdefault(split, []).append(record)
    names = {(folder_split(image), stem(image)) for image in labelled}
    for image in listing.images:
        if image not in labelled and "Segmentation" not in image:
            is_other = (folder_split(image), stem(image)) in names and (
                is_mask(image) or (lists and image not in lists)
            )
            notes.add("image-beside-image" if is_other else "image-without-label", image)
    used = {
        one.name for records in splits.values() for record in records for one in record.instances
    }
    return FolderData(listing.root, "", "Pascal VOC XML", tuple(sorted(used)), splits)


def _instance(tree: Element, first: int) -> Instance:
    left, top, right, bottom = (
        _number(tree.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")
    )
    box = (left - first, top - first, right - left + first, bottom - top + first)
    points = {one.tag: _number(one.text) for one in tree.iterfind("polygon/*")}  # Roboflow's
    tags = [f"{axis}{number}" for number in range(1, len(points) // 2 + 1) for axis in "xy"]
    outline = [[points.get(tag) for tag in tags]] if points else None
    name = (tree.findtext("name") or "").strip()
    return Instance(name, box, outline, tree.findtext("difficult") == "1")


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
