"""A data set of one's own as the packages read it: what a config needs to know about its files."""

from dataclasses import dataclass, field


@dataclass
class PreparedData:
    """The files of a data set that mmdet, mmseg or mmpretrain can read; all paths are absolute.

    mmdet's CocoDataset: ``data_root=image_root, ann_file=ann_files[split],
    data_prefix=dict(img="")``. mmseg's BaseSegDataset: ``data_root=image_root,
    data_prefix=dict(img_path="", seg_map_path=mask_root), ann_file=ann_files[split],
    img_suffix="", seg_map_suffix=".png"``. mmpretrain's CustomDataset: ``data_root=image_root,
    ann_file=ann_files[split], data_prefix="", with_label=True``. All:
    ``metainfo=dict(classes=classes, palette=palette)``.

    Args:
        task (str): ``'detection'`` (boxes), ``'instances'`` (boxes and masks), ``'segmentation'``
            (masks of labels) or ``'classification'``.
        classes (tuple[str, ...]): Names; a class's place is its label.
        palette (list[tuple[int, int, int]]): A colour (R, G, B), 0 to 255, for each class.
        image_root (str): Folder that the names of images in ``ann_files`` are relative to. It alone
            changes when the images move.
        ann_files (dict[str, str]): By split, ``'train'``, ``'val'`` and ``'test'``. Detection and
            instances: COCO's JSON, whose categories are the classes in their order. Segmentation: a
            list of images. Classification: a list of ``IMAGE LABEL`` lines.
        images (dict[str, int]): Number of images, by split.
        mask_root (str, optional): Folder of the masks, ``IMAGE.png`` each: labels, and 255 where a
            pixel belongs to no class. Segmentation alone.
        category_ids (list[int]): Ids of the classes in the annotations that the user gave, if these
            had some; predictions are written with them.
        format (str): In a user's words, such as ``"YOLO, data.yaml"``.
        counts (dict[str, dict[str, int]]): Objects, images (classification) or images that show
            the class (segmentation), by split and class.
    """

    task: str
    classes: tuple[str, ...]
    palette: list[tuple[int, int, int]]
    image_root: str
    ann_files: dict[str, str]
    images: dict[str, int] = field(default_factory=dict)
    mask_root: str | None = None
    category_ids: list[int] = field(default_factory=list)
    format: str = ""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
