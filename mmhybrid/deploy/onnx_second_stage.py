"""Boxes and masks of a two-stage detector, in operations that a graph can hold.

mmdet's own code branches on how many boxes there are. Here the first stage always ends with as many
proposals, and the second with as many detections, as the config's ``max_per_img`` allows: where
there are fewer, the rest are empty boxes of score 0. What is dear, aligning and the heads, runs for
the real ones alone.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from mmhybrid.deploy.onnx_boxes import best, kept_rows, large_enough, refusal, refused_nms

# What is called or written anew here. A class derived from one of them may predict otherwise.
ROI_HEADS = ("StandardRoIHead", "CascadeRoIHead")
BOX_HEADS = ("BBoxHead", "ConvFCBBoxHead", "Shared2FCBBoxHead", "Shared4Conv1FCBBoxHead")


def refused(model: nn.Module) -> str | None:
    """Why :func:`detections_of` cannot be had of a model, in a sentence; None where it can."""
    head = model.roi_head
    for part, names in _parts(model):
        if type(part).__name__ not in names:
            return refusal(f"of {type(part).__name__}", f"those of {', '.join(names)}")
    if not model.rpn_head.use_sigmoid_cls:
        return refusal("of an RPN with softmax", "those of one with sigmoid")
    if head.with_shared_head:
        return refusal("of a RoI head with a shared_head", "those without")
    return refused_nms(model.rpn_head.test_cfg) or refused_nms(head.test_cfg)


def _parts(model: nn.Module) -> Iterator[tuple[object, Sequence[str]]]:
    """What the boxes come from, each with what it must be by name."""
    head, coders = model.roi_head, ["DeltaXYWHBBoxCoder"]
    yield head, ROI_HEADS
    yield model.rpn_head, ["RPNHead"]
    yield model.rpn_head.bbox_coder, coders
    for extractor, stage in _stages(head, "bbox"):
        yield from ((stage, BOX_HEADS), (stage.bbox_coder, coders))
        yield from ((stage.loss_cls, ["CrossEntropyLoss"]), (extractor, ["SingleRoIExtractor"]))
        yield extractor.roi_layers[0], ["RoIAlign"]
    for extractor, stage in _stages(head, "mask") if head.with_mask else ():
        yield from ((stage, ["FCNMaskHead"]), (extractor, ["SingleRoIExtractor"]))
        yield extractor.roi_layers[0], ["RoIAlign"]


def detections_of(
    model: nn.Module, features: Sequence[Tensor], size: Sequence[int]
) -> dict[str, Tensor]:
    """What a two-stage detector of mmdet predicts for one image, by its ``test_cfg``.

    Args:
        model (nn.Module): One that is not :func:`refused`.
        features (Sequence[Tensor]): Maps of its neck for a batch of one image.
        size (Sequence[int]): Height and width of the image, where boxes end.

    Returns:
        ``boxes`` (N, 4) as (left, top, right, bottom) in pixels, float32, ``scores`` (N,), highest
        first, and ``labels`` (N,), int64, N being ``max_per_img``; rows of score 0 are empty. Where
        there is a mask head, also its probabilities in each box, ``masks`` (N, h, w).
    """
    head, stages = model.roi_head, _stages(model.roi_head, "bbox")
    boxes, real = _proposals(model.rpn_head, features, size)
    total = 0.0
    for number, (extractor, stage) in enumerate(stages, 1):
        maps, rows = _aligned(extractor, features, boxes, real)
        scores, deltas = (_at_rows(y, rows, len(boxes)) for y in stage(maps))
        total = total + scores
        if number < len(stages):
            labels = scores[:, :-1].argmax(1)
            boxes = stage.regress_by_class(boxes, labels, deltas, dict(img_shape=size))
    scores = (total / len(stages)).softmax(1)[:, :-1].where(real[:, None], 0.0)

    deltas = deltas.reshape(-1, 4)  # of all classes, or of one that stands for all
    each = len(deltas) // len(boxes)
    boxes = stage.bbox_coder.decode(boxes.repeat_interleave(each, 0), deltas, size)
    rows, labels = (scores > head.test_cfg.score_thr).nonzero(as_tuple=True)
    boxes = boxes.index_select(0, rows if each == 1 else rows * each + labels)
    # Row 0, an empty box, stands for those that are missing.
    scores, labels = F.pad(scores[rows, labels], (1, 0)), F.pad(labels, (1, 0))
    boxes, most = F.pad(boxes, (0, 0, 1, 0)), head.test_cfg.max_per_img
    kept = F.pad(kept_rows(boxes, scores, labels, head.test_cfg), (0, most))[:most]
    outputs = {"boxes": boxes, "scores": scores, "labels": labels}
    outputs = {name: y.index_select(0, kept) for name, y in outputs.items()}
    if head.with_mask:
        outputs["masks"] = _masks(head, features, **outputs)
    return outputs


def _stages(head: nn.Module, name: str) -> list[tuple[nn.Module, nn.Module]]:
    """RoI extractor and head of each stage; Mask R-CNN has one."""
    extractor, stage = getattr(head, f"{name}_roi_extractor"), getattr(head, f"{name}_head")
    if not isinstance(stage, nn.ModuleList):
        extractor, stage = [extractor], [stage]
    return list(zip(extractor, stage, strict=True))


def _proposals(
    head: nn.Module, features: Sequence[Tensor], size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Boxes (``max_per_img``, 4) of the first stage, and which of them it has found."""
    cfg, found = head.test_cfg, []
    sizes = [y.shape[-2:] for y in features]
    priors = head.prior_generator.grid_priors(sizes, device=features[0].device)
    for score, delta, boxes in zip(*head(features), priors, strict=True):
        scores, _, rows = best(score[0].permute(1, 2, 0).reshape(-1, 1).sigmoid(), cfg)
        delta = delta[0].permute(1, 2, 0).reshape(-1, 4)
        found.append((boxes.index_select(0, rows), delta.index_select(0, rows), scores))
    boxes, deltas, scores = map(torch.cat, zip(*found, strict=True))
    boxes = head.bbox_coder.decode(boxes, deltas, size)
    scores = scores.where(large_enough(boxes, cfg), 0.0)
    # Levels do not suppress each other.
    kept, start = [], 0
    for _, _, of_level in found:
        stop = start + of_level.shape[0]
        kept.append(start + nms(boxes[start:stop], scores[start:stop], cfg.nms.iou_threshold))
        start = stop
    # Row 0, an empty box, stands for those that are missing.
    kept = F.pad(torch.cat(kept) + 1, (0, cfg.max_per_img))
    boxes, scores = F.pad(boxes, (0, 0, 1, 0)), F.pad(scores, (1, 0))
    scores, places = scores.index_select(0, kept).topk(cfg.max_per_img)
    return boxes.index_select(0, kept.index_select(0, places)), scores > 0


def _aligned(
    extractor: nn.Module, features: Sequence[Tensor], boxes: Tensor, real: Tensor
) -> tuple[Tensor, Tensor]:
    """What the heads see of those of the boxes (N, 4) that are real, (n, C, h, w), and their rows.

    Each is cut out of one level, which doubling its side makes the next.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    scale = sides.prod(1).sqrt() / extractor.finest_scale + 1e-6
    levels = sum((scale >= 2**n).long() for n in range(1, extractor.num_inputs))
    maps, rows = [], []
    for level, (layer, y) in enumerate(zip(extractor.roi_layers, features, strict=False)):
        rows.append((real & (levels == level)).nonzero().squeeze(1))
        rois = F.pad(boxes.index_select(0, rows[-1]), (1, 0))  # of image 0
        options = (layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned)
        maps.append(roi_align(y, rois, *options))
    maps, rows = torch.cat(maps), torch.cat(rows)
    # OpenVINO divides by the number of samples, of which a box without area has none.
    seen = (sides > 0).all(1).index_select(0, rows)
    return maps.where(seen[:, None, None, None], 0.0), rows


def _at_rows(y: Tensor, rows: Tensor, count: int) -> Tensor:
    """A tensor (count, ...) that holds ``y`` (n, ...) at n rows, and else zeros."""
    return y.new_zeros(count, *y.shape[1:]).index_put((rows,), y)


def _masks(
    head: nn.Module, features: Sequence[Tensor], boxes: Tensor, scores: Tensor, labels: Tensor
) -> Tensor:
    total, stages = 0.0, _stages(head, "mask")
    for extractor, stage in stages:
        maps, rows = _aligned(extractor, features, boxes, scores > 0)
        masks = stage(maps)
        if not stage.class_agnostic:
            place = labels.index_select(0, rows)[:, None, None, None]
            masks = masks.gather(1, place.expand(-1, 1, *masks.shape[2:]))
        total = total + _at_rows(masks.squeeze(1).sigmoid(), rows, len(boxes))
    return total / len(stages)
