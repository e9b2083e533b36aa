"""CIFAR-10 and CIFAR-100: pickles of 32x32 images."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mmhybrid.datasets.synthetic.image_folder import labelled_images
from mmhybrid.registry import type_name


def accept_drawn_files(name: str) -> None:
    """Lets this process read other files of ``'CIFAR10'`` or ``'CIFAR100'`` than the published.

    mmpretrain compares checksums, and replaces files that differ by a download.
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
    """Writes the batches of one split, and the file with the names of the classes."""
    cifar = _dataset_class(type_name(dataset))
    files = cifar.train_list if dataset.get("split", "train") == "train" else cifar.test_list
    label_key = "fine_labels" if "100" in cifar.__name__ else "labels"
    target = folder / cifar.base_folder
    target.mkdir(parents=True, exist_ok=True)
    samples = list(labelled_images(len(classes), count, 32, rng))
    for (file, _), part in zip(files, np.array_split(np.arange(count), len(files)), strict=True):
        images = [samples[index][1].transpose(2, 0, 1).ravel() for index in part]
        data = np.array(images, np.uint8).reshape(-1, 3 * 32 * 32)
        content = {"data": data, label_key: [samples[index][0] for index in part]}
        (target / file).write_bytes(pickle.dumps(content))
    names = {cifar.meta["key"]: list(classes)}
    (target / cifar.meta["filename"]).write_bytes(pickle.dumps(names))


def _dataset_class(name: str) -> type:
    from mmpretrain import datasets

    return getattr(datasets, name)
