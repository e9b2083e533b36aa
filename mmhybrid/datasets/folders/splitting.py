"""Which images train and which validate, where a folder does not say."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from mmhybrid.datasets.folders.records import ImageRecord

VAL_SHARE = 0.2


def classes_in(record: ImageRecord) -> set[str]:
    """The classes that an image shows."""
    if record.label is not None:
        return {record.label}
    return set(record.pixels) or {one.name for one in record.instances}


def split_off(
    records: list[ImageRecord], share: float = VAL_SHARE, seed: int = 0
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Two parts, the second with the share of the images and, as far as possible, of each class.

    The same records and seed give the same parts. Images of the same bytes, and Roboflow's
    variants of one image, stay together. A class of a single image is in the first part.
    """
    groups: dict[str, list[ImageRecord]] = defaultdict(list)
    twins = [sorted({_origin(name) for name in names}) for names in same_bytes(records)]
    first = {name: names[0] for names in twins for name in names}
    for record in sorted(records, key=lambda one: one.name):
        origin = _origin(record.name)
        groups[first.get(origin, origin)].append(record)
    order = list(groups)
    random.Random(seed).shuffle(order)
    shown = {key: set().union(*map(classes_in, groups[key])) for key in order}
    holders: dict[str, list[str]] = defaultdict(list)  # groups that show a class
    for key in order:
        for name in shown[key]:
            holders[name].append(key)
    wanted = {name: round(share * len(keys)) for name, keys in holders.items()}
    most = max(1, round(share * len(order))) if len(order) > 1 else 0
    val: dict[str, None] = {}
    in_val: Counter[str] = Counter()

    def take(key: str) -> None:
        """Into the second part, unless it is full or the first would lose a class."""
        is_last = any(len(holders[name]) - in_val[name] == 1 for name in shown[key])
        if len(val) < most and key not in val and not is_last:
            val[key] = None
            in_val.update(shown[key])

    # Rarest classes first: the others have more images to choose from.
    for name in sorted(holders, key=lambda one: (len(holders[one]), one)):
        for key in holders[name]:
            if in_val[name] < wanted[name]:
                take(key)
    # The rest: first what takes no class too often.
    for key in order:
        if all(in_val[name] < wanted[name] for name in shown[key]):
            take(key)
    for key in order:
        take(key)
    if not val:  # every image is the only one of some class
        val |= dict.fromkeys(order[:most])
    parts = [
        [record for key in groups if (key in val) == side for record in groups[key]]
        for side in (False, True)
    ]
    return parts[0], parts[1]


def _origin(name: str) -> str:
    """``a_jpg`` for ``a_jpg.rf.1a2b.jpg``, one of Roboflow's variants."""
    return name.split(".rf.")[0]


def same_bytes(records: Iterable[ImageRecord]) -> list[list[str]]:
    """Names of the images that are equal to the byte; only those of equal length are read."""
    by_size: dict[int, list[ImageRecord]] = defaultdict(list)
    for record in records:
        if record.embedded_in is None:
            by_size[record.path.stat().st_size].append(record)
    twins = []
    for size, same in by_size.items():
        # From the middle, where two images differ, before all of it.
        for some in _grouped(same, lambda path, size=size: _part(path, size // 2)):
            twins += _grouped(some, lambda path: hashlib.sha256(path.read_bytes()).digest())
    return [[record.name for record in some] for some in twins]


def _grouped(records: list[ImageRecord], key: Callable[[Path], bytes]) -> list[list[ImageRecord]]:
    """Records of the same key, where it is that of several."""
    groups: dict[bytes, list[ImageRecord]] = defaultdict(list)
    for record in records if len(records) > 1 else ():
        groups[key(record.path)].append(record)
    return [some for some in groups.values() if len(some) > 1]


def _part(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(4096)
