"""Boxes from the maps of a one-stage detector, in operations that a graph can hold.

mmdet's own post-processing branches on how many boxes are left, which no graph can. Here all
candidates stay until the end, those below the threshold with a score of 0: they come last in every
order and suppress nobody that counts, so that the same boxes are found.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import nms

# A class derived from RetinaHead differs in how it is trained.
HEADS = ("RetinaHead", "RetinaSepBNHead", "YOLOV3Head")


def refused(head: nn.Module) -> str | None:
    """Why :func:`boxes_of` cannot be had of a head, in a sentence; None where it can."""
    if not {base.__name__ for base in type(head).__mro__} & set(HEADS):
        return refusal(f"of {type(head).__name__}", f"those of {', '.join(HEADS)}")
    if not getattr(head, "use_sigmoid_cls", True):
        return refusal(f"of {type(head).__name__} with softmax", "those with sigmoid")
    return refused_nms(head.test_cfg)


def refused_nms(cfg: dict) -> str | None:
    """The same of the suppression that a head's ``test_cfg`` asks for."""
    asked = {"type": "nms"} | dict(cfg.nms)
    if asked["type"] == "nms" and asked.keys() == {"type", "iou_threshold"}:
        return None
    return refusal(f"suppressed by {asked}", "those by type='nms' with an iou_threshold alone")


def refusal(boxes: str, others: str) -> str:
    """The sentence of it."""
    return f"boxes {boxes} cannot be exported, only the maps that they are made of; {others} can"


def boxes_of(
    head: nn.Module, lists: Sequence[Sequence[Tensor]], size: Sequence[int]
) -> dict[str, Tensor]:
    """The boxes that mmdet's heads predict for one image, by the ``test_cfg`` of the head.

    Args:
        head (nn.Module): One that is not :func:`refused`.
        lists (Sequence[Sequence[Tensor]]): Outputs of the head for a batch of one image.
        size (Sequence[int]): Its height and width; boxes of an anchor head end at its border.

    Returns:
        ``boxes`` (N, 4) as (left, top, right, bottom) in pixels, float32, ``scores`` (N,),
        highest first, and ``labels`` (N,), int64.
    """
    cfg = head.test_cfg
    sizes = [y.shape[-2:] for y in lists[0]]
    priors = head.prior_generator.grid_priors(sizes, device=lists[0][0].device)
    maps = [[y[0].permute(1, 2, 0) for y in level] for level in zip(*lists, strict=True)]
    decode = _of_yolo if hasattr(head, "num_attrib") else _of_anchors
    boxes, scores, labels = decode(head, maps, priors, size)
    scores = scores.where(large_enough(boxes, cfg), 0.0)
    kept = kept_rows(boxes, scores, labels, cfg)
    kept = kept[scores.index_select(0, kept) > 0]
    named = {"boxes": boxes, "scores": scores, "labels": labels}
    return {name: y.index_select(0, kept) for name, y in named.items()}


def large_enough(boxes: Tensor, cfg: dict) -> Tensor:
    """Whether a head's ``test_cfg`` keeps boxes (N, 4) of that size, (N,)."""
    return (boxes[:, 2:] - boxes[:, :2] > cfg.get("min_bbox_size", -1)).all(1)


def kept_rows(boxes: Tensor, scores: Tensor, labels: Tensor, cfg: dict) -> Tensor:
    """Rows of the boxes that nms leaves, ``max_per_img`` at most, highest score first."""
    # Boxes of different classes are moved apart, and so suppress each other no more.
    furthest = boxes.where((scores > 0)[:, None], 0.0).max()
    offsets = labels.to(boxes) * (furthest + 1)
    return nms(boxes + offsets[:, None], scores, cfg.nms.iou_threshold)[: cfg.max_per_img]


def _of_anchors(
    head: nn.Module, maps: list[list[Tensor]], priors: list[Tensor], size: Sequence[int]
) -> tuple[Tensor, ...]:
    found = []
    for (score, delta), boxes in zip(maps, priors, strict=True):
        scores = score.reshape(-1, head.cls_out_channels).sigmoid()
        scores, labels, rows = best(scores, head.test_cfg)
        delta = delta.reshape(-1, 4)
        found.append((boxes.index_select(0, rows), delta.index_select(0, rows), scores, labels))
    boxes, deltas, scores, labels = map(torch.cat, zip(*found, strict=True))
    return head.bbox_coder.decode(boxes, deltas, size), scores, labels


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
    scores, labels, rows = best(scores, head.test_cfg)
    sure, boxes = sure.squeeze(1).index_select(0, rows), torch.cat(boxes).index_select(0, rows)
    return boxes, scores * sure, labels


def best(scores: Tensor, cfg: dict) -> tuple[Tensor, Tensor, Tensor]:
    """The ``nms_pre`` highest of (boxes, classes): scores, 0 below the threshold, labels, rows."""
    classes = scores.shape[1]
    scores = scores.flatten()
    most = cfg.get("nms_pre", -1)
    count = torch.sym_min(scores.shape[0], most) if most > 0 else scores.shape[0]
    scores, places = scores.topk(count)
    scores = scores.where(scores > cfg.get("score_thr", 0), 0.0)
    return scores, places % classes, places // classes
