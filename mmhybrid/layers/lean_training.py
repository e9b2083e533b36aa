"""Activations, batch normalisations and convolutions in a row that keep one map for training.

PyTorch keeps the input of each for the backward pass. But an activation, and what a batch
normalisation does with known statistics, cost little beside the convolutions: they are computed
again from the first of these maps. A normalisation right before a 1x1 convolution is computed in
neither pass: its factor goes into the weight, its offset into the bias.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.layers.norm import BatchNorm2d
from mmhybrid.layers.transforms import is_transformed

aten = torch.ops.aten
# What an activation computes, and its gradient from the output's and its input.
ACTIVATIONS = {
    nn.GELU: (F.gelu, aten.gelu_backward),
    nn.ReLU: (F.relu, lambda grad, x: aten.threshold_backward(grad, x, 0)),
    nn.Hardswish: (F.hardswish, aten.hardswish_backward),
}


def run_lean(x: Tensor, *modules: nn.Module) -> Tensor:
    """Runs modules one after the other, as :class:`torch.nn.Sequential` does.

    In training in full precision on a CPU, each run of them that :func:`_next_run` finds keeps its
    input alone. Outputs are the same; gradients are, up to rounding.
    """
    if not _is_lean(x):
        for module in modules:
            x = module(x)
        return x
    flat = _flat(modules)
    while flat:
        run = _next_run(flat, x)
        taken = [module for module in run if module is not None]
        if len(taken) > 1:
            x = _run(x, run)
            flat = flat[len(taken) :]
        else:
            x = flat.pop(0)(x)
    return x


def _is_lean(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not is_transformed()
        and x.numel() > 0
    )


def _has_hooks(module: nn.Module) -> bool:
    """Whether someone wants to see what goes in and out."""
    names = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
    every = nn.modules.module
    return any(getattr(module, f"_{n}") or getattr(every, f"_global_{n}") for n in names)


def _flat(modules: tuple[nn.Module, ...]) -> list[nn.Module]:
    flat = []
    for module in modules:
        if type(module) is nn.Sequential and not _has_hooks(module):
            flat += _flat(tuple(module))
        elif type(module) is not nn.Identity or _has_hooks(module):
            flat.append(module)
    return flat


class _Run(NamedTuple):
    """Modules in a row, each of which may be missing."""

    before: nn.Module | None
    norm: nn.BatchNorm2d | None
    after: nn.Module | None
    conv: nn.Conv2d | None


def _next_run(modules: list[nn.Module], x: Tensor) -> _Run:
    """What of activation, batch normalisation, activation and convolution comes next."""
    rest = [module for module in modules[:4] if not _has_hooks(module)]
    if rest != modules[:4]:
        return _Run(None, None, None, None)

    def take(fits: bool) -> nn.Module | None:
        return rest.pop(0) if rest and fits else None

    before = take(_is_activation(rest))
    norm = take(_is_batch_norm(rest, x))
    # Without a convolution behind it, to repeat what a norm does costs more than it saves.
    after = take(norm is not None and _is_activation(rest) and _is_convolution(rest[1:]))
    conv = take((before or norm) is not None and _is_convolution(rest))
    return _Run(before, norm, after, conv)


def _is_activation(rest: list[nn.Module]) -> bool:
    return bool(rest) and type(rest[0]) in ACTIVATIONS and _is_exact(rest[0])


def _is_exact(activation: nn.Module) -> bool:
    return getattr(activation, "approximate", "none") == "none"


def _is_batch_norm(rest: list[nn.Module], x: Tensor) -> bool:
    """Whether one comes that normalises with the statistics of the batch, and scales and shifts."""
    if not rest or type(rest[0]) not in (nn.BatchNorm2d, BatchNorm2d):
        return False
    norm = rest[0]
    return (
        norm.training
        and norm.affine
        and norm.track_running_stats
        and x.ndim == 4
        and x.numel() > x.shape[1]
    )


def _is_convolution(rest: list[nn.Module]) -> bool:
    return (
        bool(rest)
        and type(rest[0]) is nn.Conv2d
        and rest[0].padding_mode == "zeros"
        and not isinstance(rest[0].padding, str)
    )


def _run(x: Tensor, run: _Run) -> Tensor:
    norm, conv = run.norm, run.conv
    if norm is not None:
        norm.num_batches_tracked.add_(1)
    parameters = [
        *((None, None) if norm is None else (norm.weight, norm.bias)),
        *((None, None) if conv is None else (conv.weight, conv.bias)),
    ]
    return _LeanRun.apply(x, *parameters, run)


def _momentum(norm: nn.BatchNorm2d) -> float:
    """The share of this batch in the running statistics; without momentum they are means of all."""
    return 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum


def _activate(x: Tensor, activation: nn.Module | None) -> Tensor:
    return x if activation is None else ACTIVATIONS[type(activation)][0](x)


def _activate_over(x: Tensor, activation: nn.Module | None) -> Tensor:
    """Over its input, where the gradient needs the output alone."""
    return x.relu_() if type(activation) is nn.ReLU else _activate(x, activation)


def _activation_grad(grad: Tensor, x: Tensor, activation: nn.Module | None) -> Tensor:
    return grad if activation is None else ACTIVATIONS[type(activation)][1](grad, x)


def _is_folded(run: _Run) -> bool:
    """Whether the normalisation goes into the convolution: one that reads each pixel alone."""
    conv = run.conv
    return (
        None not in (run.norm, conv)
        and run.after is None
        and conv.kernel_size == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
    )


class _LeanRun(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, shift, weight, bias, run):
        norm, conv, mean, invstd = run.norm, run.conv, None, None
        y = _activate(x, run.before)
        if _is_folded(run):
            running = norm.running_mean, norm.running_var
            mean, variance = torch.batch_norm_update_stats(y, *running, _momentum(norm))
            invstd = (variance + norm.eps).rsqrt()
            factor, offset = _affine(scale, shift, mean, invstd)
            added = weight.flatten(1) @ offset
            out = conv._conv_forward(
                y, weight * factor[:, None, None], added if bias is None else added + bias
            )
        else:
            if norm is not None:
                running = norm.running_mean, norm.running_var
                y, mean, invstd = torch.native_batch_norm(
                    y, scale, shift, *running, True, _momentum(norm), norm.eps
                )
            y = _activate_over(y, run.after)
            out = y if conv is None else conv._conv_forward(y, weight, bias)
        ctx.save_for_backward(x, scale, shift, weight, bias, mean, invstd)
        ctx.run, ctx.eps = run, norm and norm.eps
        return out

    @staticmethod
    def backward(ctx, grad):
        x, scale, shift, weight, bias, mean, invstd = ctx.saved_tensors
        run, needs = ctx.run, ctx.needs_input_grad[:5]
        if torch.is_grad_enabled():  # these gradients will be differentiated again
            return *_differentiable(grad, (x, scale, shift, weight, bias), needs, ctx), None
        grads = [None] * 5
        activated = y = _activate(x, run.before)
        is_folded = _is_folded(run)
        if scale is not None and weight is not None:
            factor, offset = _affine(scale, shift, mean, invstd)
            if not is_folded:
                y = torch.addcmul(offset[:, None, None], activated, factor[:, None, None])
        if weight is not None:
            conv, read = run.conv, _activate_over(y, run.after)
            grad, of_weight, of_bias = aten.convolution_backward(
                *(grad, read, weight, [len(weight)], conv.stride, conv.padding),
                *(conv.dilation, False, [0, 0], conv.groups),
                [any(needs[:3]), needs[3], needs[4] or is_folded],
            )
            if needs[3] and is_folded:  # what the convolution read was factor * y + offset
                of_weight = of_weight * factor[:, None, None]
                of_weight += torch.outer(of_bias, offset)[..., None, None]
            grads[3], grads[4] = of_weight, of_bias if needs[4] else None
        if any(needs[:3]):
            grad = _activation_grad(grad, y, run.after)
            if scale is not None:
                statistics = None, None, mean, invstd, True, ctx.eps
                grad, grads[1], grads[2] = aten.native_batch_norm_backward(
                    grad, activated, scale, *statistics, needs[:3]
                )
        if needs[0]:
            grads[0] = _activation_grad(grad, x, run.before)
        return *grads, None


def _affine(scale: Tensor, shift: Tensor, mean: Tensor, invstd: Tensor) -> tuple[Tensor, Tensor]:
    """A normalisation as a factor and an offset for each channel."""
    factor = scale * invstd
    return factor, shift - mean * factor


def _differentiable(grad, inputs, needs, ctx):
    # Views, so that a gradient ends there even where one input depends on another.
    inputs = [t if t is None else t.view_as(t) for t in inputs]
    x, scale, shift, weight, bias = inputs
    y = _activate(x, ctx.run.before)
    if scale is not None:
        y = F.batch_norm(y, None, None, scale, shift, True, 0.0, ctx.eps)
    y = _activate(y, ctx.run.after)
    if weight is not None:
        y = ctx.run.conv._conv_forward(y, weight, bias)
    wanted = [t for t, needed in zip(inputs, needs, strict=True) if needed]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if needed else None for needed in needs]
