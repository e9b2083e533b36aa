"""Very large images in tiles that overlap.

Attention costs the square of the number of pixels, and what is resized to fit a model loses what is
small. Each type of model takes tiles in its own way:

* a detector sees the whole image, resized as always, and every tile as an image of its own; what
  they find is merged. An object that is cut by a tile's border is left to its neighbour, which has
  it whole if it is smaller than the overlap, or else to the whole image.
* a segmentor takes mmsegmentation's sliding windows, of the image as its config resizes it.
* a backbone gives maps of tiles that are each computed with some pixels around them.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou

from mmhybrid.apis.deployed import DeployedInferencer
from mmhybrid.apis.samples import samples_of
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name

OVERLAP = 0.25  # of a tile's side
SHORTEST = 512  # the shorter side of a detector's tile, at least
WINDOW = (1024, 1024)  # of a segmentor whose config names no size, (height, width)
# What a whole image may be: more pixels take more than half a minute of a processor in TransXNet-T.
LARGEST = 4_000_000
# A whole image's memory, roughly: maps of the backbone (200 in TransXNet-T), and three copies of
# the logits. Bytes a pixel.
OF_MAPS, OF_A_CLASS = 400, 12
MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True)
class Change:
    """How the result of tiles differs from that of the whole image.

    Args:
        same (float): Share of what the whole image gives that tiles give too: of a detector
            objects, of a segmentor pixels.
        more (int): Objects that only tiles give.
    """

    same: float
    more: int = 0


def spans(length: int, tile: int, overlap: float = OVERLAP) -> list[tuple[int, int]]:
    """Starts and ends of tiles along a side, evenly placed.

    Example:
        >>> spans(100, 40)
        [(0, 40), (30, 70), (60, 100)]
        >>> spans(30, 40)
        [(0, 30)]
    """
    tile = min(tile, length)
    count = math.ceil((length - tile) / max(1, tile * (1 - overlap))) + 1
    starts = np.linspace(0, length - tile, count).round().astype(int).tolist()
    return [(start, start + tile) for start in starts]


def parse_tile(text: str) -> str | tuple[int, int] | None:
    """``'auto'``, ``None`` for ``'off'``, or (height, width); a UserError for anything else."""
    if text in ("auto", "off"):
        return "auto" if text == "auto" else None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) >= 64 for side in sides):
        raise UserError(f"--tile takes auto, off or a size such as 800x1333, not {text!r}")
    return int(sides[0]), int(sides[1])


def choose_tile(inferencer: Any, size: Sequence[int]) -> tuple[int, int] | None:
    """The height and width of tiles for an image of (height, width), or None for the whole.

    A detector takes tiles where the image has more than twice the pixels of one. They are as large
    as what it is resized to, or so that their shorter side has :data:`SHORTEST` pixels: a model
    that sees small images was trained on larger ones that were made small. A segmentor takes them
    where what the image is resized to has more pixels than :data:`LARGEST`, or would fill half of
    the memory that is free.
    """
    scale = _scale(inferencer)
    resized = mmcv.rescale_size(size[::-1], tuple(scale))[::-1] if scale else tuple(size)
    if not _is_segmentor(inferencer):
        factor = max(1, SHORTEST / min(resized))
        tile = tuple(round(side * factor) for side in resized)
        return tile if math.prod(size) > 2 * math.prod(tile) else None
    pixels = math.prod(resized)
    classes = len(inferencer.model.dataset_meta["classes"])
    needed = pixels * (OF_MAPS + OF_A_CLASS * classes)
    if pixels <= LARGEST and needed <= _free_memory(inferencer.model) / 2:
        return None
    return tuple(inferencer.model.test_cfg.get("crop_size") or WINDOW)


def samples_in_tiles(
    inferencer: Any,
    images: list[np.ndarray],
    tile: str | tuple[int, int] | None = "auto",
    changes: list[Change] | None = None,
) -> list[Any]:
    """Data samples of images (H, W, 3), BGR, uint8, as :func:`mmhybrid.apis.predict` has them.

    Masks of objects in tiles are a list of COCO's run lengths, of the whole image: as pixels, those
    of a very large image would fill the memory.

    Args:
        inferencer: From :func:`mmhybrid.apis.make_inferencer`, of a detector or segmentor.
        images (list[np.ndarray]): Of any sizes.
        tile (str | tuple[int, int], optional): Height and width, of an image's own pixels for a
            detector; None for whole images, which have none either where ``'auto'`` finds that
            they are small.
        changes (list[Change], optional): Takes how each result in tiles differs from that of the
            whole image, which a segmentor is run on for this alone.

    Raises:
        UserError: The model is a classifier.
    """
    if tile is None:
        return samples_of(inferencer, images)
    check_tiles(inferencer)
    samples = []
    for image in images:
        chosen = choose_tile(inferencer, image.shape[:2]) if tile == "auto" else tile
        if chosen is None:
            samples += samples_of(inferencer, [image])
        elif _is_segmentor(inferencer):
            with _windows(inferencer, chosen):
                (sample,) = samples_of(inferencer, [image])
            samples.append(sample)
            if changes is not None:
                (whole,) = samples_of(inferencer, [image])
                same = whole.pred_sem_seg.data == sample.pred_sem_seg.data
                changes.append(Change(same.double().mean().item()))
        else:
            sample, change = _detect(inferencer, image, chosen)
            samples.append(sample)
            if changes is not None:
                changes.append(change)
    return samples


def check_tiles(inferencer: Any) -> None:
    """A UserError where the model is a classifier."""
    if hasattr(inferencer.model, "head") or _task(inferencer) == "classification":
        raise UserError("--tile is for detectors and segmentors: a class is one of a whole image")


def _task(inferencer: Any) -> str | None:
    """Of an exported model."""
    is_deployed = isinstance(inferencer, DeployedInferencer)
    return inferencer.predictor.task if is_deployed else None


def _is_segmentor(inferencer: Any) -> bool:
    return hasattr(inferencer.model, "decode_head") or _task(inferencer) == "segmentation"


def _scale(inferencer: Any) -> Sequence[int] | None:
    """The (width, height) that images are resized into, if they are."""
    if isinstance(inferencer, DeployedInferencer):
        steps = inferencer.predictor.meta["resize"]
        return next((step["scale"] for step in steps if "scale" in step), None)
    for step in inferencer.cfg.test_dataloader.dataset.pipeline:
        if type_name(step) == "Resize":
            return step.get("scale")
    return None


def _free_memory(model: Any) -> float:
    is_module = isinstance(model, nn.Module)  # what is exported runs on the CPU
    if is_module and (device := next(model.parameters()).device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not MEMORY.exists():
        return math.inf
    line = next(one for one in MEMORY.read_text().splitlines() if one.startswith("MemAvailable"))
    return 1024 * int(line.split()[1])


@contextmanager
def _windows(inferencer: Any, tile: tuple[int, int]) -> Iterator[None]:
    """Inside, a segmentor takes sliding windows of this size."""
    if isinstance(inferencer, DeployedInferencer):
        inferencer.tile = tile
        try:
            yield
        finally:
            inferencer.tile = None
        return
    model = inferencer.model
    before = model.test_cfg
    stride = tuple(max(1, round(side * (1 - OVERLAP))) for side in tile)
    model.test_cfg = type(before)(before | dict(mode="slide", crop_size=tile, stride=stride))
    try:
        yield
    finally:
        model.test_cfg = before


def _detect(inferencer: Any, image: np.ndarray, tile: tuple[int, int]) -> tuple[Any, Change]:
    """The data sample of an image in tiles, and how it differs from that of the whole."""
    size = image.shape[:2]
    (sample,) = samples_of(inferencer, [image])
    sample.pred_instances = whole = _encode_masks(sample.pred_instances.cpu())
    parts = [(whole, (0, 0))]
    for (top, bottom), (left, right) in product(*map(spans, size, tile)):
        (found,) = samples_of(inferencer, [np.ascontiguousarray(image[top:bottom, left:right])])
        found = found.pred_instances.cpu()
        cut = _is_cut(found.bboxes, (left, top, right, bottom), size)
        found = _encode_masks(found[~cut])
        found.bboxes = found.bboxes + found.bboxes.new_tensor([left, top] * 2)
        parts.append((found, (top, left)))
    merged = InstanceData(
        **{
            key: torch.cat([part[key] for part, _ in parts])
            for key in ("bboxes", "scores", "labels")
        }
    )
    threshold = _iou_threshold(inferencer.model)
    kept = batched_nms(merged.bboxes, merged.scores, merged.labels, threshold)
    merged = merged[kept]
    if "masks" in whole:
        small = [(mask, place) for part, place in parts for mask in part.masks]
        merged.masks = [_paste(*small[index], size) for index in kept.tolist()]
    sample.pred_instances = merged
    return sample, _compare(whole, merged)


def _encode_masks(found: InstanceData) -> InstanceData:
    """With masks (N, H, W), if there are any, as COCO's run lengths, which mmdet's metric takes."""
    from pycocotools import mask

    if "masks" in found:
        pixels = (np.asfortranarray(one.numpy().astype(np.uint8)) for one in found.masks)
        found.masks = [mask.encode(one) for one in pixels]
    return found


def _paste(code: dict, place: tuple[int, int], size: Sequence[int]) -> dict:
    """Run lengths of a mask in an image of (height, width), from those in a tile at (top, left)."""
    from pycocotools import mask

    if list(size) == code["size"]:
        return code
    whole = np.zeros(size, np.uint8, order="F")
    (top, left), (height, width) = place, code["size"]
    whole[top : top + height, left : left + width] = mask.decode(code)
    return mask.encode(whole)


def _is_cut(boxes: Tensor, place: Sequence[int], size: Sequence[int]) -> Tensor:
    """Whether boxes in a tile (left, top, right, bottom) end where it ends inside of the image."""
    left, top, right, bottom = place
    near = 0.01 * max(right - left, bottom - top)  # a box is not met to the pixel
    inner = boxes.new_tensor([left > 0, top > 0, right < size[1], bottom < size[0]]).bool()
    ends = boxes.new_tensor([0, 0, right - left, bottom - top])
    return (((boxes - ends).abs() <= near) & inner).any(1)


def _iou_threshold(model: Any) -> float:
    """Of the model's own suppression of boxes that say the same."""
    cfg = getattr(model, "test_cfg", None) or {}
    return ((cfg.get("rcnn") or cfg).get("nms") or {}).get("iou_threshold", 0.5)


def _compare(whole: InstanceData, merged: InstanceData, score: float = 0.3) -> Change:
    """Objects of at least a score are the same with the same label and an IoU of 0.5."""
    whole, merged = whole[whole.scores >= score], merged[merged.scores >= score]
    alike = box_iou(whole.bboxes, merged.bboxes) >= 0.5
    alike &= whole.labels[:, None] == merged.labels
    same = alike.any(1).double().mean().item() if len(whole) else 1.0
    return Change(same, int((~alike.any(0)).sum()))


@torch.no_grad()
def features_in_tiles(
    backbone: nn.Module, x: Tensor, tile: tuple[int, int] = WINDOW, halo: int = 128
) -> tuple[Tensor, ...]:
    """Maps of a backbone, computed in tiles with pixels around them that are cut off again.

    With a halo as wide as the image the maps are those of the whole. With less they differ:
    attention sees no further than the tile with its halo.

    Args:
        backbone (nn.Module): Of mmhybrid, in evaluation mode.
        x (Tensor): (B, C, H, W).
        tile (tuple[int, int]): Height and width, multiples of 32.
        halo (int): Pixels around a tile, a multiple of 32. Defaults to 128.

    Raises:
        UserError: 32 does not divide a side or the halo.

    Example:
        >>> from mmhybrid.backbones import XFormer
        >>> model = XFormer(**XFormer.test_options).eval()
        >>> features_in_tiles(model, torch.ones(1, 3, 96, 160), (64, 64), 32)[0].shape
        torch.Size([1, 16, 24, 40])
    """
    if any(side % 32 for side in (*tile, halo)) or min(tile) <= 0:
        raise UserError(f"tile {tile} and halo {halo} must be multiples of 32")
    maps: list[Tensor] = []
    height, width = x.shape[-2:]
    for top, left in product(range(0, height, tile[0]), range(0, width, tile[1])):
        bottom, right = min(top + tile[0], height), min(left + tile[1], width)
        y0, x0 = max(0, top - halo), max(0, left - halo)
        found = backbone(x[..., y0 : bottom + halo, x0 : right + halo])
        for index, y in enumerate(found):
            stride = backbone.feature_strides[index]
            if len(maps) <= index:
                shape = (-(-height // stride), -(-width // stride))
                maps.append(y.new_empty(*y.shape[:2], *shape))
            rows, columns = (
                slice(start // stride, -(-stop // stride))
                for start, stop in ((top, bottom), (left, right))
            )
            inner = y[
                ...,
                rows.start - y0 // stride : rows.stop - y0 // stride,
                columns.start - x0 // stride : columns.stop - x0 // stride,
            ]
            maps[index][..., rows, columns] = inner
    return tuple(maps)
