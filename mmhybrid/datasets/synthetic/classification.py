"""Images of one class each: ImageNet and other folders, Tiny-ImageNet, CIFAR."""

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator

from mmhybrid.datasets.synthetic.shapes import CATEGORIES, choose_classes, scene, write_image
from mmhybrid.registry import type_name

SIDE, SIDE_TINY, SIDE_CIFAR = 96, 64, 32


def labelled_images(
    classes: int, count: int, side: int, rng: Generator
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields labels, ten at most, and images (side, side, 3), RGB, uint8, of one shape each."""
    labels = choose_classes(classes, len(CATEGORIES))
    for index in range(count):
        category = index % len(labels)
        yield labels[category], scene(rng, side, side, [category], 1, radius_range=(0.25, 0.42))[0]


def draw_folders(
    dataset: dict, classes: Sequence[str], folder: Path, count: int, rng: Generator
) -> None:
    """Writes ``PREFIX/CLASS/NAME.JPEG``, and the list of images and labels.

    The list is the config's ``ann_file``, or ``meta/SPLIT.txt`` where ImageNet looks for it. A
    dataset that has neither numbers its classes by their folders, so every class gets one.
    """
    split = dataset.get("split", "")
    prefix = dataset.get("data_prefix") or split
    if isinstance(prefix, dict):
        prefix = prefix.get("img_path", "")
    ann_file = dataset.get("ann_file") or (f"meta/{split}.txt" if split else "")
    lines = []
    for index, (label, image) in enumerate(labelled_images(len(classes), count, SIDE, rng)):
        path = f"class_{label:04d}/{index:06d}.JPEG"
        write_image(folder / prefix / path, image)
        lines.append(f"{path} {label}\n")
    if ann_file:
        (folder / ann_file).parent.mkdir(parents=True, exist_ok=True)
        (folder / ann_file).write_text("".join(lines))
    else:
        for label in range(len(classes)):
            (folder / prefix / f"class_{label:04d}").mkdir(parents=True, exist_ok=True)


def draw_tiny_imagenet(
    dataset: dict, classes: Sequence[str], folder: Path, count: int, rng: Generator
) -> None:
    """Writes one split as ``tiny-imagenet-200.zip`` has it, and ``wnids.txt``."""
    ids = [f"n{label:08d}" for label in range(len(classes))]
    (folder / "wnids.txt").write_text("".join(f"{one}\n" for one in ids))
    training = dataset.get("split", "train") == "train"
    if training:
        for one in ids:
            (folder / "train" / one / "images").mkdir(parents=True)
    lines = []
    for index, (label, image) in enumerate(labelled_images(len(classes), count, SIDE_TINY, rng)):
        if training:
            path = folder / "train" / ids[label] / "images" / f"{ids[label]}_{index}.JPEG"
        else:
            path = folder / "val" / "images" / f"val_{index}.JPEG"
            lines.append(f"{path.name}\t{ids[label]}\t0\t0\t{SIDE_TINY - 1}\t{SIDE_TINY - 1}\n")
        write_image(path, image)
    if not training:
        (folder / "val" / "val_annotations.txt").write_text("".join(lines))


def draw_cifar(
    dataset: dict, classes: Sequence[str], folder: Path, count: int, rng: Generator
) -> None:
    """Writes the batches of one split of CIFAR-10 or CIFAR-100, and the names of the classes."""
    cifar = _cifar_class(type_name(dataset))
    files = cifar.train_list if dataset.get("split", "train") == "train" else cifar.test_list
    label_key = "fine_labels" if "100" in cifar.__name__ else "labels"
    target = folder / cifar.base_folder
    target.mkdir(parents=True, exist_ok=True)
    labels, images = zip(*labelled_images(len(classes), count, SIDE_CIFAR, rng), strict=True)
    rows = np.array(images).transpose(0, 3, 1, 2).reshape(count, -1)
    for (file, _), part in zip(files, np.array_split(np.arange(count), len(files)), strict=True):
        content = {"data": rows[part], label_key: [labels[index] for index in part]}
        (target / file).write_bytes(pickle.dumps(content))
    names = {cifar.meta["key"]: list(classes)}
    (target / cifar.meta["filename"]).write_bytes(pickle.dumps(names))


def accept_drawn_cifar(name: str) -> None:
    """Lets this process read other files of ``'CIFAR10'`` or ``'CIFAR100'`` than the published.

    mmpretrain compares checksums, and replaces files that differ by a download.
    """
    cifar = _cifar_class(name)
    cifar.train_list = [[file, None] for file, _ in cifar.train_list]
    cifar.test_list = [[file, None] for file, _ in cifar.test_list]
    cifar.meta = {**cifar.meta, "md5": None}


def _cifar_class(name: str) -> type:
    from mmpretrain import datasets

    return getattr(datasets, name)
