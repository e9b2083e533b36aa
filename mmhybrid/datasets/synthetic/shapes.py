"""Images of coloured shapes on a textured background, with their outlines."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

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


@dataclass
class Shape:
    """One object of an image.

    Attributes:
        category (int): Index into :data:`CATEGORIES`.
        polygon (np.ndarray): Corners (x, y) in pixels, (N, 2), all inside the image.
    """

    category: int
    polygon: np.ndarray

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, width, height."""
        corner = self.polygon.min(axis=0)
        return (*corner.tolist(), *(self.polygon.max(axis=0) - corner).tolist())

    @property
    def area(self) -> float:
        """Area in pixels."""
        return cv2.contourArea(self.polygon.astype(np.float32))


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


def texture(
    rng: np.random.Generator, width: int, height: int, colour: tuple[int, int, int]
) -> np.ndarray:
    """An RGB image (height, width, 3), float32: slow waves and fine grain around one colour."""
    waves = rng.normal(0, 22, (6, 8, 3)).astype(np.float32)
    waves = cv2.resize(waves, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 6, (height, width, 1)).astype(np.float32)
    return waves + grain + np.array(colour, np.float32)


def place(
    rng: np.random.Generator,
    width: int,
    height: int,
    categories: Sequence[int],
    count: int,
    radius_range: tuple[float, float] = (0.14, 0.27),
) -> list[Shape]:
    """Shapes at random places, none of which touches another.

    Args:
        rng (np.random.Generator): Source of the random numbers.
        width (int): Of the image, in pixels.
        height (int): Of the image, in pixels.
        categories (Sequence[int]): Which of :data:`CATEGORIES` to take.
        count (int): How many shapes to try to place. Where no room is found for one, it is left
            out; the first always finds its place.
        radius_range (tuple[float, float]): Of the circles around the shapes, in short sides of the
            image. Defaults to (0.14, 0.27).
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


def paint(rng: np.random.Generator, image: np.ndarray, shapes: list[Shape]) -> np.ndarray:
    """The image with the shapes on it, uint8; each shape's colour varies a little."""
    height, width = image.shape[:2]
    for shape in shapes:
        colour = np.array(CATEGORIES[shape.category][1]) + rng.normal(0, 12, 3)
        cover = np.zeros((height, width), np.uint8)
        # fillPoly takes the corners as integers; `shift` gives them 4 more binary digits.
        corners = np.round((shape.polygon - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(cover, [corners], 255, lineType=cv2.LINE_AA, shift=4)
        cover = cover[..., None].astype(np.float32) / 255
        grain = rng.normal(0, 8, (height, width, 1)).astype(np.float32)
        image = image * (1 - cover) + (colour.astype(np.float32) + grain) * cover
    return image.clip(0, 255).astype(np.uint8)


def scene(
    rng: np.random.Generator, width: int, height: int, categories: Sequence[int], most: int
) -> tuple[np.ndarray, list[Shape]]:
    """An image (height, width, 3), RGB, uint8, with one to ``most`` shapes, and the shapes."""
    background = texture(rng, width, height, tuple(rng.integers(70, 170, 3)))
    shapes = place(rng, width, height, categories, int(rng.integers(1, most + 1)))
    return paint(rng, background, shapes), shapes
