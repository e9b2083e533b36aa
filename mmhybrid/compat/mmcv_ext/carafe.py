"""Content-aware reassembly of features, CARAFE (https://arxiv.org/abs/1905.02188).

Every pixel of the output is a weighted sum of the k x k pixels around the one that it lies in, with
weights of its own, the same for all channels of a group. One tap after the other is added, so that
no map of k * k times the channels is made. mmcv's two kernels compute the same; the other memory
layouts that the faster one keeps are not needed here.
"""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from mmhybrid.compat.mmcv_ext.precision import as_working_precision


def _taps(size: int, features: Tensor) -> Iterator[tuple[int, slice, slice]]:
    """Index of each tap, and the window of features padded by half a kernel that it sees."""
    height, width = features.shape[-2:]
    for tap in range(size * size):
        y, x = divmod(tap, size)
        yield tap, slice(y, y + height), slice(x, x + width)


def _by_pixel(x: Tensor, channels: tuple[int, int], factor: int) -> Tensor:
    """(B, ..., H * s, W * s) as (B, *channels, H, s, W, s): pixels that share taps."""
    return x.unflatten(1, channels).unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor))


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write features (B, C, H, W), put together by `masks`, to `output` (B, C, H * s, W * s).

    `masks` is (B, groups * k * k, H * s, W * s).
    """
    x, weights = as_working_precision(features, masks)
    weights = _by_pixel(weights, (group_size, kernel_size**2), scale_factor)
    padded = F.pad(x.unflatten(1, (group_size, -1)), [kernel_size // 2] * 4)
    total = 0.0
    for tap, rows, columns in _taps(kernel_size, x):
        total = total + padded[..., rows, None, columns, None] * weights[:, :, None, tap]
    output.copy_(total.reshape(output.shape))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add the gradients of features and masks; arguments as in `carafe_naive_forward`."""
    x, weights, grad = as_working_precision(features, masks, top_grad)
    taps = (group_size, kernel_size**2)
    weights = _by_pixel(weights, taps, scale_factor)
    grad = _by_pixel(grad, (group_size, -1), scale_factor)
    half = kernel_size // 2
    padded = F.pad(x.unflatten(1, (group_size, -1)), [half] * 4)
    grad_padded = padded.new_zeros(padded.shape)
    grad_masks = _by_pixel(mask_grad, taps, scale_factor)
    for tap, rows, columns in _taps(kernel_size, x):
        grad_masks[:, :, tap] += (grad * padded[..., rows, None, columns, None]).sum(dim=2)
        grad_padded[..., rows, columns] += (grad * weights[:, :, None, tap]).sum(dim=(-3, -1))
    height, width = x.shape[-2:]
    inner = grad_padded[..., half : half + height, half : half + width]
    bottom_grad.add_(inner.reshape(bottom_grad.shape))


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    **sizes: int,
) -> None:
    """As `carafe_naive_forward`; keeps in `rfeatures` what the backward kernel gets."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, **sizes)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    **sizes: int,
) -> None:
    """Add the gradients of features and masks, as `carafe_naive_backward`."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, **sizes)
