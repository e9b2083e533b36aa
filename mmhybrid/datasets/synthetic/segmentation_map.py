"""ADE20K and Cityscapes: an image and an image of labels for each view."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from mmhybrid.datasets.synthetic.shapes import choose_classes, paint, place, texture, write_image

WIDTH_ADE20K, WIDTH_CITYSCAPES, HEIGHT = 320, 512, 256
CATEGORIES, MOST_SHAPES = 4, 4
BACKDROP = {"sky": (120, 160, 200), "ground": (110, 95, 75)}  # RGB
IGNORED = 255


def views(
    rng: Generator, count: int, width: int, classes: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images (H, W, 3) of shapes before sky and ground, and their labels (H, W), uint8."""
    sky, ground, *things = choose_classes(len(classes), CATEGORIES + 2)
    for _ in range(count):
        horizon = int(HEIGHT * rng.uniform(0.35, 0.65))
        image = texture(rng, width, HEIGHT, BACKDROP["sky"])
        image[horizon:] = texture(rng, width, HEIGHT, BACKDROP["ground"])[horizon:]
        truth = np.full((HEIGHT, width), sky, np.uint8)
        truth[horizon:] = ground
        most = int(rng.integers(1, MOST_SHAPES + 1))
        shapes = place(rng, width, HEIGHT, range(len(things)), most)
        for category, polygon in shapes:
            corners = np.round(polygon - 0.5).astype(np.int32)
            cv2.fillPoly(truth, [corners], things[category])
        yield paint(rng, image, shapes), truth


def draw_ade20k(
    dataset: dict, classes: Sequence[str], folder: Path, count: int, rng: Generator
) -> None:
    """Writes ``NAME.jpg`` and ``NAME.png``; in the map, 0 is unlabelled and class k is k + 1."""
    prefix = dataset["data_prefix"]
    for index, (image, truth) in enumerate(views(rng, count, WIDTH_ADE20K, classes), 1):
        write_image(folder / prefix["img_path"] / f"ADE_{index:08d}.jpg", image)
        write_image(folder / prefix["seg_map_path"] / f"ADE_{index:08d}.png", truth + 1)


def draw_cityscapes(
    dataset: dict, classes: Sequence[str], folder: Path, count: int, rng: Generator
) -> None:
    """Writes ``CITY/NAME_leftImg8bit.png`` and ``CITY/NAME_gtFine_labelTrainIds.png``.

    A strip at the bottom is unlabelled (255), as the car's bonnet is in Cityscapes.
    """
    prefix = dataset["data_prefix"]
    for index, (image, truth) in enumerate(views(rng, count, WIDTH_CITYSCAPES, classes)):
        truth[-16:] = IGNORED
        name = f"drawn/drawn_{index:06d}_000019"
        write_image(folder / prefix["img_path"] / f"{name}_leftImg8bit.png", image)
        write_image(folder / prefix["seg_map_path"] / f"{name}_gtFine_labelTrainIds.png", truth)
