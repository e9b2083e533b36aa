"""Sigmoid and softmax focal loss (https://arxiv.org/abs/1708.02002) as mmcv's kernels give them.

mmcv never takes the logarithm of less than the smallest normal float32, and `1 - p` vanishes where
p rounds to 1. A more exact formula would give other losses for confident wrong predictions.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mmhybrid.compat.mmcv_ext.precision import as_working_precision
from mmhybrid.errors import ArgumentError


def _log(probability: Tensor) -> Tensor:
    return probability.clamp(min=torch.finfo(torch.float32).tiny).log()


def _check_target(target: Tensor, largest: int) -> None:
    if target.numel() and (found := int(target.max())) > largest:
        raise ArgumentError(
            f"focal loss: the target holds class {found}, but the prediction only knows "
            f"targets up to {largest}; check num_classes"
        )


def _write_per_class(
    result: Tensor,
    logit: Tensor,
    target: Tensor,
    weight: Tensor,
    if_target: Callable[[Tensor], Tensor],
    if_other: Callable[[Tensor], Tensor],
) -> None:
    """Write `if_target(p)` in each row at its target class, `if_other(p)` elsewhere, weighted."""
    (logit,) = as_working_precision(logit)
    p = 1 / (1 + torch.exp(-logit))
    known = (target >= 0) & (target < p.size(1))
    target = target.clamp(0, p.size(1) - 1)
    column = target[:, None]
    values = if_other(p)
    # Only one value a row is positive: the rest of the table is spared the second formula.
    positive = if_target(p.gather(1, column))
    values.scatter_(1, column, torch.where(known[:, None], positive, values.gather(1, column)))
    if weight.numel():
        # Background has no weight of its own (mmcv reads past the end of the weights there).
        values *= torch.where(known, weight.to(values)[target], 1)[:, None]
    result.copy_(values)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of every logit (N, C) into `output` (N, C).

    A `target` (N,) of C or less than 0 means background; `weight` is one a class (C,), or empty.
    """
    _check_target(target, input.size(1))
    _write_per_class(
        *(output, input, target, weight),
        if_target=lambda p: -alpha * (1 - p) ** gamma * _log(p),
        if_other=lambda p: (alpha - 1) * p**gamma * _log(1 - p),
    )


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of every loss by its logit; arguments as in the forward kernel."""
    _write_per_class(
        *(grad_input, input, target, weight),
        if_target=lambda p: -alpha * (1 - p) ** gamma * (1 - p - gamma * p * _log(p)),
        if_other=lambda p: (alpha - 1) * p**gamma * (gamma * (1 - p) * _log(1 - p) - p),
    )


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of every row of probabilities (N, C) into `output` (N,).

    Rows with a negative `target` (N,) do not count; `weight` is one a class (C,), or empty.
    """
    _check_target(target, input.size(1) - 1)
    (probability,) = as_working_precision(input)
    p = probability.gather(1, target.clamp(min=0)[:, None]).squeeze(1)
    output.copy_(_weighted(-alpha * (1 - p) ** gamma * _log(p), target, weight))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative by every logit (N, C); `buff` (N,) is working space."""
    (probability,) = as_working_precision(input)
    column = target.clamp(min=0)[:, None]
    p = probability.gather(1, column).squeeze(1)
    q = 1 - p
    factor = alpha * (-(q**gamma) + gamma * q ** (gamma - 1) * p * _log(p))
    factor = _weighted(factor, target, weight)
    grad_input.copy_((-factor[:, None] * probability).scatter_add(1, column, factor[:, None]))
    buff.copy_(factor)


def _weighted(per_row: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    if weight.numel():
        per_row = per_row * weight.to(per_row)[target.clamp(min=0)]
    return torch.where(target >= 0, per_row, 0)
