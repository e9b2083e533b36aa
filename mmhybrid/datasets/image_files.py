"""Files of images, read no further than need be, and what broken ones raise."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
from PIL import Image

# What the decoders of images raise at a broken file; mmcv asserts that OpenCV gave an image.
BROKEN_FILE = (OSError, EOFError, SyntaxError, ValueError, AssertionError, cv2.error)
BROKEN_FILE += (zlib.error, struct.error, MemoryError, Image.DecompressionBombError)
ORIENTATION = 0x0112  # the tag of EXIF


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image of which the head is read, without Pillow's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            yield image


def orientation(image: Image.Image) -> int:
    """How EXIF turns an image; 1 where it does not, 5 and more where its sides change places."""
    # Of other formats Pillow would read all pixels to look for it.
    has_exif = image.format in ("JPEG", "MPO", "WEBP", "TIFF") or "exif" in image.info
    found = image.getexif().get(ORIENTATION, 1) if has_exif else 1
    return found if found in range(1, 9) else 1


def size_of(path: Path, turns: bool = True) -> tuple[int, int] | None:
    """Width and height of an image as it is read, turned by EXIF or not; None if it cannot be."""
    try:
        with opened(path) as image:
            return image.size[::-1] if turns and orientation(image) >= 5 else image.size
    except BROKEN_FILE:
        return None
