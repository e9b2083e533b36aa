"""Images of coloured shapes on a textured background, with their outlines."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

# What a shape of each category looks like: an outline and an RGB colour. A format uses as many
# categories as it needs; neighbours in the list differ in both.
CATEGORIES = (
    ("disc", (220, 60, 50)),
    ("square", (60, 170, 75)),
    ("triangle", (55, 100, 215)),
    ("cross", (235, 200, 50)),
    ("star", (160, 70, 190)),
    ("disc", (70, 200, 205)),
    ("square", (240, 140, 40)),
    ("triangle", (240, 240, 240)),
    ("cross", (30, 30, 35)),
    ("star", (245, 130, 175)),
)
RADIUS_RANGE = (0.14, 0.27)  # of the circles around shapes, in short sides of the image


class Shape(NamedTuple):
    """One object of an image: an index into CATEGORIES, and its corners (x, y), (N, 2), pixels."""

    category: int
    polygon: np.ndarray


def outline(name: str) -> np.ndarray:
    """Corners (N, 2) of an outline around the origin that fits into the unit circle."""
    if name == "cross":
        w, h = 0.3, 0.95
        quarter = np.array([(w, -h), (w, -w), (h, -w)])
        turns = [np.array([(c, -s), (s, c)]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        return np.concatenate([quarter @ turn.T for turn in turns])
    radii, start = {
        "disc": (np.ones(24), 0.0),
        "square": (np.ones(4), np.pi / 4),
        "triangle": (np.ones(3), -np.pi / 2),
        "star": (np.tile([1.0, 0.45], 5), -np.pi / 2),
    }[name]
    angles = start + np.arange(len(radii)) * 2 * np.pi / len(radii)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def texture(rng: Generator, width: int, height: int, colour: Sequence[int]) -> np.ndarray:
    """An RGB image (height, width, 3), float32: slow waves and fine grain around one colour."""
    waves = rng.normal(0, 16, (6, 8, 1)) + rng.normal(0, 8, (6, 8, 3))  # of light more than colour
    waves = cv2.resize(waves.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 6, (height, width, 1)).astype(np.float32)
    return waves + grain + np.array(colour, np.float32)


def place(
    rng: Generator,
    width: int,
    height: int,
    categories: Sequence[int],
    count: int,
    radius_range: tuple[float, float] = RADIUS_RANGE,
) -> list[Shape]:
    """At most ``count`` shapes of some categories at random places, none of which touches another.

    Where no room is found for one, it is left out; the first always finds its place.
    """
    shapes: list[Shape] = []
    circles: list[tuple[float, float, float]] = []
    for _ in range(count):
        for _ in range(20):
            radius = rng.uniform(*radius_range) * min(width, height)
            x = rng.uniform(radius + 1, width - radius - 1)
            y = rng.uniform(radius + 1, height - radius - 1)
            if all(np.hypot(x - a, y - b) > radius + r for a, b, r in circles):
                break
        else:
            continue
        circles.append((x, y, radius))
        category = int(rng.choice(categories))
        turn = rng.uniform(-0.3, 0.3)
        rotation = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
        corners = outline(CATEGORIES[category][0]) @ rotation.T * radius + (x, y)
        shapes.append(Shape(category, corners))
    return shapes


def paint(rng: Generator, image: np.ndarray, shapes: list[Shape]) -> np.ndarray:
    """The image with the shapes on it, uint8; each shape's colour varies a little."""
    height, width = image.shape[:2]
    for category, polygon in shapes:
        colour = np.array(CATEGORIES[category][1]) + rng.normal(0, 12, 3)
        cover = np.zeros((height, width), np.uint8)
        # fillPoly takes the corners as integers; `shift` gives them 4 more binary digits.
        corners = np.round((polygon - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(cover, [corners], 255, lineType=cv2.LINE_AA, shift=4)
        cover = cover[..., None].astype(np.float32) / 255
        grain = rng.normal(0, 8, (height, width, 1)).astype(np.float32)
        image = image * (1 - cover) + (colour.astype(np.float32) + grain) * cover
    return image.clip(0, 255).astype(np.uint8)


def scene(
    rng: Generator,
    width: int,
    height: int,
    categories: Sequence[int],
    most: int,
    radius_range: tuple[float, float] = RADIUS_RANGE,
) -> tuple[np.ndarray, list[Shape]]:
    """An image (height, width, 3), RGB, uint8, with one to ``most`` shapes, and the shapes."""
    background = texture(rng, width, height, rng.integers(70, 170, 3))
    count = int(rng.integers(1, most + 1))
    shapes = place(rng, width, height, categories, count, radius_range)
    return paint(rng, background, shapes), shapes


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an RGB image (H, W, 3) or a map of labels (H, W), uint8, by the name's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.ndim == 3:
        image = image[..., ::-1]  # OpenCV writes BGR
    if not cv2.imwrite(str(path), image):
        raise OSError(f"OpenCV could not write {path}")


def choose_classes(classes: int, most: int) -> list[int]:
    """At most ``most`` class indices, evenly over ``range(classes)``, so that none is special."""
    used = min(classes, most)
    return [index * classes // used for index in range(used)]
