"""Images of a data set with their labels on one sheet, to see at a glance whether they fit."""

import colorsys
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import DATASETS
from PIL import Image, ImageDraw, ImageFont
from torchvision.utils import draw_segmentation_masks, make_grid

from mmhybrid.errors import UserError

COLUMNS, WIDTH, GAP, STRIP = 4, 392, 6, 20  # pixels; the strip holds an image's name and class
HIGHEST = 0.94  # of a tile, as a share of WIDTH
FONT, SEED = ImageFont.load_default(size=14), 0
SMALLEST = 0.01  # share of the image that a class must have for its name to be written into it

Rectangle = tuple[float, float, float, float]  # left, top, right, bottom


def draw_contact_sheet(
    dataset: Any, path: str | Path, most: int = 16, scope: str | None = None
) -> Path:
    """Writes a PNG, for 16 images of at most 1600x1600 pixels, with boxes, masks and class names.

    What is drawn is what the data set's own transforms load (those called ``Load...``), with labels
    mapped as in training and without augmentation. Images that cannot be read are passed over.

    Args:
        dataset (BaseDataset | Mapping): Of mmdet, mmseg or mmpretrain, built or as a config.
        path (str | Path): The PNG to write; its folder is made.
        most (int): Images, chosen by a seed. Defaults to 16.
        scope (str, optional): Where the type of a config is looked up, such as ``"mmdet"``.
            Defaults to the current scope.

    Returns:
        ``path``.

    Raises:
        UserError: No image can be read.
    """
    if isinstance(dataset, Mapping):
        with DATASETS.switch_scope_and_registry(scope) as registry:
            dataset = registry.build(dict(dataset, _scope_=scope))
    while hasattr(dataset, "dataset") or hasattr(dataset, "datasets"):  # repeated, concatenated
        dataset = dataset.dataset if hasattr(dataset, "dataset") else dataset.datasets[0]
    samples: list[dict[str, Any]] = []
    for index in random.Random(SEED).sample(range(len(dataset)), len(dataset)):
        if len(samples) == most:
            break
        sample = _load(dataset, index)
        if sample is not None:
            samples.append(sample)
    if not samples:
        raise UserError("no image of the data set can be read")
    shapes = [sample["img"].shape for sample in samples]
    height = round(WIDTH * float(np.clip(np.median([s[0] / s[1] for s in shapes]), 0.5, HIGHEST)))
    metainfo = dataset.metainfo
    names = [str(name) for name in metainfo.get("classes") or ()]
    colours = _colours(metainfo.get("palette"), len(names))
    tiles = [_tile(sample, names, colours, height) for sample in samples]
    grid = make_grid(torch.stack(tiles), COLUMNS, GAP, pad_value=255)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(path)
    return path


def _load(dataset: Any, index: int) -> dict[str, Any] | None:
    """Image (RGB, uint8) and labels of a sample; None where it cannot be read."""
    sample = dataset.get_data_info(index)
    is_rgb = "img" in sample  # CIFAR's are; what is read from files is BGR
    try:
        for transform in dataset.pipeline.transforms:
            if type(transform).__name__.startswith("Load"):
                sample = transform(sample)
    except Exception:  # whatever a decoder raises at broken data
        return None
    image = np.clip(sample["img"], 0, 255).astype(np.uint8)
    sample["img"] = np.ascontiguousarray(image if is_rgb else image[..., ::-1])
    return sample


def _tile(
    sample: dict[str, Any], names: list[str], colours: list[tuple[int, int, int]], height: int
) -> torch.Tensor:
    """The sample as (3, height + STRIP, WIDTH), uint8."""
    image = sample["img"]
    scale = min(WIDTH / image.shape[1], height / image.shape[0])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    shown = torch.from_numpy(np.array(Image.fromarray(image).resize(size))).permute(2, 0, 1)
    labels = [int(label) for label in sample.get("gt_bboxes_labels", ())]
    texts: list[tuple[float, float, int, str]] = []  # left, top, label, what else is said
    if len(sample.get("gt_masks", ())):
        masks = [_resized(mask, size) > 0 for mask in sample["gt_masks"].to_ndarray()]
        shown = _overlaid(shown, masks, [colours[label] for label in labels], 0.45)
    if sample.get("gt_seg_map") is not None:
        there = _resized(sample["gt_seg_map"], size)
        present = [label for label in np.unique(there).tolist() if label < len(names)]
        masks = [there == label for label in present]
        shown = _overlaid(shown, masks, [colours[label] for label in present], 0.55)
        for label, mask in zip(present, masks, strict=True):
            if mask.mean() >= SMALLEST:
                texts.append((*_innermost(mask), label, ""))
    canvas = Image.new("RGB", (WIDTH, height + STRIP), "white")
    canvas.paste(Image.fromarray(shown.permute(1, 2, 0).numpy()))
    draw = ImageDraw.Draw(canvas)
    boxes = sample.get("gt_bboxes")
    boxes = () if boxes is None else np.asarray(getattr(boxes, "tensor", boxes)) * scale
    crowds = sample.get("gt_ignore_flags", [False] * len(labels))
    objects = sorted(zip(boxes, labels, crowds, strict=True), key=lambda one: -_area(one[0]))
    for box, label, crowd in objects:
        left, top, right, bottom = box.tolist()
        draw.rectangle((left, top, max(left, right), max(top, bottom)), None, colours[label], 2)
        texts.append((left, top, label, " (ignored)" if crowd else ""))
    written: list[tuple[int, Rectangle]] = []
    for left, top, label, more in texts:
        text = names[label] + more
        place = _place(draw, (left, top), text, size)
        if not any(one == label and _overlap(place, other) for one, other in written):
            _write(draw, place, text, colours[label])
            written.append((label, place))
    draw.text((2, height + 1), _caption(sample, names), "black", FONT)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)


def _caption(sample: dict[str, Any], names: list[str]) -> str:
    """Classes of the whole image, and the name of its file, as much as there is room for."""
    given = np.atleast_1d(sample.get("gt_label", [])).astype(int).tolist()
    text = ", ".join(names[one] if one < len(names) else str(one) for one in given)
    name = Path(sample.get("img_path") or "").name
    text = f"{text} · {name}" if text and name else text or name
    while FONT.getlength(text) > WIDTH - 4:
        text = text[:-2] + "…"
    return text


def _place(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, size: tuple[int, int]
) -> Rectangle:
    """Room for a name, moved so that it lies inside of an image of this size."""
    _, _, right, bottom = draw.textbbox((0, 0), text, FONT)
    x = max(0, min(corner[0], size[0] - right - 4))
    y = max(0, min(corner[1], size[1] - bottom - 4))
    return x, y, x + right + 4, y + bottom + 3


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _write(
    draw: ImageDraw.ImageDraw, place: Rectangle, text: str, colour: tuple[int, int, int]
) -> None:
    draw.rectangle(place, colour)
    brightness = np.dot(colour, (0.299, 0.587, 0.114))
    draw.text((place[0] + 2, place[1]), text, "black" if brightness > 140 else "white", FONT)


def _overlaid(
    image: torch.Tensor, masks: list[np.ndarray], colours: list[tuple[int, int, int]], alpha: float
) -> torch.Tensor:
    if not masks:
        return image
    stack = torch.from_numpy(np.stack(masks))
    return draw_segmentation_masks(image.contiguous(), stack, alpha, colours)


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)


def _innermost(mask: np.ndarray) -> tuple[int, int]:
    """x and y of the pixel that lies deepest in a mask."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return int(x) - 1, int(y) - 1


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _colours(palette: Any, count: int) -> list[tuple[int, int, int]]:
    """The data set's own palette, or colours that differ, by the golden ratio around the wheel."""
    if isinstance(palette, list | tuple) and len(palette) >= count:
        return [tuple(colour) for colour in palette]
    hues = (0.618034 * i % 1 for i in range(count))
    return [tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.8, 0.9)) for hue in hues]
