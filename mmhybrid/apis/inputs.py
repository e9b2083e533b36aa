"""Images and videos from files, folders and patterns."""

import glob
import io
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count, takewhile
from pathlib import Path

import cv2
import mmcv
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from mmhybrid.errors import UserError

IMAGES = (*IMG_EXTENSIONS, ".jfif", ".jp2", ".gif", ".avif")
LARGEST = 2**30  # pixels of an image that OpenCV reads
PILLOW = threading.Lock()
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def is_video(path: Path) -> bool:
    """Whether a file's name ends as a video's."""
    return path.suffix.lower() in VIDEOS


def find_inputs(
    names: Iterable[str], leave_out: str | Path | None = None
) -> list[tuple[Path, str]]:
    """Expands folders and patterns to files, each with a unique name for its outputs.

    Of a folder and its subfolders, those that are links too, all files are taken that are images or
    videos by the ends of their names, but none that is hidden. Of folders and patterns none is
    taken that is in the folder ``leave_out``. The name of the outputs is the file's without its
    end, after its path in the folder; where two would be alike, their ends stay, or a number goes
    first. A name for which nothing is found is a UserError.
    """
    files: dict[Path, str] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            folder = path
            found = sorted(one for one in _files_in(path) if _is_wanted(one, path))
        elif path.exists():
            folder, found = path.parent, [path]
        else:
            folder = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
            found = sorted(Path(one) for one in glob.glob(name, recursive=True))
            found = [one for one in found if one.is_file()]
        if leave_out and found != [path]:
            left_out = Path(leave_out).resolve()
            found = [one for one in found if not one.resolve().is_relative_to(left_out)]
        if not found:
            raise UserError(f"there is no image {name}")
        for one in found:
            files.setdefault(one, one.relative_to(folder).with_suffix("").as_posix())
    alike = Counter(files.values())
    folders = {one.as_posix() for output in alike for one in Path(output).parents}
    named, taken = [], {output for output in alike if alike[output] == 1}
    for index, (path, output) in enumerate(files.items()):
        # The frames of a video go to a folder of its name.
        if alike[output] > 1 or (is_video(path) and output in folders):
            output += path.suffix
            output = f"{index:04d}_{path.name}" if output in taken else output
            taken.add(output)
        named.append((path, output))
    return named


def _files_in(folder: Path) -> Iterator[Path]:
    """Files of a folder and its subfolders, each of which is entered once, whatever links to it."""
    entered, starts = set(), [str(folder)]
    while starts:  # what lies there before what links lead to
        for place, folders, names in os.walk(starts.pop(0)):
            if (real := os.path.realpath(place)) in entered:
                folders.clear()
                continue
            entered.add(real)
            folders[:] = sorted(name for name in folders if name[0] != ".")
            paths = [os.path.join(place, name) for name in folders]
            starts += filter(os.path.islink, paths)
            yield from (Path(place, name) for name in names)


def _is_wanted(path: Path, folder: Path) -> bool:
    return (
        path.suffix.lower() in (*IMAGES, *VIDEOS)
        and not any(part[0] == "." for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def count_images(files: Iterable[tuple[Path, str]]) -> int:
    """The number of images and, as the videos say it themselves, frames."""
    total = 0
    for path, _ in files:
        frames = cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) if is_video(path) else 1
        total += max(1, int(frames))
    return total


@contextmanager
def _large_images() -> Iterator[None]:
    """Inside, Pillow opens images of any size. It knows one limit, for all threads."""
    with PILLOW:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def read_image(path: Path) -> np.ndarray:
    """Reads an image (H, W, 3), BGR, uint8; OSError or ValueError where it cannot."""
    content = path.read_bytes()
    # OpenCV fills with grey what is missing of a JPEG; Pillow says that it is.
    try:
        with _large_images(), Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > LARGEST:
                raise ValueError(
                    f"{opened.width}x{opened.height} pixels are more than OpenCV reads"
                )
            opened.load()
    except UnidentifiedImageError:
        raise ValueError("it is no image") from None
    except Exception as error:  # of many types, by format
        raise ValueError(str(error) or type(error).__name__) from error
    image = mmcv.imfrombytes(content)
    if image is None:
        raise ValueError("OpenCV cannot read it")
    return image


def read_rgb(name: str | Path) -> np.ndarray:
    """Reads an image (H, W, 3), RGB, uint8, that a command line names; UserError if it cannot."""
    try:
        return read_image(Path(name))[..., ::-1].copy()
    except (OSError, ValueError, cv2.error) as error:
        raise UserError(f"cannot read {name}: {error}") from error


def rgb_of(image: Image.Image | np.ndarray) -> np.ndarray:
    """An image of Pillow as its file is read, or an array, as (H, W, 3), RGB, uint8.

    A UserError where an array is anything else, or where Pillow cannot convert the image.
    """
    if isinstance(image, Image.Image):
        try:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits, of which convert() would clip most
                image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
            return np.array(image.convert("RGB"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the image: {error}") from error
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        told = f"{array.shape} of {array.dtype}"
        raise UserError(f"an array of an image is (H, W, 3) of uint8, in RGB, and not {told}")
    return array


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
        except (OSError, ValueError, cv2.error) as error:
            on_error(path, str(error) or type(error).__name__)
