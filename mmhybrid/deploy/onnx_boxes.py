"""Boxes from the maps of a one-stage detector, in operations that a graph can hold.

mmdet's own post-processing branches on how many boxes are left, which no graph can. Here all
candidates stay until the end, those below the threshold with a score of 0: they come last in every
order and suppress nobody that counts, so that the same boxes are found.
"""

from __future__ import annotations

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
    if hasattr(head, "num_attrib"):
        boxes, scores, labels = _of_yolo(head, *lists)
    elif len(lists) == 2 and getattr(head, "use_sigmoid_cls", False):
        boxes, scores, labels = _of_anchors(head, *lists, size)
    else:
        raise ArgumentError(f"boxes of {type(head).__name__} cannot be exported, only its maps")
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
    head: nn.Module, scores: Sequence[Tensor], deltas: Sequence[Tensor], size: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    found = []
    for score, delta, priors in zip(scores, deltas, _priors(head, scores), strict=True):
        score = score[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels).sigmoid()
        best, labels, rows = _best(score, head.test_cfg)
        delta = delta[0].permute(1, 2, 0).reshape(-1, 4)
        found.append((head.bbox_coder.decode(priors[rows], delta[rows], size), best, labels))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _priors(head: nn.Module, maps: Sequence[Tensor]) -> list[Tensor]:
    """The boxes (N, 4) of each level that a head's outputs are relative to."""
    sizes = [y.shape[-2:] for y in maps]
    return head.prior_generator.grid_priors(sizes, device=maps[0].device)


def _of_yolo(head: nn.Module, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    boxes, objectness, scores = [], [], []
    for given, priors, stride in zip(maps, _priors(head, maps), head.featmap_strides, strict=True):
        given = given[0].permute(1, 2, 0).reshape(-1, head.num_attrib)
        place = torch.cat([given[:, :2].sigmoid(), given[:, 2:4]], 1)
        boxes.append(head.bbox_coder.decode(priors, place, stride))
        objectness.append(given[:, 4].sigmoid())
        scores.append(given[:, 5:].sigmoid())
    sure = torch.cat(objectness)
    cfg = head.test_cfg
    scores = torch.cat(scores).where((sure >= cfg.get("conf_thr", -1))[:, None], 0.0)
    best, labels, rows = _best(scores, cfg)
    return torch.cat(boxes)[rows], best * sure[rows], labels


def _best(scores: Tensor, cfg: dict) -> tuple[Tensor, Tensor, Tensor]:
    """The ``nms_pre`` highest of (boxes, classes): scores, 0 below the threshold, labels, rows."""
    classes = scores.shape[1]
    scores = scores.flatten()
    count = torch.sym_min(scores.shape[0], cfg.get("nms_pre", scores.shape[0]))
    best, places = scores.topk(count)
    best = best.where(best > cfg.get("score_thr", 0), 0.0)
    return best, places % classes, places // classes
