"""ImageNet and other folders of images: one folder a class."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmhybrid.datasets.synthetic.files import choose_classes, write_image
from mmhybrid.datasets.synthetic.shapes import CATEGORIES, paint, place, texture

SIDE = 96


def labelled_images(
    classes: int, count: int, side: int, rng: np.random.Generator
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields labels, ten at most, and images (side, side, 3), RGB, uint8, of one shape each."""
    labels = choose_classes(classes, len(CATEGORIES))
    for index in range(count):
        category = index % len(labels)
        image = texture(rng, side, side, tuple(rng.integers(70, 170, 3)))
        shapes = place(rng, side, side, [category], 1, radius_range=(0.25, 0.42))
        yield labels[category], paint(rng, image, shapes)


def draw(
    dataset: dict[str, Any],
    classes: tuple[str, ...],
    folder: Path,
    count: int,
    rng: np.random.Generator,
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
