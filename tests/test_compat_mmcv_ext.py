"""mmcv's kernels against slow ones: what its C++ and CUDA code says, in PyTorch's functions."""

import importlib
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from mmhybrid.compat import mmcv_ext

pytest.importorskip("mmcv")
mmcv_ext.apply()

from mmcv import ops  # noqa: E402

DOCS = Path(__file__).resolve().parents[1] / "docs/kernels.md"
HALVES = [torch.float16, torch.bfloat16]
FLOAT32_TINY = float(np.finfo(np.float32).tiny)


def random_boxes(count: int, whole: bool = False) -> Tensor:
    """Boxes in clusters, as a detector gives them, so that overlaps of every size occur."""
    corner = torch.rand(count // 8 + 1, 2) * 60
    boxes = torch.cat((corner, corner + 8 + torch.rand(len(corner), 2) * 30), dim=1)
    boxes = boxes.repeat(8, 1)[:count] + torch.randn(count, 4) * 2
    return boxes.round() if whole else boxes


# ---------------------------------------------------------------- non-maximum suppression


def overlaps(boxes: Tensor, offset: int) -> np.ndarray:
    """The overlap of each box with each; an offset of 1 counts the last pixel to a box."""
    boxes = boxes + torch.tensor([0, 0, offset, offset])
    return torchvision.ops.box_iou(boxes, boxes).numpy()


def slow_nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> list[int]:
    overlap, kept = overlaps(boxes, offset), []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not (overlap[i, kept] > np.float32(threshold)).any():
            kept.append(i)
    return kept


def slow_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """Soft-NMS on a list of candidates; one that falls out gives its place to the last."""
    overlap, scores = overlaps(boxes, offset), scores.clone().numpy()
    candidates, done = list(range(len(boxes))), []
    while candidates:
        best = max(range(len(candidates)), key=lambda i: scores[candidates[i]])  # first of equals
        candidates[0], candidates[best] = candidates[best], candidates[0]
        done.append(candidates.pop(0))
        i = 0
        while i < len(candidates):
            one = candidates[i]
            iou = overlap[done[-1], one]
            if method == "gaussian":
                scores[one] *= np.exp(-(iou * iou) / np.float32(sigma))
            elif iou >= np.float32(threshold):
                scores[one] *= 0 if method == "naive" else 1 - iou
            if scores[one] < np.float32(min_score):
                last = candidates.pop()
                candidates[i : i + 1] = [last] * (i < len(candidates))
            else:
                i += 1
    return torch.cat((boxes, torch.tensor(scores)[:, None]), dim=1)[done], done


def slow_nms_match(dets: Tensor, threshold: float) -> list[list[int]]:
    overlap, order = overlaps(dets[:, :4], 0), dets[:, 4].argsort(descending=True).tolist()
    groups = []
    while order:
        groups.append([j for j in order if j == order[0] or overlap[order[0], j] >= threshold])
        order = [j for j in order if j not in groups[-1]]
    return groups


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms(threshold: float, offset: int, whole: bool, device: str) -> None:
    boxes, scores = random_boxes(120, whole=whole), torch.rand(120)
    expected = slow_nms(boxes, scores, threshold, offset)
    assert 5 < len(expected) < 115
    inputs = (boxes.to(device), scores.to(device), threshold, offset)
    dets, kept = ops.nms(*inputs)
    assert kept.tolist() == expected
    assert torch.equal(dets.cpu(), torch.cat((boxes, scores[:, None]), dim=1)[expected])
    assert ops.nms(*inputs, max_num=7)[1].tolist() == expected[:7]
    chosen = (scores > 0.4).nonzero().flatten()
    expected = chosen[slow_nms(boxes[chosen], scores[chosen], threshold, offset)]
    assert ops.nms(*inputs, score_threshold=0.4)[1].tolist() == expected.tolist()


@pytest.mark.parametrize("tenths", range(1, 10))
@pytest.mark.parametrize("offset", [0, 1])
def test_nms_keeps_a_box_whose_overlap_equals_the_threshold(tenths: int, offset: int) -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, tenths]]).float()
    boxes[:, 2:] -= offset
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, tenths / 10, offset=offset)[1].tolist() == [0, 1]
    assert ops.nms(boxes, scores, tenths / 10 - 1e-3, offset=offset)[1].tolist() == [0]
    # The other kernels act from the threshold on.
    _, kept = ops.soft_nms(boxes, scores, tenths / 10, method="naive", offset=offset)
    assert kept.tolist() == [0]
    groups = ops.nms_match(torch.cat((boxes, scores[:, None]), dim=1), tenths / 10)
    assert offset or [group.tolist() for group in groups] == [[0, 1]]


def test_boxes_without_area_do_not_suppress_each_other() -> None:
    boxes, scores = torch.tensor([[5.0, 5, 5, 9], [5, 5, 5, 9]]), torch.tensor([0.5, 0.4])
    assert ops.nms(boxes, scores, 0.3)[1].tolist() == [0, 1]
    for method in ("naive", "linear"):
        dets, kept = ops.soft_nms(boxes, scores, 0.3, method=method)
        assert kept.tolist() == [0, 1]
        assert torch.equal(dets[:, 4], scores)
    groups = ops.nms_match(torch.cat((boxes, scores[:, None]), dim=1), 0.3)
    assert [group.tolist() for group in groups] == [[0], [1]]


def test_nms_takes_half_precision_numpy_and_views(device: str) -> None:
    boxes, scores = random_boxes(50, whole=True), torch.rand(50)
    expected = slow_nms(boxes, scores.half().float(), 0.5, 0)
    assert ops.nms(boxes.to(device).half(), scores.to(device).half(), 0.5)[1].tolist() == expected
    assert ops.nms(boxes.numpy(), scores.half().numpy(), 0.5)[1].tolist() == expected
    views = boxes.T.contiguous().T.to(device), scores.half().float().repeat(2, 1).T[:, 0].to(device)
    assert ops.nms(*views, 0.5)[1].tolist() == expected


def test_batched_nms_keeps_classes_apart(device: str) -> None:
    boxes, scores, classes = random_boxes(80), torch.rand(80), torch.randint(3, (80,))
    # Of each class, in which NMS is on its own.
    members = [(classes == c).nonzero().flatten() for c in range(3)]
    kept = torch.cat([own[slow_nms(boxes[own], scores[own], 0.4, 0)] for own in members])
    inputs = (boxes.to(device), scores.to(device), classes.to(device))
    _, indices = ops.batched_nms(*inputs, dict(type="nms", iou_threshold=0.4))
    assert indices.tolist() == kept[scores[kept].argsort(descending=True)].tolist()


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("min_score", [0.0, 1e-3, 0.2])
def test_soft_nms(method: str, offset: int, min_score: float) -> None:
    boxes = random_boxes(80, whole=True)
    scores = (torch.rand(80) * 20).round() / 20  # many equal scores: their order counts
    arguments = (0.3, 0.5, min_score, method, offset)
    expected_dets, expected = slow_soft_nms(boxes, scores, *arguments)
    dets, kept = ops.soft_nms(boxes, scores, *arguments)
    assert kept.tolist() == expected
    torch.testing.assert_close(dets, expected_dets, atol=1e-5, rtol=0)
    assert min_score == 0 or len(kept) < 80


def test_nms_match() -> None:
    dets = torch.cat((random_boxes(60), torch.rand(60, 1)), dim=1)
    groups = [group.tolist() for group in ops.nms_match(dets, 0.3)]
    assert groups == slow_nms_match(dets, 0.3)
    assert 1 < len(groups) < 60
    assert ops.nms_match(dets[:0], 0.3) == []


@pytest.mark.parametrize("suppress", [ops.nms, ops.soft_nms])
def test_nms_of_no_boxes(suppress, device: str) -> None:
    dets, kept = suppress(torch.zeros(0, 4, device=device), torch.zeros(0, device=device), 0.5)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
def test_bbox_overlaps(mode: str, offset: int, device: str) -> None:
    a, b = random_boxes(7, whole=True), random_boxes(7, whole=True)

    def overlap(first: np.ndarray, second: np.ndarray) -> float:
        w, h = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]) + offset
        shared = max(w, 0) * max(h, 0)
        areas = [np.prod(box[2:] - box[:2] + offset) for box in (first, second)]
        return shared / (sum(areas) - shared if mode == "iou" else areas[0])

    expected = torch.tensor([[overlap(x, y) for y in b.numpy()] for x in a.numpy()])
    for aligned, values in ((False, expected), (True, expected.diagonal())):
        found = ops.bbox_overlaps(a.to(device), b.to(device), mode, aligned, offset)
        torch.testing.assert_close(found.cpu(), values.float())


# ---------------------------------------------------------------- pooling of regions


def slow_roi_align(features, rois, bins, scale, ratio, mode, aligned):
    """All samples of a box by ``grid_sample``; differentiable by autograd."""
    output = []
    for image, *box in rois.tolist():
        x1, y1, x2, y2 = (side * scale - 0.5 * aligned for side in box)
        sides, axes, counts = ((y1, y2), (x1, x2)), [], []
        for (a, b), number, length in zip(sides, bins, features.shape[2:], strict=True):
            size = b - a if aligned else max(b - a, 1)
            counts += [number, ratio or math.ceil(size / number)]
            samples = number * counts[-1]
            axes.append((a + (torch.arange(samples).double() + 0.5) * size / samples, length))
        inside = [(axis >= -1) & (axis <= length) for axis, length in axes]
        y, x = (2 * axis / (length - 1) - 1 for axis, length in axes)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).to(features)
        options = dict(padding_mode="border", align_corners=True)
        (values,) = F.grid_sample(features[int(image)][None], grid[None], **options)
        values = (values * inside[0][:, None] * inside[1]).unflatten(2, counts[2:])
        values = values.unflatten(1, counts[:2]).transpose(2, 3).flatten(3)
        output.append(values.mean(-1) if mode == "avg" else values.max(-1).values)
    return torch.stack(output)


def slow_roi_pool(features, rois, bins, scale):
    output = []
    for image, *box in rois.tolist():
        x1, y1, x2, y2 = box[0] * scale, box[1] * scale, (box[2] + 1) * scale, (box[3] + 1) * scale
        bin_h, bin_w = (y2 - y1) / bins[0], (x2 - x1) / bins[1]
        for ph, pw in np.ndindex(bins):
            top, bottom = math.floor(ph * bin_h + y1), math.ceil((ph + 1) * bin_h + y1)
            left, right = math.floor(pw * bin_w + x1), math.ceil((pw + 1) * bin_w + x1)
            rows, columns = (slice(max(a, 0), max(b, 0)) for a, b in ((top, bottom), (left, right)))
            window = features[int(image), :, rows, columns].flatten(1)
            empty = features.new_zeros(features.size(1))
            output.append(window.max(1).values if window.numel() else empty)
    return torch.stack(output).view(len(rois), *bins, -1).permute(0, 3, 1, 2)


# In pixels of an image whose features are a quarter as large, 9 x 11: inside, over each border,
# smaller than a feature pixel, the whole image, far outside.
ROIS = [
    [0, 3.3, 5.1, 30.7, 28.9],
    [1, -9.5, -7.2, 14.2, 11.3],
    [1, 29.4, 20.3, 55.1, 47.9],
    [0, 10.1, 10.2, 10.9, 11.1],
    [0, 0.0, 0.0, 43.3, 35.3],
    [1, 90.1, 90.3, 120.2, 110.7],
]


ALIGNMENTS = [
    ("roi_align", (ratio, mode, aligned))
    for ratio, mode, aligned in itertools.product((0, 2), ("avg", "max"), (True, False))
]


@pytest.mark.parametrize(("name", "options"), [*ALIGNMENTS, ("roi_pool", ())])
def test_pooling_and_its_gradient(name: str, options: tuple, device: str) -> None:
    features, rois = torch.randn(2, 3, 9, 11).double(), torch.tensor(ROIS).double()
    slow = {"roi_align": slow_roi_align, "roi_pool": slow_roi_pool}[name]
    exact = features.clone().requires_grad_()
    expected = slow(exact, rois, (3, 2), 0.25, *options)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    given = features.to(device).requires_grad_()
    found = getattr(ops, name)(given, rois.to(device), (3, 2), 0.25, *options)
    # A gradient that is no contiguous tensor, as heads with permuted layouts send it.
    found.backward(grad.to(device).permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1))
    torch.testing.assert_close(found.detach().cpu(), expected.detach(), atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(given.grad.cpu(), exact.grad, atol=1e-9, rtol=1e-7)


def test_roi_align_of_equal_values_sends_the_gradient_to_the_first() -> None:
    features, rois = torch.zeros(1, 1, 8, 8, requires_grad=True), torch.tensor([[0.0, 0, 0, 8, 8]])
    ops.roi_align(features, rois, 1, 1.0, 2, "max", False).sum().backward()
    assert features.grad.nonzero().tolist() == [[0, 0, 2, 2]]


def test_roi_align_of_a_box_without_size() -> None:
    features, rois = torch.randn(1, 2, 8, 8), torch.tensor([[0.0, 3, 3, 3, 3]])
    assert not ops.roi_align(features, rois, 2, 1.0, 0, "avg", True).any()
    largest = ops.roi_align(features.requires_grad_(), rois, 2, 1.0, 0, "max", True)
    assert (largest == -10000).all()  # where mmcv's search for the maximum starts on a CPU
    largest.sum().backward()
    assert not features.grad.any()


def test_roi_pool_skips_a_box_turned_inside_out() -> None:
    pooled = ops.roi_pool(torch.ones(1, 2, 8, 8), torch.tensor([[0.0, 6, 6, 2, 2]]), 2, 1.0)
    assert not pooled.any()


POOLS = [
    lambda x, rois: ops.roi_align(x, rois, 3, 0.25, 0, "avg", True),
    lambda x, rois: ops.roi_align(x, rois, 3, 0.25, 2, "max", False),
    lambda x, rois: ops.roi_pool(x, rois, 3, 0.25),
]


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_of_no_boxes(pool, device: str) -> None:
    features = torch.randn(2, 3, 9, 11, device=device, requires_grad=True)
    pooled = pool(features, torch.zeros(0, 5, device=device))
    assert pooled.shape == (0, 3, 3, 3)
    pooled.sum().backward()
    assert not features.grad.any()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dtype", HALVES)
def test_pooling_in_half_precision(pool, dtype: torch.dtype, device: str) -> None:
    rois = torch.tensor(ROIS, device=device).round()
    features = torch.randn(2, 3, 9, 11, device=device).to(dtype)
    exact = features.double().requires_grad_()
    expected = pool(exact, rois.double())
    half = features.contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast(device, dtype=dtype):
        found = pool(half, rois.to(dtype))
    # Under autocast a GPU adds up in float32.
    assert found.dtype == (dtype if device == "cpu" else torch.float32)
    torch.testing.assert_close(found.double(), expected, atol=2e-2, rtol=2e-2)
    expected.sum().backward()
    found.sum().backward()
    torch.testing.assert_close(half.grad.double(), exact.grad, atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_of_whole_numbers(pool) -> None:
    features, rois = torch.randn(2, 3, 9, 11), torch.tensor(ROIS).round()
    assert torch.equal(pool(features, rois.int()), pool(features, rois))


# ---------------------------------------------------------------- focal loss


def slow_sigmoid_focal_loss(logit, target, weight, gamma, alpha) -> Tensor:
    hit = target[:, None] == torch.arange(logit.size(1))
    p = torch.where(hit, logit.sigmoid(), 1 - logit.sigmoid())
    loss = -torch.where(hit, alpha, 1 - alpha) * (1 - p) ** gamma * p.log()
    return loss * F.pad(weight, (0, 2), value=1)[target, None]  # 1 for background and for -1


def slow_softmax_focal_loss(logit, target, weight, gamma, alpha) -> Tensor:
    p = logit.softmax(dim=1)[torch.arange(len(target)), target]
    return -alpha * (1 - p) ** gamma * p.log() * F.pad(weight, (0, 1))[target]  # 0 for -1


@pytest.mark.parametrize("function", ["sigmoid", "softmax"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("gamma", [2.0, 1.5])
def test_focal_loss(function, weighted, reduction, gamma, device: str) -> None:
    logit, target = torch.randn(12, 5).double() * 3, torch.arange(12) % 5
    target[7] = -1
    if function == "sigmoid":
        target[3] = 5  # background
    weight = torch.rand(5).double() + 0.5 if weighted else None
    slow = {"sigmoid": slow_sigmoid_focal_loss, "softmax": slow_softmax_focal_loss}[function]
    fast = getattr(ops, f"{function}_focal_loss")
    exact = logit.clone().requires_grad_()
    expected = slow(exact, target, weight if weighted else torch.ones(5), gamma, 0.3)
    if reduction != "none":
        expected = expected.sum() / (12 if reduction == "mean" else 1)
    given = logit.to(device).requires_grad_()
    weight = weight.to(device) if weighted else None
    found = fast(given, target.to(device), gamma, 0.3, weight, reduction)
    torch.testing.assert_close(found.detach().cpu(), expected.detach())
    if function == "softmax" and reduction == "none":
        return  # mmcv's Python half multiplies (N, C) by (N,) there
    factor = torch.randn_like(expected)
    expected.backward(factor)
    found.backward(factor.to(device))
    torch.testing.assert_close(given.grad.cpu(), exact.grad)


def test_sigmoid_focal_loss_of_confident_logits_is_mmcvs() -> None:
    """Where p rounds to 1, mmcv charges -log of the smallest normal float32, about 87.3."""
    logit = torch.tensor([[-200.0, -30.0, 16.0, 30.0, 200.0]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(logit, torch.tensor([5]), 2.0, 0.25, None, "none")
    q = np.float32(1) - np.float32(1) / (np.float32(1) + np.exp(np.float32(-16)))
    limit = -math.log(FLOAT32_TINY)
    expected = 0.75 * torch.tensor([[0, 0, (1 - q) ** 2 * -math.log(q), limit, limit]])
    torch.testing.assert_close(loss.detach(), expected.float(), rtol=1e-5, atol=1e-5)
    loss.sum().backward()
    assert logit.grad.isfinite().all()


@pytest.mark.parametrize("loss", [ops.sigmoid_focal_loss, ops.softmax_focal_loss])
@pytest.mark.parametrize("dtype", HALVES)
def test_focal_loss_in_half_precision(loss, dtype: torch.dtype, device: str) -> None:
    logit, target = torch.randn(6, 4, device=device).to(dtype), torch.arange(6, device=device) % 4
    expected = loss(logit.float(), target)
    with torch.autocast(device, dtype=dtype):
        found = loss(logit.requires_grad_(), target)
    # Under autocast a GPU adds up in float32.
    assert found.dtype == (dtype if device == "cpu" else torch.float32)
    torch.testing.assert_close(found.float(), expected, atol=1e-2, rtol=2e-2)
    found.backward()
    assert logit.grad.isfinite().all()


def test_focal_loss_of_nothing_and_of_a_class_too_many() -> None:
    empty = torch.zeros(0, 4, requires_grad=True)
    ops.sigmoid_focal_loss(empty, torch.zeros(0).long(), 2.0, 0.25, None, "sum").backward()
    assert empty.grad.shape == (0, 4)
    for loss in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):
        with pytest.raises(ValueError, match=r"holds class 6.*num_classes"):
            loss(torch.zeros(1, 4), torch.tensor([6]))


# ---------------------------------------------------------------- deformable operations


def slow_deform_conv(
    x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups
):
    """Tap by tap; differentiable by autograd in every input. The sides of x are 2**n + 1."""
    (height, width), kernel = x.shape[2:], weight.shape[2:]
    rows, columns = (torch.arange(offset.size(d + 2)) * stride[d] for d in (0, 1))
    samples = []
    taps = itertools.product(x.chunk(deform_groups, dim=1), np.ndindex(*kernel))
    for k, (part, (i, j)) in enumerate(taps):
        y = (rows - padding[0] + i * dilation[0])[:, None] + offset[:, 2 * k]
        x_ = columns - padding[1] + j * dilation[1] + offset[:, 2 * k + 1]
        # Exact for such sides: a whole number stays one, and its slope that of the cell behind it.
        grid = torch.stack((2 * x_ / (width - 1) - 1, 2 * y / (height - 1) - 1), dim=-1)
        inside = (y > -1) & (y < height) & (x_ > -1) & (x_ < width)
        value = F.grid_sample(part, grid, align_corners=True) * inside[:, None]
        samples.append(value if mask is None else value * mask[:, k, None])
    samples = torch.stack(samples, dim=1).unflatten(1, (deform_groups, -1)).transpose(2, 3)
    weight = weight.flatten(1)[..., None, None]
    return F.conv2d(samples.flatten(1, 3), weight, bias, groups=groups)


def check_with_gradients(fast, slow, inputs, device: str) -> None:
    exact = [tensor.clone().requires_grad_() for tensor in inputs]
    given = [tensor.to(device, copy=True).requires_grad_() for tensor in inputs]
    expected, found = slow(*exact), fast(*given)
    torch.testing.assert_close(found.detach().cpu(), expected.detach())
    grad = torch.randn_like(expected)
    expected.backward(grad)
    found.backward(grad.to(device))
    for fast_tensor, slow_tensor in zip(given, exact, strict=True):
        torch.testing.assert_close(fast_tensor.grad.cpu(), slow_tensor.grad)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("start", ["zeros", "random"])
@pytest.mark.parametrize(("groups", "deform_groups", "stride"), [(1, 1, (1, 1)), (2, 2, (2, 1))])
def test_deform_conv(modulated, start, groups, deform_groups, stride, device: str) -> None:
    kernel, padding, dilation = (3, 2), (1, 1), (1, 2)
    x = torch.randn(2, 4, 5, 9).double()
    size = [
        (x.shape[d + 2] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
        for d in (0, 1)
    ]
    offset = torch.randn(2, deform_groups * 12, *size).double() * (start == "random") * 1.5
    mask = torch.rand(2, deform_groups * 6, *size).double()
    weight, bias = torch.randn(4, 4 // groups, *kernel).double(), torch.randn(4).double()
    sizes = (stride, padding, dilation, groups, deform_groups)
    if modulated:
        inputs = (x, offset, mask, weight, bias)
        fast = lambda *t: ops.modulated_deform_conv2d(*t, *sizes)  # noqa: E731
        slow = lambda *t: slow_deform_conv(*t, *sizes)  # noqa: E731
    else:
        inputs = (x, offset, weight)
        fast = lambda *t: ops.deform_conv2d(*t, *sizes, False, 1)  # noqa: E731
        slow = lambda x, o, w: slow_deform_conv(x, o, None, w, None, *sizes)  # noqa: E731
    check_with_gradients(fast, slow, inputs, device)


@pytest.mark.parametrize("dtype", HALVES)
def test_deform_conv_in_half_precision(dtype: torch.dtype, device: str) -> None:
    layers = [
        ops.DeformConv2dPack(4, 6, 3, padding=1, deform_groups=2),
        ops.ModulatedDeformConv2dPack(4, 6, 3, padding=1, deform_groups=2),
    ]
    for layer in layers:
        torch.nn.init.normal_(layer.conv_offset.weight, std=0.1)
        layer.to(device)
        x = torch.randn(2, 4, 8, 8, device=device)
        expected = layer(x)
        with torch.autocast(device, dtype=dtype):
            found = layer(x)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)
        found.sum().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_deform_conv_in_steps_of_the_batch() -> None:
    x, offset, weight = torch.randn(4, 2, 6, 6), torch.randn(4, 18, 4, 4), torch.randn(3, 2, 3, 3)
    whole, step = (ops.deform_conv2d(x, offset, weight, 1, 0, 1, 1, 1, False, n) for n in (32, 2))
    assert torch.equal(whole, step)
    with pytest.raises(AssertionError, match="divisible"):
        ops.deform_conv2d(x, offset, weight, 1, 0, 1, 1, 1, False, 3)


def test_modulated_deform_conv_reads_offsets_by_the_size_of_the_output(device: str) -> None:
    """As mmcv's kernel does, and as mmdet's DyHead is trained with: those of the larger level."""

    def first(x: Tensor) -> Tensor:
        return x.flatten(1)[:, : x.shape[1] * 25].reshape(len(x), -1, 5, 5)

    x, offset, mask = torch.randn(2, 4, 5, 5), torch.randn(2, 36, 9, 9), torch.rand(2, 18, 9, 9)
    inputs = [t.double() for t in (x, offset, mask, torch.randn(4, 4, 3, 3), torch.randn(4))]
    conv = ops.modulated_deform_conv2d
    sizes = (1, 1, 1, 1, 2)
    check_with_gradients(
        lambda *t: conv(*t, *sizes),
        lambda x, offset, mask, *t: conv(x, first(offset), first(mask), *t, *sizes),
        inputs,
        device,
    )
    with pytest.raises(RuntimeError, match="offset"):
        conv(x, offset[..., :3, :3], mask, *(t.float() for t in inputs[3:]), *sizes)


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3), (1, 1)), ((3, 1), (1, 0))])
def test_masked_conv(kernel: tuple[int, int], padding: tuple[int, int], device: str) -> None:
    layer = ops.MaskedConv2d(3, 4, kernel, padding=padding).to(device)
    x, mask = torch.randn(1, 3, 5, 7, device=device), torch.rand(1, 5, 7, device=device) > 0.6
    with torch.no_grad():
        expected = torch.nn.Conv2d.forward(layer, x) * mask
        torch.testing.assert_close(layer(x, mask), expected, atol=1e-5, rtol=1e-5)
        assert not layer(x, mask & False).any()


def test_multi_scale_deformable_attention(device: str) -> None:
    """mmcv calls this kernel on CUDA alone; on a CPU it takes its own torch code."""
    from mmcv.ops.multi_scale_deform_attn import (
        MultiScaleDeformableAttnFunction,
        multi_scale_deformable_attn_pytorch,
    )

    shapes = torch.tensor([[4, 5], [2, 3]], device=device)
    inputs = torch.randn(2, 26, 2, 3), torch.rand(2, 7, 2, 2, 3, 2) * 1.4 - 0.2
    inputs = *inputs, torch.rand(2, 7, 2, 2, 3).flatten(3).softmax(-1).view(2, 7, 2, 2, 3)
    start = torch.tensor([0, 20], device=device)
    check_with_gradients(
        lambda x, *t: MultiScaleDeformableAttnFunction.apply(x, shapes, start, *t, 64),
        lambda x, *t: multi_scale_deformable_attn_pytorch(x, shapes.cpu(), *t),
        [tensor.double() for tensor in inputs],
        device,
    )


# ---------------------------------------------------------------- masks and features put together


def slow_psa_mask(mask: Tensor, collect: bool, size: tuple[int, int]) -> Tensor:
    batch, _, height, width = mask.shape
    whole = {}
    for h, w, y, x in np.ndindex(height, width, height, width):
        i, j = y - h + (size[0] - 1) // 2, x - w + (size[1] - 1) // 2
        if 0 <= i < size[0] and 0 <= j < size[1]:
            whole[h, w, y, x] = mask[:, i * size[1] + j, h, w]
        else:
            whole[h, w, y, x] = mask.new_zeros(batch)
    values = [
        whole[(y, x, h, w) if collect else (h, w, y, x)]
        for h, w, y, x in np.ndindex(height, width, height, width)
    ]
    return torch.stack(values, dim=1).view(batch, height * width, height, width)


@pytest.mark.parametrize("psa_type", ["collect", "distribute"])
@pytest.mark.parametrize("size", [(5, 3), (7, 9)])  # smaller than the map, and larger
def test_psa_mask(psa_type: str, size: tuple[int, int], device: str) -> None:
    mask = torch.randn(2, size[0] * size[1], 4, 5).double()
    layer = ops.PSAMask(psa_type, size)
    slow = lambda mask: slow_psa_mask(mask, psa_type == "collect", size)  # noqa: E731
    check_with_gradients(layer, slow, [mask], device)


def slow_carafe(features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    """By PyTorch's own unfold, which makes the map of kernel * kernel times the channels."""
    height, width = features.shape[2:]
    taps = F.unfold(features, kernel, padding=kernel // 2).unflatten(2, (height, width))
    taps = taps.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    taps = taps.unflatten(1, (groups, -1, kernel**2))
    return (taps * masks.unflatten(1, (groups, 1, -1))).sum(dim=3).flatten(1, 2)


@pytest.mark.parametrize("function", [ops.carafe, ops.carafe_naive])
@pytest.mark.parametrize(("kernel", "groups", "scale"), [(5, 1, 2), (3, 2, 3), (1, 1, 1)])
def test_carafe(function, kernel: int, groups: int, scale: int, device: str) -> None:
    features = torch.randn(2, 4, 3, 5).double()
    masks = torch.randn(2, groups * kernel**2, 3 * scale, 5 * scale).double()
    sizes = (kernel, groups, scale)
    inputs, fast = (features, masks), lambda *t: function(*t, *sizes)
    slow = lambda *t: slow_carafe(*t, *sizes)  # noqa: E731
    if function is ops.carafe_naive and device == "cpu":
        # mmcv's Python half asks for a GPU in the backward pass.
        torch.testing.assert_close(fast(*inputs), slow(*inputs))
    else:
        check_with_gradients(fast, slow, inputs, device)


def slow_deform_roi_pool(x, offset, rois, bins, scale, samples, gamma) -> Tensor:
    """Bin by bin; differentiable by autograd. Boxes whose samples all lie within the map."""
    (height, width), pooled = x.shape[2:], []
    for k, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        sides = ((y2 - y1) * scale, (x2 - x1) * scale)
        for i, j in np.ndindex(*bins):
            places = []
            for start, side, count, index, move in (
                (y1, sides[0], bins[0], i, offset[k, 1, i, j]),
                (x1, sides[1], bins[1], j, offset[k, 0, i, j]),
            ):
                size = side / count
                number = samples or max(math.ceil(size), 1)
                steps = (torch.arange(number).double() + 0.5) * size / number
                places.append(start * scale - 0.5 + index * size + gamma * side * move + steps)
            y, x_ = torch.meshgrid(*places, indexing="ij")
            grid = torch.stack((2 * x_ / (width - 1) - 1, 2 * y / (height - 1) - 1), dim=-1)
            value = F.grid_sample(x[int(image)][None], grid[None], align_corners=True)
            pooled.append(value.mean(dim=(0, 2, 3)))
    return torch.stack(pooled).view(len(rois), *bins, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("samples", [0, 2])
def test_deform_roi_pool(samples: int, device: str) -> None:
    x, bins = torch.randn(2, 3, 17, 33).double(), (2, 3)
    boxes = torch.tensor(
        [[0, 9.1, 8.3, 40.2, 20.4], [1, 12.7, 6.6, 25.3, 22.9], [1, 20, 9, 31, 17]]
    )
    boxes, offset = boxes.double(), torch.rand(3, 2, *bins).double() - 0.5
    fast = lambda x, offset: ops.deform_roi_pool(  # noqa: E731
        x, boxes.to(x), offset, bins, 0.5, samples, 0.1
    )
    slow = lambda x, offset: slow_deform_roi_pool(  # noqa: E731
        x, offset, boxes, bins, 0.5, samples, 0.1
    )
    check_with_gradients(fast, slow, [x, offset], device)
    aligned = ops.roi_align(x, boxes, bins, 0.5, samples, "avg", True)
    found = ops.deform_roi_pool(x, boxes, None, bins, 0.5, samples, 0.1)
    torch.testing.assert_close(found, aligned)


def test_deform_roi_pool_at_the_border_and_without_size() -> None:
    """Samples more than a pixel outside count as zero; a box without area pools to zeros."""
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    boxes = torch.tensor([[0, -6, -6, 3, 3], [0, 4, 4, 9, 9], [0, 3, 3, 3, 3], [0, 9, 9, 14, 14]])
    boxes = boxes.float()
    pooled = ops.deform_roi_pool(x, boxes, None, 2, 1.0, 0, 0.1)
    torch.testing.assert_close(pooled, ops.roi_align(x, boxes, 2, 1.0, 0, "avg", True))
    offset = torch.randn(4, 2, 2, 2, requires_grad=True)
    ops.deform_roi_pool(x, boxes, offset, 2, 1.0, 0, 0.1).sum().backward()
    assert x.grad.isfinite().all()
    assert offset.grad.isfinite().all()
    assert not offset.grad[2:].any()


def test_modulated_deform_roi_pool_runs() -> None:
    layer = ops.ModulatedDeformRoIPoolPack(3, output_channels=2, deform_fc_channels=8)
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    pooled = layer(x, torch.tensor([[0.0, 1, 1, 6, 5]]))
    assert pooled.shape == (1, 2, 3, 3)
    pooled.sum().backward()
    assert x.grad.any()


def test_the_table_in_the_docs_says_which_kernels_are_supplied() -> None:
    rows = re.findall(r"^\| (`.*?) \| (yes|no)\b", DOCS.read_text(), re.M)
    written = {name: answer for names, answer in rows for name in re.findall(r"`(\w+)`", names)}
    extension, missing = importlib.import_module("mmcv._ext"), ("nms_rotated", "nms_quadri")
    for path in sorted(Path(ops.__file__).parent.glob("*.py")):
        kernels = set(re.findall(r"ext_module\.(\w+)", path.read_text())) - {*missing}
        supplied = {hasattr(extension, kernel) for kernel in kernels}
        assert not kernels or supplied == {written[path.stem] == "yes"}, path.stem
