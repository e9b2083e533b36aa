"""RoIAlign and RoIPool with the arguments of mmcv's kernels.

Boxes (K, 5) are image index, x1, y1, x2, y2. Average RoIAlign is torchvision's kernel. The two that
take a maximum have no counterpart there (torchvision's RoIPool rounds boxes, mmcv's does not) and
go box by box.
"""

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from mmhybrid.compat.mmcv_ext.precision import as_working_precision

_MAX = 0


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the pooled features of every box into `output` (K, C, aligned_height, aligned_width).

    `input` is (B, C, H, W). `pool_mode` 0 takes the maximum of a bin's samples and writes where it
    was found into `argmax_y` and `argmax_x`, shaped as `output`; 1 takes their average.
    `sampling_ratio` is the samples along each side of a bin, 0 for about one a pixel.
    """
    features, boxes = as_working_precision(input, rois)
    kernel = torch.ops.torchvision.roi_align
    bins = (aligned_height, aligned_width)
    if pool_mode != _MAX:
        output.copy_(kernel(features, boxes, spatial_scale, *bins, sampling_ratio, aligned))
        return

    # mmcv starts its search for the maximum from here, and stays here in a box without samples.
    lowest = -10000.0 if input.device.type == "cpu" else torch.finfo(torch.float32).min
    shift = 0.5 if aligned else 0.0
    start = boxes[:, 1:3] * spatial_scale - shift
    size = boxes[:, 3:5] * spatial_scale - shift - start
    if not aligned:
        size = size.clamp(min=1)
    bin_size = size / boxes.new_tensor([aligned_width, aligned_height])
    samples = bin_size.ceil().clamp(min=0).int()
    if sampling_ratio > 0:
        samples = torch.full_like(samples, sampling_ratio)

    for k, (samples_x, samples_y) in enumerate(samples.tolist()):
        if samples_x * samples_y == 0:
            output[k], argmax_y[k], argmax_x[k] = lowest, -1, -1
            continue
        x = _sample(start[k, 0], bin_size[k, 0], aligned_width, samples_x)
        y = _sample(start[k, 1], bin_size[k, 1], aligned_height, samples_y)
        # Bins of one sample each are the samples themselves.
        sides = (y.numel(), x.numel())
        (values,) = kernel(features, boxes[k : k + 1], spatial_scale, *sides, 1, aligned)
        maximum, row, column = _bin_maximum(values, y.shape, x.shape)
        found = maximum > lowest
        output[k] = maximum.clamp(min=lowest)
        argmax_y[k] = torch.where(found, y.flatten()[row], -1)
        argmax_x[k] = torch.where(found, x.flatten()[column], -1)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of the features to `grad_input`; arguments as in `roi_align_forward`."""
    grad, boxes, y, x = as_working_precision(grad_output, rois, argmax_y, argmax_x)
    if pool_mode == _MAX:
        _add_at(grad_input, boxes[:, 0], y, x, torch.where(y != -1, grad, 0))
    else:
        sizes = (aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned)
        backward = torch.ops.torchvision._roi_align_backward
        grad_input.add_(backward(grad, boxes, spatial_scale, *sizes))


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Write the largest feature in every bin of every box into `output`, 0 in an empty bin.

    `input` is (B, C, H, W); the last pixel belongs to a box. `output` and `argmax` are
    (K, C, pooled_height, pooled_width). The index of the pixel, row by row, goes to `argmax`, -1 in
    an empty bin.
    """
    features, boxes = as_working_precision(input, rois)
    height, width = input.shape[2:]
    start = boxes[:, 1:3] * spatial_scale
    size = (boxes[:, 3:5] + 1) * spatial_scale - start
    bin_size = size / boxes.new_tensor([pooled_width, pooled_height])
    images = boxes[:, 0].int().tolist()
    for k in (size > 0).all(dim=1).nonzero().flatten().tolist():
        columns, in_bin_x = _pixels(start[k, 0], bin_size[k, 0], pooled_width, width)
        rows, in_bin_y = _pixels(start[k, 1], bin_size[k, 1], pooled_height, height)
        values = features[images[k]][:, rows.flatten()][:, :, columns.flatten()]
        in_bin = in_bin_y.flatten()[:, None] & in_bin_x.flatten()
        values = values.masked_fill(~in_bin, -torch.inf)
        maximum, row, column = _bin_maximum(values, rows.shape, columns.shape)
        empty = maximum == -torch.inf
        output[k] = maximum.masked_fill(empty, 0)
        pixel = rows.flatten()[row] * width + columns.flatten()[column]
        argmax[k] = pixel.masked_fill(empty, -1)


def roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, **bins: float
) -> None:
    """Add the gradient of the features to `grad_input`; arguments as in `roi_pool_forward`."""
    width = grad_input.size(3)
    places = (argmax // width, argmax % width)
    grad, images, y, x = as_working_precision(grad_output, rois[:, 0], *places)
    _add_at(grad_input, images, y, x, torch.where(argmax != -1, grad, 0))


def _sample(start: Tensor, bin_size: Tensor, bins: int, samples: int) -> Tensor:
    """Coordinates (bins, samples) along one side of a box."""
    steps = torch.arange(max(bins, samples), device=start.device).to(start)
    within = (steps[:samples] + 0.5) * bin_size / samples
    return (start + steps[:bins] * bin_size)[:, None] + within


def _bin_maximum(
    values: Tensor, rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The maxima (C, bins, bins) of values (C, bins * samples, bins * samples) in each bin.

    `rows` and `columns` are bins and samples in a bin. With the maxima come the row and the column
    of `values` that hold them: of equal values the first, row by row.
    """
    values = values.unflatten(2, columns).unflatten(1, rows).transpose(2, 3).flatten(3)
    maximum, best = values.max(dim=-1)
    bins_y = torch.arange(rows[0], device=values.device)[:, None]
    bins_x = torch.arange(columns[0], device=values.device)
    row = bins_y * rows[1] + best // columns[1]
    return maximum, row, bins_x * columns[1] + best % columns[1]


def _pixels(start: Tensor, bin_size: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """Pixel indices (bins, longest) that each bin of one side covers, and which of them count."""
    steps = torch.arange(bins + 1, device=start.device).to(start)
    first = (steps[:-1] * bin_size + start).floor().clamp(0, length).long()
    end = (steps[1:] * bin_size + start).ceil().clamp(0, length).long()
    longest = max(int((end - first).max()), 1)
    pixel = first[:, None] + torch.arange(longest, device=start.device)
    return pixel.clamp(max=length - 1), pixel < end[:, None]


def _add_at(grad_input: Tensor, images: Tensor, y: Tensor, x: Tensor, values: Tensor) -> None:
    """Add values (K, C, ...) to `grad_input` (B, C, H, W) around positions of the same shape.

    A position shares its value bilinearly, which RoIAlign does at the centre of a box of one pixel.
    """
    batch, channels, height, width = grad_input.shape
    plane = images[:, None] * channels + torch.arange(channels, device=images.device)
    plane = plane[:, :, None, None].expand_as(y)
    boxes = torch.stack((plane, x - 0.5, y - 0.5, x + 0.5, y + 0.5), dim=-1).view(-1, 5)
    grad = torch.ops.torchvision._roi_align_backward(
        *(values.reshape(-1, 1, 1, 1), boxes, 1.0, 1, 1),
        *(batch * channels, 1, height, width, 1, False),
    )
    grad_input.add_(grad.view(grad_input.shape))
