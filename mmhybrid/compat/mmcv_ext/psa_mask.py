"""The masks of point-wise spatial attention (PSANet), laid over the whole feature map.

Every pixel brings a mask (h_mask, w_mask) around itself, in the channels. What stands out of the
feature map is cut off, and what the mask does not reach is zero. Values are moved and none added,
so that forward and backward are both a gather.
"""

import torch
from torch import Tensor

_COLLECT = 0


def psamask_forward(
    mask_data: Tensor,
    buffer_data: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write masks (B, h_mask * w_mask, H, W) to `buffer_data` (B, H * W, H, W).

    `psa_type` 1, distribute, has the pixel that brings the mask before the pixels that it reaches;
    0, collect, has it after them.
    """
    shift_y = half_h_mask - torch.arange(h_feature, device=mask_data.device)
    shift_x = half_w_mask - torch.arange(w_feature, device=mask_data.device)
    masks = mask_data.unflatten(1, (h_mask, w_mask))
    reached = _moved(masks, (h_feature, w_feature), shift_y, shift_x)
    if psa_type != _COLLECT:
        reached = reached.permute(0, 3, 4, 1, 2)
    buffer_data.copy_(reached.reshape(buffer_data.shape))


def psamask_backward(
    buffer_diff: Tensor,
    mask_diff: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the gradient of the masks; arguments as in `psamask_forward`."""
    shift_y = torch.arange(h_feature, device=mask_diff.device) - half_h_mask
    shift_x = torch.arange(w_feature, device=mask_diff.device) - half_w_mask
    reached = buffer_diff.unflatten(1, (h_feature, w_feature))
    if psa_type != _COLLECT:
        reached = reached.permute(0, 3, 4, 1, 2)
    mask_diff.copy_(_moved(reached, (h_mask, w_mask), shift_y, shift_x).reshape(mask_diff.shape))


def _moved(values: Tensor, size: tuple[int, int], shift_y: Tensor, shift_x: Tensor) -> Tensor:
    """Takes (B, P, Q, H, W) to (B, *size, H, W): [i, j, h, w] from [i + shift_y[h], ..., h, w]."""
    y = torch.arange(size[0], device=values.device)[:, None] + shift_y
    x = torch.arange(size[1], device=values.device)[:, None] + shift_x
    y, x = y[:, None, :, None], x[None, :, None, :]
    rows, columns, height, width = values.shape[1:]
    outside = (y < 0) | (y >= rows) | (x < 0) | (x >= columns)
    h = torch.arange(height, device=values.device)[:, None]
    w = torch.arange(width, device=values.device)
    moved = values[:, y.clamp(0, rows - 1), x.clamp(0, columns - 1), h, w]
    return moved.masked_fill(outside, 0)
