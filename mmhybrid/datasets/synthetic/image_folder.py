"""ImageNet and other folders of images: one folder a class."""

from pathlib import Path
from typing import Any

import numpy as np

from mmhybrid.datasets.synthetic.files import choose_classes, write_image
from mmhybrid.datasets.synthetic.shapes import CATEGORIES, paint, place, texture

SIDE = 96


def one_shape(rng: np.random.Generator, side: int, category: int) -> np.ndarray:
    """A square image (side, side, 3), RGB, uint8, of one shape."""
    image = texture(rng, side, side, tuple(rng.integers(70, 170, 3)))
    shape = place(rng, side, side, [category], 1, radius_range=(0.25, 0.42))[0]
    return paint(rng, image, [shape])


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
    The images belong to ten classes at most.
    """
    split = dataset.get("split", "")
    prefix = dataset.get("data_prefix") or split
    if isinstance(prefix, dict):
        prefix = prefix.get("img_path", "")
    ann_file = dataset.get("ann_file") or (f"meta/{split}.txt" if split else "")
    labels = choose_classes(len(classes), len(CATEGORIES))
    lines = []
    for index in range(count):
        category = index % len(labels)
        path = f"class_{labels[category]:04d}/{index:06d}.JPEG"
        write_image(folder / prefix / path, one_shape(rng, SIDE, category))
        lines.append(f"{path} {labels[category]}\n")
    if ann_file:
        (folder / ann_file).parent.mkdir(parents=True, exist_ok=True)
        (folder / ann_file).write_text("".join(lines))
    else:
        for label in range(len(classes)):
            (folder / prefix / f"class_{label:04d}").mkdir(parents=True, exist_ok=True)
