"""What all formats share: writing an image, choosing classes."""

from pathlib import Path

import cv2
import numpy as np


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
