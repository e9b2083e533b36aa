"""Boxes from the maps of a one-stage detector, in operations that a graph can hold.

mmdet's own post-processing branches on how many boxes are left, which no graph can. Here all
candidates stay until the end, those below the threshold with a score of 0: they come last in every
order and suppress nobody that counts, so that the same boxes are found.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from mmhybrid.errors import ArgumentError


def boxes_of(
    head: nn.Module, lists: Sequence[Sequence[Tensor]], size: Sequence[int]
) -> dict[str, Tensor]:
    """The boxes that mmdet's heads predict for one image, by the ``test_cfg`` of the head.

    Args:
        head (nn.Module): ``YOLOV3Head``, or an ``AnchorHead`` with sigmoid scores, as RetinaNet's.
        lists (Sequence[Sequence[Tensor]]): Outputs of the head for a batch of one image.
        size (Sequence[int]): Its height and width; boxes of an anchor head end at its border.

    Returns:
        ``boxes`` (N, 4) as (left, top, right, bottom) in pixels, float32, ``scores`` (N,),
        highest first, and ``labels`` (N,), int64.

    Raises:
        ArgumentError: The head is another, or its ``test_cfg`` asks for another suppression.
    """
    cfg = head.test_cfg
    if cfg.nms.get("type", "nms") != "nms":
        raise ArgumentError(f"boxes are exported with type='nms', not {cfg.nms.type!r}")
    is_yolo = hasattr(head, "num_attrib")
    if not is_yolo and (len(lists) != 2 or not getattr(head, "use_sigmoid_cls", False)):
        raise ArgumentError(f"boxes of {type(head).__name__} cannot be exported, only its maps")
    sizes = [y.shape[-2:] for y in lists[0]]
    priors = head.prior_generator.grid_priors(sizes, device=lists[0][0].device)
    maps = [[y[0].permute(1, 2, 0) for y in level] for level in zip(*lists, strict=True)]
    decode = _of_yolo if is_yolo else _of_anchors
    boxes, scores, labels = decode(head, maps, priors, size)
    if cfg.get("min_bbox_size", -1) >= 0:
        sides = boxes[:, 2:] - boxes[:, :2]
        scores = scores.where((sides > cfg.min_bbox_size).all(1), 0.0)
    # Boxes of different classes are moved apart, and so suppress each other no more.
    furthest = boxes.where((scores > 0)[:, None], 0.0).max()
    offsets = labels.to(boxes) * (furthest + 1)
    kept = nms(boxes + offsets[:, None], scores, cfg.nms.iou_threshold)[: cfg.max_per_img]
    kept = kept[scores[kept] > 0]
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


def _of_anchors(
    head: nn.Module, maps: list[list[Tensor]], priors: list[Tensor], size: Sequence[int]
) -> tuple[Tensor, ...]:
    found = []
    for (score, delta), boxes in zip(maps, priors, strict=True):
        best, labels, rows = _best(
            score.reshape(-1, head.cls_out_channels).sigmoid(), head.test_cfg
        )
        boxes = head.bbox_coder.decode(boxes[rows], delta.reshape(-1, 4)[rows], size)
        found.append((boxes, best, labels))
    return tuple(map(torch.cat, zip(*found, strict=True)))


def _of_yolo(
    head: nn.Module, maps: list[list[Tensor]], priors: list[Tensor], size: Sequence[int]
) -> tuple[Tensor, ...]:
    boxes, scores = [], []
    for (y,), prior, stride in zip(maps, priors, head.featmap_strides, strict=True):
        y = y.reshape(-1, head.num_attrib)
        place = torch.cat([y[:, :2].sigmoid(), y[:, 2:4]], 1)
        boxes.append(head.bbox_coder.decode(prior, place, stride))
        scores.append(y[:, 4:].sigmoid())
    sure, scores = torch.cat(scores).tensor_split([1], 1)
    scores = scores.where(sure >= head.test_cfg.get("conf_thr", -1), 0.0)
    best, labels, rows = _best(scores, head.test_cfg)
    return torch.cat(boxes)[rows], best * sure[rows, 0], labels


def _best(scores: Tensor, cfg: dict) -> tuple[Tensor, Tensor, Tensor]:
    """The ``nms_pre`` highest of (boxes, classes): scores, 0 below the threshold, labels, rows."""
    classes = scores.shape[1]
    scores = scores.flatten()
    count = torch.sym_min(scores.shape[0], cfg.get("nms_pre", scores.shape[0]))
    best, places = scores.topk(count)
    best = best.where(best > cfg.get("score_thr", 0), 0.0)
    return best, places % classes, places // classes
