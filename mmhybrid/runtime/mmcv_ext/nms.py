"""Non-maximum suppression with the arguments of mmcv's kernels.

All of them work in float32, thresholds too, as mmcv's do: what happens to a box whose overlap
equals the threshold depends on it.
"""

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

_NAIVE, _LINEAR, _GAUSSIAN = 0, 1, 2


def _round_to_float32(number: float) -> float:
    return torch.tensor(number, dtype=torch.float32).item()


def _iou(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """Overlap of one box (4,) with boxes (N, 4), widths and heights being x2 - x1 + offset."""
    sizes = boxes[:, 2:] - boxes[:, :2] + offset
    size = box[2:] - box[:2] + offset
    shared = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2]) + offset
    shared = shared.clamp(min=0)
    intersection = shared[:, 0] * shared[:, 1]
    return intersection / (size[0] * size[1] + sizes[:, 0] * sizes[:, 1] - intersection)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy NMS.

    Args:
        boxes: (N, 4), as x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: A box goes when its overlap with a kept one is greater than this.
        offset: 1 where x2 and y2 name the last pixel inside the box, 0 otherwise.

    Returns:
        Indices of the kept boxes, the highest score first.
    """
    boxes = boxes.float()
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return torch.ops.torchvision.nms(boxes, scores.float(), _round_to_float32(iou_threshold))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (https://arxiv.org/abs/1704.04503): overlapping boxes lose score.

    Args:
        boxes: (N, 4), as x1, y1, x2, y2.
        scores: (N,).
        dets: (N, 5), filled with the surviving boxes and their new scores.
        iou_threshold: The naive and the linear method act on overlaps from here on.
        sigma: Width of the Gaussian method.
        min_score: A box whose score falls below this goes.
        method: 0 naive, 1 linear, 2 Gaussian.
        offset: As in `nms`.

    Returns:
        Indices of the surviving boxes in the order of `dets`.
    """
    boxes, scores = boxes.float().clone(), scores.float().clone()
    iou_threshold, min_score = _round_to_float32(iou_threshold), _round_to_float32(min_score)
    order = torch.arange(len(boxes), device=boxes.device)
    position = 0
    while position < len(boxes):
        # The best of the rest changes places with the first of the rest. Which of two equal
        # scores wins depends on this order, so it is kept just as mmcv keeps it.
        swap = [position, position + int(scores[position:].argmax())]
        for values in (boxes, scores, order):
            values[swap] = values[swap[::-1]]
        rest = slice(position + 1, None)
        overlap = _iou(boxes[position], boxes[rest], offset)
        if method == _NAIVE:
            weight = (overlap < iou_threshold).to(overlap)
        elif method == _LINEAR:
            weight = torch.where(overlap >= iou_threshold, 1 - overlap, 1)
        else:
            weight = torch.exp(-(overlap * overlap) / sigma)
        scores[rest] *= weight
        position += 1
        kept = _fill_gaps(scores < min_score, position)
        boxes, scores, order = boxes[kept], scores[kept], order[kept]
    dets[: len(order)] = torch.cat((boxes, scores[:, None]), dim=1).to(dets)
    return order


def _fill_gaps(removed: Tensor, first: int) -> Tensor:
    """Order left when each box removed from position `first` on gives its place to the last."""
    removed[:first] = False
    places = torch.arange(len(removed), device=removed.device)
    count = len(removed) - int(removed.sum())
    kept = places[:count].clone()
    kept[removed[:count]] = places[count:][~removed[count:]].flip(0)
    return kept


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes (N, 5), scores last, by the kept box that suppresses them.

    Returns:
        One list of indices a kept box: itself, then those it suppresses, by falling score. Here a
        box whose overlap equals the threshold is suppressed.
    """
    dets = dets.float()
    threshold = _round_to_float32(iou_threshold)
    rest = dets[:, 4].sort(descending=True, stable=True).indices
    groups = []
    while len(rest):
        suppressed = _iou(dets[rest[0], :4], dets[rest, :4], offset=0) >= threshold
        suppressed[0] = True  # a box without area does not overlap even itself
        groups.append(rest[suppressed].tolist())
        rest = rest[~suppressed]
    return groups
