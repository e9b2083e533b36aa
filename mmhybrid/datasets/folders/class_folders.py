"""A folder a class, with or without a folder a split around it."""

from collections import defaultdict

from mmhybrid.datasets.folders.listing import Listing, folder_split, split_named
from mmhybrid.datasets.folders.masks import IMAGES, MASKS
from mmhybrid.datasets.folders.problems import Notes
from mmhybrid.datasets.folders.records import FolderData, ImageRecord


def read_class_folders(listing: Listing, notes: Notes) -> FolderData | None:
    """The first folder below the splits is the class; None where fewer than two are there."""
    folders = [name.split("/")[:-1] for name in listing.images]
    start = 0  # how many folders lie around everything, such as one that was zipped
    while len({tuple(one[: start + 1]) for one in folders}) == 1 and all(
        len(one) > start + 1 for one in folders
    ):
        if split_named(folders[0][start]):
            break
        start += 1
    # A class may be called train; a split has folders in it.
    heads = {one[start] for one in folders if len(one) > start + 1 and split_named(one[start])}
    has_splits = "train" in map(split_named, heads)
    depth = start + has_splits
    # Splits below the classes count where every image is in one.
    inner = {
        name: folder_split("/".join(["", *parts[depth + 1 :], ""]))
        for name, parts in zip(listing.images, folders, strict=True)
        if len(parts) > depth
    }
    if None in inner.values() or not {"train"} < set(inner.values()):
        inner = {}
    splits: dict[str, list[ImageRecord]] = defaultdict(list)
    beside = []
    for name, parts in zip(listing.images, folders, strict=True):
        if len(parts) <= depth:
            beside.append(name)
        elif has_splits and parts[start] not in heads:
            notes.add("image-without-split", name)
        else:
            split = split_named(parts[start]) if has_splits else inner.get(name, "")
            splits[split].append(ImageRecord(name, listing.root / name, label=parts[depth]))
    used = {record.label for records in splits.values() for record in records}
    words = IMAGES | MASKS
    if len(used) < 2 or all(one.lower() in words or split_named(one) for one in used):
        return None
    for name in beside:
        notes.add("image-without-class", name)
    # Folders without an image are classes without one.
    empty = [one.split("/") for one in listing.empty_folders]
    used |= {parts[depth] for parts in empty if len(parts) == depth + 1}
    # In the order of mmpretrain and torchvision.
    return FolderData(listing.root, "", "a folder a class", tuple(sorted(used)), dict(splits))
