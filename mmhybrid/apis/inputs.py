"""Images and videos from files, folders and patterns."""

import glob
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

import cv2
import mmcv
import numpy as np
from PIL import Image, UnidentifiedImageError

from mmhybrid.errors import UserError

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def is_video(path: Path) -> bool:
    """Whether a file's name ends as a video's."""
    return path.suffix.lower() in VIDEOS


def find_inputs(names: Iterable[str]) -> list[tuple[Path, str]]:
    """Expands folders and patterns to files, each with a unique name for its outputs.

    Of a folder every file is taken, whatever it is; a name for which nothing is found is a
    UserError.
    """
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".")
        elif path.exists():
            found = [path]
        else:
            found = sorted(Path(p) for p in glob.glob(name, recursive=True) if Path(p).is_file())
        if not found:
            raise UserError(f"there is no image {name}")
        files += found
    files = list(dict.fromkeys(files))
    stems = [path.stem for path in files]
    return [
        (path, path.stem if stems.count(path.stem) == 1 else f"{index:04d}_{path.name}")
        for index, path in enumerate(files)
    ]


def read_image(path: Path) -> np.ndarray:
    """Reads an image (H, W, 3), BGR, uint8; OSError or ValueError where it cannot."""
    content = path.read_bytes()
    # OpenCV fills with grey what is missing of a JPEG; Pillow says that it is.
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
    except UnidentifiedImageError:
        raise ValueError("it is no image") from None
    image = mmcv.imfrombytes(content)
    if image is None:
        raise ValueError("OpenCV cannot read it")
    return image


def read_rgb(name: str | Path) -> np.ndarray:
    """Reads an image (H, W, 3), RGB, uint8, that a command line names; UserError if it cannot."""
    try:
        return read_image(Path(name))[..., ::-1].copy()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {name}: {error}") from error


def read_all(
    files: Iterable[tuple[Path, str]], on_error: Callable[[Path, str], None]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields (path, name, image) of every image and frame that :func:`find_inputs` found.

    ``on_error`` is called with each file that cannot be read, and the reason. The name of a frame
    is that of its video, as a folder, and its number.
    """
    for path, name in files:
        try:
            if is_video(path):
                video = cv2.VideoCapture(str(path))
                for index in count():
                    good, frame = video.read()
                    if not good and index == 0:
                        raise ValueError("OpenCV cannot read this video")
                    if not good:
                        break
                    yield f"{path}#{index}", f"{name}/{index:06d}", frame
            else:
                yield str(path), name, read_image(path)
        except (OSError, ValueError, cv2.error, Image.DecompressionBombError) as error:
            on_error(path, str(error) or type(error).__name__)
