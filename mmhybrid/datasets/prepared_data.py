"""A data set of one's own as the packages read it: what a config needs to know about its files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Task = Literal["detection", "instances", "segmentation", "classification"]
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class SplitFiles:
    """Files of one split; paths are absolute or relative to the current folder.

    Attributes:
        ann_file: Detection and instances: a COCO JSON, whose categories are the classes in their
            order. Classification: a list of ``NAME LABEL`` lines. Segmentation: a list of names
            without their suffixes, or ``""`` for all images of the folder.
        img_dir: Folder that the names in ``ann_file`` are relative to.
        seg_map_dir: Folder of the label maps, PNGs of class indices, and 255 where a pixel belongs
            to no class. Segmentation alone.
        num_images: Number of images.
        img_suffix: Suffix of the images in ``img_dir``. Segmentation alone.
        seg_map_suffix: What the name of a label map has in its place.
    """

    ann_file: str
    img_dir: str
    seg_map_dir: str = ""
    num_images: int = 0
    img_suffix: str = ".jpg"
    seg_map_suffix: str = ".png"


@dataclass(frozen=True)
class PreparedData:
    """A data set that mmdet, mmseg or mmpretrain can read.

    Attributes:
        task: ``'detection'`` (boxes), ``'instances'`` (boxes and masks), ``'segmentation'`` (label
            maps) or ``'classification'``.
        classes: Names; a class's place is its label.
        palette: A colour (R, G, B), 0 to 255, for each class.
        splits: Files of ``'train'``, ``'val'`` and, where there are some, ``'test'``.
        reduce_zero_label: Whether 0 in a label map is no class, and class k is k + 1.
        category_ids: The classes' ids in the annotations that the user gave, if these had some;
            predictions are written with them.
    """

    task: Task
    classes: tuple[str, ...]
    palette: list[tuple[int, int, int]]
    splits: Mapping[Split, SplitFiles] = field(default_factory=dict)
    reduce_zero_label: bool = False
    category_ids: tuple[int, ...] = ()
