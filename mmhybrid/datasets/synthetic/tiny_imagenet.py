"""Tiny-ImageNet: one folder a class to train on, one list to evaluate on."""

from pathlib import Path
from typing import Any

import numpy as np

from mmhybrid.datasets.synthetic.files import write_image
from mmhybrid.datasets.synthetic.image_folder import labelled_images

SIDE = 64


def draw(
    dataset: dict[str, Any],
    classes: tuple[str, ...],
    folder: Path,
    count: int,
    rng: np.random.Generator,
) -> None:
    """Writes one split as ``tiny-imagenet-200.zip`` has it, and ``wnids.txt``."""
    ids = [f"n{label:08d}" for label in range(len(classes))]
    (folder / "wnids.txt").write_text("".join(f"{one}\n" for one in ids))
    training = dataset.get("split", "train") == "train"
    if training:
        for one in ids:
            (folder / "train" / one / "images").mkdir(parents=True)
    lines = []
    for index, (label, image) in enumerate(labelled_images(len(classes), count, SIDE, rng)):
        wordnet_id = ids[label]
        if training:
            path = folder / "train" / wordnet_id / "images" / f"{wordnet_id}_{index}.JPEG"
        else:
            path = folder / "val" / "images" / f"val_{index}.JPEG"
            lines.append(f"{path.name}\t{wordnet_id}\t0\t0\t{SIDE - 1}\t{SIDE - 1}\n")
        write_image(path, image)
    if not training:
        (folder / "val" / "val_annotations.txt").write_text("".join(lines))
