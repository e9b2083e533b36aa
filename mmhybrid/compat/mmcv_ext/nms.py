"""Non-maximum suppression with the arguments of mmcv's kernels.

All of them work in float32, thresholds too, as mmcv's do: what happens to a box whose overlap
equals the threshold depends on it.
"""

import numpy as np
import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

_NAIVE, _LINEAR = 0, 1


def _iou(box: np.ndarray, boxes: np.ndarray, offset: int) -> np.ndarray:
    """Overlap of one box (4,) with boxes (N, 4), widths and heights being x2 - x1 + offset."""
    sizes = boxes[:, 2:] - boxes[:, :2] + offset
    size = box[2:] - box[:2] + offset
    shared = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]) + offset
    shared = np.maximum(shared, 0)
    intersection = shared[:, 0] * shared[:, 1]
    with np.errstate(invalid="ignore"):  # boxes without area
        return intersection / (size[0] * size[1] + sizes[:, 0] * sizes[:, 1] - intersection)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes (N, 4) that greedy NMS keeps, the highest of `scores` (N,) first.

    A box, as x1, y1, x2, y2, goes when its overlap with a kept one is greater than the threshold.
    `offset` is 1 where x2 and y2 name the last pixel inside the box, 0 otherwise.
    """
    boxes = boxes.float()
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return torch.ops.torchvision.nms(boxes, scores.float(), float(np.float32(iou_threshold)))


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

    Boxes, scores and offset are as in `nms`. The naive and the linear method (0 and 1) act on
    overlaps from the threshold on; `sigma` is the width of the Gaussian one (2). A box whose score
    falls below `min_score` goes. `dets` (N, 5) is filled with the surviving boxes and their new
    scores, and their indices are returned in its order.
    """
    boxes, scores = (tensor.detach().cpu().float().numpy().copy() for tensor in (boxes, scores))
    iou_threshold, min_score = np.float32(iou_threshold), np.float32(min_score)
    order = np.arange(len(boxes))
    position = 0
    while position < len(boxes):
        # The best of the rest changes places with the first of the rest. Which of two equal
        # scores wins depends on this order, so it is kept just as mmcv keeps it.
        swap = [position, position + scores[position:].argmax()]
        for values in (boxes, scores, order):
            values[swap] = values[swap[::-1]]
        overlap = _iou(boxes[position], boxes[position + 1 :], offset)
        if method == _NAIVE:
            scores[position + 1 :][overlap >= iou_threshold] = 0
        elif method == _LINEAR:
            scores[position + 1 :] *= np.where(overlap >= iou_threshold, 1 - overlap, 1)
        else:
            scores[position + 1 :] *= np.exp(-(overlap * overlap) / np.float32(sigma))
        position += 1
        removed = scores < min_score
        removed[:position] = False
        if removed.any():
            # Each box removed gives its place to the last one.
            kept = np.arange(len(boxes) - removed.sum())
            moved = len(kept) + np.flatnonzero(~removed[len(kept) :])
            kept[removed[: len(kept)]] = moved[::-1]
            boxes, scores, order = boxes[kept], scores[kept], order[kept]
    result = np.concatenate((boxes, scores[:, None]), axis=1)
    dets[: len(order)] = torch.from_numpy(result).to(dets)
    return torch.from_numpy(order)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes (N, 5), scores last, by the kept box that suppresses them.

    Each kept box gives a list of indices: itself, then those it suppresses, by falling score. Here
    a box whose overlap equals the threshold is suppressed.
    """
    boxes = dets.detach().cpu().float().numpy()
    threshold = np.float32(iou_threshold)
    rest = np.argsort(-boxes[:, 4], kind="stable")
    groups = []
    while len(rest):
        suppressed = _iou(boxes[rest[0], :4], boxes[rest, :4], offset=0) >= threshold
        suppressed[0] = True  # a box without area does not overlap even itself
        groups.append(rest[suppressed].tolist())
        rest = rest[~suppressed]
    return groups
