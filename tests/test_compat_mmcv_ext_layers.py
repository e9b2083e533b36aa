"""mmcv's kernels for layers and losses: against slow ones written from its C++ and CUDA code."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mmhybrid.compat import mmcv_ext

pytest.importorskip("mmcv")
mmcv_ext.apply()

from mmcv import ops  # noqa: E402

HALVES = [torch.float16, torch.bfloat16]
FLOAT32_TINY = float(np.finfo(np.float32).tiny)


# ---------------------------------------------------------------- focal loss


def slow_sigmoid_focal_loss(logit, target, weight, gamma, alpha) -> Tensor:
    rows = []
    for row, label in zip(logit, target.tolist(), strict=True):
        for c, value in enumerate(row):
            p = 1 / (1 + torch.exp(-value))
            if label == c:
                loss = -alpha * (1 - p) ** gamma * torch.log(p.clamp(min=FLOAT32_TINY))
            else:
                loss = -(1 - alpha) * p**gamma * torch.log((1 - p).clamp(min=FLOAT32_TINY))
            known = weight is not None and 0 <= label < len(weight)
            rows.append(loss * weight[label] if known else loss)
    return torch.stack(rows).view_as(logit)


def slow_softmax_focal_loss(logit, target, weight, gamma, alpha) -> Tensor:
    rows = []
    for row, label in zip(logit, target.tolist(), strict=True):
        p = row.exp()[label] / row.exp().sum()
        loss = -alpha * (1 - p) ** gamma * torch.log(p)
        rows.append((0 if label < 0 else 1 if weight is None else weight[label]) * loss)
    return torch.stack(rows)


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
    expected = slow(exact, target, weight, gamma, 0.3)
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
    assert found.dtype == dtype
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
    """Sample by sample; differentiable by autograd in every input."""
    batch, channels, height, width = x.shape
    out_channels, _, kernel_h, kernel_w = weight.shape
    taps, per_group = kernel_h * kernel_w, channels // deform_groups
    out_h, out_w = offset.shape[2:]
    rows = []
    for b, oy, ox in np.ndindex(batch, out_h, out_w):
        samples = []  # of every deformation group and tap
        for g, tap in np.ndindex(deform_groups, taps):
            k = g * taps + tap
            y = oy * stride[0] - padding[0] + (tap // kernel_w) * dilation[0]
            x_ = ox * stride[1] - padding[1] + (tap % kernel_w) * dilation[1]
            y, x_ = y + offset[b, 2 * k, oy, ox], x_ + offset[b, 2 * k + 1, oy, ox]
            value = x.new_zeros(per_group)
            if -1 < y < height and -1 < x_ < width:
                top, left = math.floor(y.item()), math.floor(x_.item())
                for row, column in itertools.product((top, top + 1), (left, left + 1)):
                    if 0 <= row < height and 0 <= column < width:
                        # Slopes are those of the cell that begins at (top, left).
                        v = y - top if row > top else 1 - (y - top)
                        u = x_ - left if column > left else 1 - (x_ - left)
                        value = (
                            value + v * u * x[b, g * per_group : (g + 1) * per_group, row, column]
                        )
            samples.append(value if mask is None else value * mask[b, k, oy, ox])
        columns = torch.stack(samples).view(deform_groups, taps, per_group).transpose(1, 2)
        kernels = weight.view(groups, out_channels // groups, -1)
        rows.append(torch.einsum("gok,gk->go", kernels, columns.reshape(groups, -1)))
    output = torch.stack(rows).view(batch, out_h, out_w, out_channels).permute(0, 3, 1, 2)
    return output if bias is None else output + bias[:, None, None]


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("start", ["zeros", "random"])
@pytest.mark.parametrize(("groups", "deform_groups", "stride"), [(1, 1, (1, 1)), (2, 2, (2, 1))])
def test_deform_conv(modulated, start, groups, deform_groups, stride, device: str) -> None:
    kernel, padding, dilation = (3, 2), (1, 1), (1, 2)
    x = torch.randn(2, 4, 4, 5).double()
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
    exact = [tensor.clone().requires_grad_() for tensor in inputs]
    given = [tensor.to(device).requires_grad_() for tensor in inputs]
    expected, found = slow(*exact), fast(*given)
    torch.testing.assert_close(found.detach().cpu(), expected.detach())
    grad = torch.randn_like(expected)
    expected.backward(grad)
    found.backward(grad.to(device))
    for fast_tensor, slow_tensor in zip(given, exact, strict=True):
        torch.testing.assert_close(fast_tensor.grad.cpu(), slow_tensor.grad)


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
    exact = [tensor.double().to(device).requires_grad_() for tensor in inputs]
    given = [tensor.double().to(device).requires_grad_() for tensor in inputs]
    expected = multi_scale_deformable_attn_pytorch(exact[0], shapes, *exact[1:])
    start = torch.tensor([0, 20], device=device)
    found = MultiScaleDeformableAttnFunction.apply(given[0], shapes, start, *given[1:], 64)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    found.backward(grad)
    for fast, slow in zip(given, exact, strict=True):
        torch.testing.assert_close(fast.grad, slow.grad)
