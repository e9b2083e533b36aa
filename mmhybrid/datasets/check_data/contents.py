"""What the annotations of a data set say, before its files are opened."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmhybrid.datasets.check_data.problems import Found

Check = Callable[[], list[Found]]


@dataclass
class Contents:
    """A data set, half checked.

    Args:
        classes (tuple[str, ...]): Names by label; of COCO those that the file has.
        names (tuple[str, ...]): Names by label of all that training knows.
        images (list[str]): Paths.
        found (list[Found]): What is wrong with the annotations.
        checks (list[Check]): Each opens an image, and its mask if it has one.
        counts (Counter[str]): Objects or images of each class.
        shown (list[np.ndarray]): Labels in each of the masks that were opened.
        unit (str, optional): What ``counts`` counts; None where labels are not known.
        ignored (Counter[int]): Masks that hold each label which is ignored.
        mended (dict, optional): The annotations with what could be mended, where something was.
    """

    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    images: list[str] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    shown: list[np.ndarray] = field(default_factory=list)
    unit: str | None = None
    ignored: Counter[int] = field(default_factory=Counter)
    mended: dict[str, Any] | None = None
