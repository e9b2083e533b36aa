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
    """What mmdet's heads predict for one image, by the ``test_cfg`` of the head.

    Args:
        head: mmdet's ``YOLOV3Head``, or an ``AnchorHead`` with sigmoid scores, as RetinaNet's.
        lists: what the head returns for a batch of one image.
        size: its height and width; boxes of an anchor head end at its border.

    Returns:
        ``boxes`` (N, 4) as (left, top, right, bottom) in pixels, float32, ``scores`` (N,),
        highest first, and ``labels`` (N,), int64.

    Raises:
        ValueError: the head is of another kind, or its ``test_cfg`` asks for another suppression.
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
    for level, (score, delta) in enumerate(zip(scores, deltas, strict=True)):
        height, width = score.shape[-2:]
        priors = head.prior_generator.single_level_grid_priors(
            (height, width), level, device=score.device
        )
        score = score[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels).sigmoid()
        best, labels, rows = _best(score, head.test_cfg)
        delta = delta[0].permute(1, 2, 0).reshape(-1, 4)
        found.append((head.bbox_coder.decode(priors[rows], delta[rows], size), best, labels))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _of_yolo(head: nn.Module, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    boxes, objectness, scores = [], [], []
    for level, given in enumerate(maps):
        height, width = given.shape[-2:]
        priors = head.prior_generator.single_level_grid_priors(
            (height, width), level, device=given.device
        )
        given = given[0].permute(1, 2, 0).reshape(-1, head.num_attrib)
        place = torch.cat([given[:, :2].sigmoid(), given[:, 2:4]], 1)
        boxes.append(head.bbox_coder.decode(priors, place, head.featmap_strides[level]))
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
