"""Tiny-ImageNet, read as it is unpacked."""

from pathlib import Path
from typing import Any, ClassVar

from mmengine.registry import DATASETS

from mmhybrid.errors import ArgumentError

try:
    from mmpretrain.datasets import BaseDataset
except (ImportError, AssertionError):  # whoever detects or segments may not have it
    from mmengine.dataset import BaseDataset


@DATASETS.register_module()
class TinyImageNet(BaseDataset):
    """Tiny-ImageNet (200 classes, 64x64 pixels) in the layout of ``tiny-imagenet-200.zip``.

    .. code-block:: text

        data_root/
            wnids.txt
            train/n01443537/images/n01443537_0.JPEG
            val/images/val_0.JPEG
            val/val_annotations.txt     (val_0.JPEG <tab> n03444034 <tab> ...)

    Labels are numbered in the sorted order of the WordNet ids in ``wnids.txt``.

    Args:
        data_root (str): The unpacked folder.
        split (str): ``'train'`` or ``'val'``; the labels of the test split are not published.
            Defaults to ``'train'``.
        **options: Of :class:`mmpretrain.datasets.BaseDataset`, such as ``pipeline``.

    Raises:
        ArgumentError: Another split.
        FileNotFoundError: A file of the layout is missing.
    """

    METAINFO: ClassVar[dict[str, Any]] = {
        "classes": tuple(f"class {number}" for number in range(200))
    }

    def __init__(self, data_root: str, split: str = "train", **options: Any) -> None:
        if split not in ("train", "val"):
            told = f"Tiny-ImageNet has the labelled splits train and val, not {split!r}"
            raise ArgumentError(told)
        self.split = split
        super().__init__(ann_file="", data_root=data_root, **options)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One dictionary an image, with ``img_path`` and ``gt_label``."""
        root = Path(self.data_root)
        ids = sorted((root / "wnids.txt").read_text().split())
        labels = {wordnet_id: label for label, wordnet_id in enumerate(ids)}
        if self.split == "train":
            folders = [(root / "train" / id_ / "images", id_) for id_ in ids]
            images = [(path, id_) for folder, id_ in folders for path in sorted(folder.iterdir())]
        else:
            lines = (root / "val" / "val_annotations.txt").read_text().splitlines()
            fields = [line.split("\t") for line in lines if line]
            images = [(root / "val" / "images" / name, id_) for name, id_, *_ in fields]
        return [{"img_path": str(path), "gt_label": labels[id_]} for path, id_ in images]
