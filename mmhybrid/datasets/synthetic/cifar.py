"""CIFAR-10 and CIFAR-100: pickles of 32x32 images."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mmhybrid.datasets.synthetic.files import spread
from mmhybrid.datasets.synthetic.image_folder import one_shape
from mmhybrid.datasets.synthetic.shapes import KINDS
from mmhybrid.registry import type_name


def accept_drawn_files(name: str) -> None:
    """Let this process read files other than the published ones.

    mmpretrain compares checksums, and replaces files that differ by a download.

    Args:
        name: ``'CIFAR10'`` or ``'CIFAR100'``.
    """
    cifar = _dataset_class(name)
    cifar.train_list = [[file, None] for file, _ in cifar.train_list]
    cifar.test_list = [[file, None] for file, _ in cifar.test_list]
    cifar.meta = {**cifar.meta, "md5": None}


def draw(
    dataset: dict[str, Any],
    classes: tuple[str, ...],
    folder: Path,
    count: int,
    rng: np.random.Generator,
) -> None:
    """Write the batches of one split, and the file with the names of the classes.

    Args:
        dataset: The dataset's config: ``type`` and ``split`` are used.
        classes: Names of the classes.
        folder: Stands for the dataset's ``data_root``.
        count: Number of images, over all batches of the split.
        rng: Where the random numbers come from.
    """
    cifar = _dataset_class(type_name(dataset))
    files = cifar.train_list if dataset.get("split", "train") == "train" else cifar.test_list
    label_key = "fine_labels" if "100" in cifar.__name__ else "labels"
    target = folder / cifar.base_folder
    target.mkdir(parents=True, exist_ok=True)
    labels = spread(len(classes), len(KINDS))
    kinds = np.arange(count) % len(labels)
    for (file, _), part in zip(files, np.array_split(kinds, len(files)), strict=True):
        images = [one_shape(rng, 32, int(kind)).transpose(2, 0, 1).ravel() for kind in part]
        data = np.array(images, np.uint8).reshape(-1, 3 * 32 * 32)
        content = {"data": data, label_key: [labels[kind] for kind in part]}
        (target / file).write_bytes(pickle.dumps(content))
    names = {cifar.meta["key"]: list(classes)}
    (target / cifar.meta["filename"]).write_bytes(pickle.dumps(names))


def _dataset_class(name: str) -> type:
    from mmpretrain import datasets

    return getattr(datasets, name)
