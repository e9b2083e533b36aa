"""Whether images can be read, and what is remarkable of them."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmhybrid.datasets.check_data.problems import Found
from mmhybrid.datasets.image_files import BROKEN_FILE, opened, orientation

SMALLEST = 32  # pixels, of an image
START = 4096  # bytes: a header and the first rows
# What is said of Pillow's modes; of all others but RGB nothing is known that goes wrong.
MODES = {
    "CMYK": "cmyk-image",
    **dict.fromkeys(("I", "F"), "16-bit-image"),
    "P": "palette-image",
    **dict.fromkeys(("RGBA", "LA", "PA"), "transparent-image"),
    **dict.fromkeys(("L", "1"), "grey-image"),
}


def turns_images(dataset: Any) -> bool:
    """Whether the pipeline of a data set reads images turned by EXIF, as OpenCV does by default."""
    steps = [one for one in dataset.get("pipeline") or [] if isinstance(one, dict)]
    flag = str(steps[0].get("color_type", "color")) if steps else "color"
    return flag != "unchanged" and not flag.endswith("ignore_orientation")


def check_image(
    path: Path,
    size: tuple[int, int] | None = None,
    header_only: bool = False,
    turns: bool = True,
) -> list[Found]:
    """Reads an image as far as it goes, or its header alone, which tells nothing of its end.

    ``size`` is the (width, height) of the annotations, ``turns`` whether EXIF turns the image.
    """
    name = str(path)
    if not path.is_file() or path.stat().st_size == 0:
        return [Found("empty-file" if path.is_file() else "missing-image", name)]
    try:
        with opened(path) as image:
            mode, shape = image.mode, image.size
            turned = orientation(image) if turns else 1
            if not header_only:
                image.load()
    except BROKEN_FILE as error:
        code = "truncated-image" if "truncated" in str(error) else "unreadable-image"
        return [Found(code, name, f"{name} ({error})")]
    width, height = shape = shape[::-1] if turned >= 5 else shape
    problems = {
        MODES.get(mode.partition(";")[0]): True,  # "I;16B" is one of several
        "exif-turned": turned != 1,
        "small-image": min(shape) < SMALLEST,
    }
    found = [Found(code, name) for code, is_there in problems.items() if code and is_there]
    if size is not None and size != shape:
        sizes = f"{width}x{height} pixels, the annotations say {size[0]}x{size[1]}"
        found.append(Found("size-differs", name, f"{name} has {sizes}"))
    return found


def images_in_both(some: list[str], others: list[str], workers: int = 4) -> list[str]:
    """Those of ``others`` that are, byte for byte, among ``some``; nearly no file is read whole."""
    with ThreadPoolExecutor(workers) as pool:
        for key in (os.path.getsize, _start, _digest):
            first, second = (
                dict(zip(paths, pool.map(_or_none(key), paths), strict=True))
                for paths in (dict.fromkeys(some), dict.fromkeys(others))
            )
            common = {*first.values()} & {*second.values()} - {None}
            some = [path for path, value in first.items() if value in common]
            others = [path for path, value in second.items() if value in common]
    return others


def _start(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(START)


def _digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def _or_none(key: Callable[[str], object]) -> Callable[[str], object]:
    """What is not there, or cannot be read, is told elsewhere."""

    def read(path: str) -> object:
        try:
            return key(path)
        except OSError:
            return None

    return read
