"""Box overlaps, masked convolution, multi-scale deformable attention, build information."""

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from mmhybrid.compat.mmcv_ext.precision import as_working_precision


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int
) -> None:
    """Write the overlaps of boxes (M, 4) and (N, 4) to `ious` (M, N), or (M,) pair by pair.

    Boxes are x1, y1, x2, y2, their sides x2 - x1 + offset. `mode` is 0 for intersection over union,
    1 for intersection over the first box.
    """
    first, second = as_working_precision(bboxes1, bboxes2)
    if not aligned:
        first = first[:, None]
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low + offset).clamp(min=0).prod(dim=-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(dim=-1)
    if mode == 0:
        other = (second[..., 2:] - second[..., :2] + offset).prod(dim=-1)
        area = area + other - intersection
    ious.copy_(intersection / area)


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Write the neighbourhoods of M pixels of `im` (1, C, H, W) to `col` (C * kh * kw, M)."""
    padded = F.pad(im[0], (pad_w, kernel_w, pad_h, kernel_h))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows[:, None], columns[None]].reshape(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, **sizes: int
) -> None:
    """Write the columns of `col` (C, M) to M pixels of `im` (1, C, H, W)."""
    im[0, :, mask_h_idx, mask_w_idx] = col.to(im)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (https://arxiv.org/abs/2010.04159), mmcv's own torch form.

    The levels follow each other, hence their start index is not needed, nor is the step.
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    inputs = as_working_precision(value, sampling_locations, attention_weights)
    shapes = value_spatial_shapes.tolist()
    return multi_scale_deformable_attn_pytorch(inputs[0], shapes, *inputs[1:]).to(value)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add the three gradients; arguments as in the forward kernel."""
    inputs = (value, sampling_locations, attention_weights)
    inputs = [tensor.detach().requires_grad_() for tensor in as_working_precision(*inputs)]
    levels = (value_spatial_shapes, value_level_start_index)
    with torch.enable_grad():
        output = ms_deform_attn_forward(inputs[0], *levels, *inputs[1:], im2col_step)
    gradients = torch.autograd.grad(output, inputs, grad_output.to(output))
    targets = (grad_value, grad_sampling_loc, grad_attn_weight)
    for target, gradient in zip(targets, gradients, strict=True):
        target.add_(gradient)


def get_compiler_version() -> str:
    """What stands in the environment report that MMEngine prints at the start of a run."""
    return f"none (kernels of torchvision {torchvision.__version__} through mmhybrid)"


def get_compiling_cuda_version() -> str:
    """The CUDA version of PyTorch, or mmcv's own words for none."""
    return torch.version.cuda or "not available"
