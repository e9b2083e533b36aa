"""Deformable RoI pooling (https://arxiv.org/abs/1703.06211): RoIAlign whose bins are moved each.

Boxes (K, 5) are image index, x1, y1, x2, y2; offsets (K, 2, bins_y, bins_x) are x and y, in sides
of the box times `gamma`. Boxes are taken one after the other.
"""

import torch
from torch import Tensor

from mmhybrid.compat.mmcv_ext.precision import as_working_precision


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Write pooled features into `output` (K, C, pooled_height, pooled_width).

    `input` is (B, C, H, W); an empty `offset` moves nothing. `sampling_ratio` is the samples along
    each side of a bin, 0 for about one a pixel.
    """
    features, rois, offset = as_working_precision(input, rois, offset)
    bins = (pooled_height, pooled_width)
    for k, box in enumerate(rois):
        y, x, _ = _samples(box, _of_box(offset, k), bins, spatial_scale, sampling_ratio, gamma)
        if y.numel() == 0:
            output[k] = 0
            continue
        corners, weights = _corners(y, x, *input.shape[2:])
        values = features[int(box[0])][:, corners[0], corners[1]]  # (C, 4, bins, bins, samples)
        output[k] = (values * weights).sum(dim=1).mean(dim=-1)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add the gradients of features and offsets; arguments as in `deform_roi_pool_forward`."""
    features, rois, offset, grad_output = as_working_precision(input, rois, offset, grad_output)
    bins = (pooled_height, pooled_width)
    channels, height, width = input.shape[1:]
    for k, box in enumerate(rois):
        moved = _of_box(offset, k)
        y, x, size = _samples(box, moved, bins, spatial_scale, sampling_ratio, gamma)
        if y.numel() == 0:
            continue
        image = int(box[0])
        (rows, columns), weights = _corners(y, x, height, width)
        grad = grad_output[k].unsqueeze(-1) / y.shape[-1]  # (C, bins, bins, 1)
        pixels = (rows * width + columns).flatten()
        shares = (grad.unsqueeze(1) * weights).flatten(1).to(grad_input)
        grad_input[image].view(channels, -1).index_add_(1, pixels, shares)
        if moved is None:
            continue
        # mmcv's own slope: by where the sample is, also where the map's border holds it back.
        low_low, low_high, high_low, high_high = features[image][:, rows, columns].unbind(1)
        reaches = weights.any(dim=0)
        to_x, from_x = columns[1] - x, x - columns[0]
        to_y, from_y = rows[2] - y, y - rows[0]
        slope_x = (high_high - high_low) * from_y + (low_high - low_low) * to_y
        slope_y = (high_high - low_high) * from_x + (high_low - low_low) * to_x
        for side, slope in enumerate((slope_x, slope_y)):
            total = (grad * slope * reaches).sum(dim=(0, -1))
            grad_offset[k, side] += (gamma * size[side] * total).to(grad_offset)


def _of_box(offset: Tensor, k: int) -> Tensor | None:
    return offset[k] if offset.numel() else None


def _samples(
    box: Tensor,
    offset: Tensor | None,
    bins: tuple[int, int],
    scale: float,
    sampling_ratio: int,
    gamma: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates y and x (bins, bins, samples) in the feature map, and the box's sides (x, y)."""
    start = box[1:3] * scale - 0.5
    size = box[3:5] * scale - 0.5 - start
    coordinates = []
    for side, count in ((1, bins[0]), (0, bins[1])):
        bin_size = size[side] / count
        samples = sampling_ratio if sampling_ratio > 0 else max(int(bin_size.ceil()), 0)
        first = start[side] + torch.arange(count).to(box) * bin_size
        within = (torch.arange(samples).to(box) + 0.5) * bin_size / max(samples, 1)
        coordinates.append((first, within))
    (first_y, within_y), (first_x, within_x) = coordinates
    shape = (*bins, len(within_y), len(within_x))
    y = (first_y[:, None, None, None] + within_y[:, None]).expand(shape).flatten(2)
    x = (first_x[:, None, None] + within_x).expand(shape).flatten(2)
    if offset is not None:
        x = x + (gamma * size[0] * offset[0]).unsqueeze(-1)
        y = y + (gamma * size[1] * offset[1]).unsqueeze(-1)
    return y, x, size


def _corners(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four pixels around each sample, (2, 4, ...) rows and columns, and weights (4, ...).

    In the order of (low, low), (low, high), (high, low), (high, high) of (row, column). A sample
    more than a pixel outside has no weight.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    pairs, fractions = [], []
    for place, length in ((y, height), (x, width)):
        place = place.clamp(0, length - 1)
        low = place.floor().long()
        pairs.append((low, (low + 1).clamp(max=length - 1)))
        fractions.append((1 - (place - low), place - low))
    order = ((0, 0), (0, 1), (1, 0), (1, 1))
    corners = torch.stack(
        [torch.stack([pairs[0][i] for i, _ in order]), torch.stack([pairs[1][j] for _, j in order])]
    )
    weights = torch.stack([fractions[0][i] * fractions[1][j] for i, j in order])
    return corners, weights * inside
