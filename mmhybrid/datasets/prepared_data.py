"""A data set of one's own as the packages read it: what a config needs to know about its files."""

from dataclasses import dataclass, field


@dataclass
class PreparedData:
    """The files of a data set that mmdet, mmseg or mmpretrain can read; all paths are absolute.

    Args:
        task (str): ``'detection'`` (boxes), ``'instances'`` (boxes and masks), ``'segmentation'``
            (masks of labels) or ``'classification'``.
        classes (tuple[str, ...]): Names; a class's place is its label.
        palette (list[tuple[int, int, int]]): A colour (R, G, B), 0 to 255, for each class.
        image_root (str): Folder that the names of images in ``ann_files`` are relative to.
        ann_files (dict[str, str]): By split, ``'train'``, ``'val'`` and ``'test'``. Detection and
            instances: COCO's JSON, whose categories are the classes in their order. Segmentation: a
            list of images. Classification: a list of ``IMAGE LABEL`` lines.
        images (dict[str, int]): Number of images, by split.
        mask_root (str, optional): Folder of the masks, ``IMAGE.png`` each: labels, and 255 where a
            pixel belongs to no class. Segmentation alone.
        category_ids (list[int]): Ids of the classes in the annotations that the user gave, if these
            had some; predictions are written with them.
    """

    task: str
    classes: tuple[str, ...]
    palette: list[tuple[int, int, int]]
    image_root: str
    ann_files: dict[str, str]
    images: dict[str, int] = field(default_factory=dict)
    mask_root: str | None = None
    category_ids: list[int] = field(default_factory=list)
