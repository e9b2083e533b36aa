"""ADE20K and Cityscapes: an image and an image of labels for each view."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmhybrid.datasets.synthetic.files import choose_classes, write_image
from mmhybrid.datasets.synthetic.shapes import paint, place, texture

CATEGORIES, MOST_SHAPES = 4, 4
IGNORED = 255


def view(
    rng: np.random.Generator, width: int, height: int, labels: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) of shapes before sky and ground, and its labels (H, W), both uint8.

    ``labels`` are those of the sky, of the ground and of each category of shapes.
    """
    sky, ground, *things = labels
    horizon = int(height * rng.uniform(0.35, 0.65))
    image = texture(rng, width, height, (120, 160, 200))
    image[horizon:] = texture(rng, width, height, (110, 95, 75))[horizon:]
    truth = np.full((height, width), sky, np.uint8)
    truth[horizon:] = ground
    shapes = place(rng, width, height, range(len(things)), int(rng.integers(1, MOST_SHAPES + 1)))
    for shape in shapes:
        corners = np.round(shape.polygon - 0.5).astype(np.int32)
        cv2.fillPoly(truth, [corners], things[shape.category])
    return paint(rng, image, shapes), truth


def draw_ade20k(
    dataset: dict[str, Any],
    classes: tuple[str, ...],
    folder: Path,
    count: int,
    rng: np.random.Generator,
) -> None:
    """Writes ``NAME.jpg`` and ``NAME.png``; in the map, 0 is unlabelled and class k is k + 1."""
    labels = choose_classes(len(classes), CATEGORIES + 2)
    prefix = dataset["data_prefix"]
    for index in range(1, count + 1):
        image, truth = view(rng, 320, 256, labels)
        write_image(folder / prefix["img_path"] / f"ADE_{index:08d}.jpg", image)
        write_image(folder / prefix["seg_map_path"] / f"ADE_{index:08d}.png", truth + 1)


def draw_cityscapes(
    dataset: dict[str, Any],
    classes: tuple[str, ...],
    folder: Path,
    count: int,
    rng: np.random.Generator,
) -> None:
    """Writes ``CITY/NAME_leftImg8bit.png`` and ``CITY/NAME_gtFine_labelTrainIds.png``.

    A strip at the bottom is unlabelled (255), as the car's bonnet is in Cityscapes.
    """
    labels = choose_classes(len(classes), CATEGORIES + 2)
    prefix = dataset["data_prefix"]
    for index in range(count):
        image, truth = view(rng, 512, 256, labels)
        truth[-16:] = IGNORED
        name = f"drawn/drawn_{index:06d}_000019"
        write_image(folder / prefix["img_path"] / f"{name}_leftImg8bit.png", image)
        write_image(folder / prefix["seg_map_path"] / f"{name}_gtFine_labelTrainIds.png", truth)
