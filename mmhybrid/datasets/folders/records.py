"""What is read of a folder, and what is written of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmhybrid.datasets.findings import Finding
from mmhybrid.errors import UserError

TASKS = ("detection", "instances", "segmentation", "classification")
SPLITS = ("train", "val", "test")
ABOUT = "data/mmhybrid_data.json"  # in a work folder: what was written there
MOST_PIXELS = 2**28  # of an image whose size a file tells
IGNORED = 255  # the label of pixels that count for nothing


class TaskError(UserError):
    """A folder's labels do not serve the task; ``offers`` are the tasks that they would serve."""

    def __init__(self, message: str, offers: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.offers = offers


def size_told(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height that a file gives; None where they are none."""
    try:
        size = int(float(width)), int(float(height))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 and size[0] * size[1] < MOST_PIXELS else None


@dataclass
class Instance:
    """An object: box in pixels (x, y, width, height), outline as COCO has it."""

    name: str
    box: tuple[float, float, float, float] | Any  # whatever the file says until it is checked
    segmentation: list[list[float]] | dict[str, Any] | None = None
    crowd: bool = False


@dataclass
class ImageRecord:
    """An image and its labels.

    Args:
        name (str): Path below the folder, with ``/`` on every system.
        path (Path): The file. One that is embedded in a LabelMe file exists once it is written.
        width, height (int): In pixels, as mmcv reads it: turned by EXIF.
        annotated_size (tuple[int, int], optional): Width and height that the labels were made for.
        instances (list[Instance]): Of detection, or outlines to draw a mask from.
        label (str, optional): Class of the whole image.
        mask (Path, optional): File of class numbers or colours.
        pixels (dict[str, int]): Pixels of each class in ``mask``.
        embedded_in (Path, optional): The LabelMe file that holds the image.
        in_shares (bool): Coordinates are shares of the image's size until that is read.
    """

    name: str
    path: Path
    width: int = 0
    height: int = 0
    annotated_size: tuple[int, int] | None = None
    instances: list[Instance] = field(default_factory=list)
    label: str | None = None
    mask: Path | None = None
    pixels: dict[str, int] = field(default_factory=dict)
    embedded_in: Path | None = None
    in_shares: bool = False


@dataclass
class FolderData:
    """What a folder holds.

    Args:
        folder (Path): Absolute.
        task (str): One of ``TASKS``.
        format (str): In a user's words, such as ``"YOLO, data.yaml"``.
        classes (tuple[str, ...]): Position is the label that a model learns.
        splits (dict[str, list[ImageRecord]]): By ``"train"``, ``"val"`` and perhaps ``"test"``.
        palette (list[tuple[int, int, int]], optional): Colours of the classes, if the folder says.
        findings (list[Finding]): Errors first.
        values (dict[int, str | None]): Class of each value of the masks, or of each colour as
            ``0xRRGGBB``; None is ignored.
        in_colour (bool): Masks are colours.
        own_split (bool): The splits are ours, drawn by the seed.
        category_ids (dict[str, int]): Ids of the classes in COCO JSON, where each has one.
    """

    folder: Path
    task: str
    format: str
    classes: tuple[str, ...]
    splits: dict[str, list[ImageRecord]]
    palette: list[tuple[int, int, int]] | None = None
    findings: list[Finding] = field(default_factory=list)
    values: dict[int, str | None] = field(default_factory=dict)
    in_colour: bool = False
    own_split: bool = False
    category_ids: dict[str, int] = field(default_factory=dict)
