"""Activations, batch normalisations and convolutions in a row that keep one map for training.

PyTorch keeps the input of each for the backward pass. But an activation, and what a batch
normalisation does with known statistics, cost little beside the convolutions: they are computed
again from the first of these maps. A normalisation right before a 1x1 convolution is computed in
neither pass: its factor goes into the weight, its offset into the bias. A layer scale goes into the
weight and bias of what is before it.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.layers.conv_norm import ConvNorm
from mmhybrid.layers.layer_scale import LayerScale
from mmhybrid.layers.norm import BatchNorm2d
from mmhybrid.layers.transforms import is_transformed

aten = torch.ops.aten
# Values of a map. With smaller ones a step of TransXNet-T took up to a tenth longer (two threads,
# batch of 2, 64x64 to 256x256), and its memory is small anyway.
SMALLEST = 2**18
# What an activation computes, the same over its input, and the gradient from the output's and x.
ACTIVATIONS = {
    nn.GELU: (F.gelu, aten.gelu_, aten.gelu_backward),
    nn.ReLU: (F.relu, aten.relu_, lambda grad, x: aten.threshold_backward(grad, x, 0)),
    nn.Hardswish: (F.hardswish, aten.hardswish_, aten.hardswish_backward),
    nn.SiLU: (F.silu, aten.silu_, aten.silu_backward),
}


def run_lean(
    x: Tensor, *modules: nn.Module, tail: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Runs modules one after the other, as :class:`torch.nn.Sequential` does, and ``tail``.

    Where :func:`is_lean`, each run of them that :func:`_next_run` finds keeps its input alone. If
    the last ends in an activation or normalisation, ``tail`` does not keep what it reads either: it
    is computed again. Outputs and gradients are the same, up to rounding.
    """
    if not is_lean(x):
        for module in modules:
            x = module(x)
        return x if tail is None else tail(x)
    flat = _flat(modules)
    while flat:
        run = _next_run(flat, x, tail is not None)
        taken = [module for module in run if module is not None]
        if len(taken) > 1 or (taken == flat and tail is not None):
            x = _run(x, run)
            flat = flat[len(taken) :]
        else:
            x = flat.pop(0)(x)
    if tail is None:
        return x
    with _forgetting(x):
        return tail(x)


def is_lean(x: Tensor, *modules: nn.Module) -> bool:
    """Whether maps are worth sparing: large ones, in training in full precision on a CPU.

    Not where one of the modules, which are then not called themselves, has hooks.
    """
    # A graph that is being made must not ask for the size: it serves all.
    return (
        is_training_on_cpu(x)
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and x.numel() >= SMALLEST
        and not any(_has_hooks(module) for module in modules)
    )


def is_training_on_cpu(x: Tensor) -> bool:
    """Whether this is training on a CPU, and nobody looks on."""
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
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
        elif type(module) is ConvNorm and not _has_hooks(module):
            flat += _flat((module.conv, module.bn, module.activation))
        elif type(module) is not nn.Identity or _has_hooks(module):
            flat.append(module)
    return flat


class _Run(NamedTuple):
    """Modules in a row, each of which may be missing."""

    before: nn.Module | None
    norm: nn.BatchNorm2d | None
    after: nn.Module | None
    conv: nn.Conv2d | None
    layer_scale: LayerScale | None


def _next_run(modules: list[nn.Module], x: Tensor, has_tail: bool) -> _Run:
    """What of activation, batch normalisation, activation, convolution and scale comes next."""
    rest = [module for module in modules[:5] if not _has_hooks(module)]
    if rest != modules[:5]:
        return _Run(*[None] * 5)

    def take(fits: bool) -> nn.Module | None:
        return rest.pop(0) if rest and fits else None

    before = take(_is_activation(rest))
    norm = take(_is_batch_norm(rest, x))
    # Repeating what a norm does pays where it spares more than the input of the activation.
    is_read = _is_convolution(rest[1:]) or (has_tail and len(rest) == 1)
    after = take(norm is not None and _is_activation(rest) and is_read)
    conv = take((before or norm) is not None and _is_convolution(rest))
    layer_scale = take(bool(conv or norm) and type(rest[0]) is LayerScale) if rest else None
    return _Run(before, norm, after, conv, layer_scale)


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
    affine = (None, None) if norm is None else (norm.weight, norm.bias)
    kernel = (None, None) if conv is None else (conv.weight, conv.bias)
    if run.layer_scale and conv:
        kernel = run.layer_scale.folded(*kernel)
    elif run.layer_scale:
        affine = run.layer_scale.folded(*affine)
    return _LeanRun.apply(x, *affine, *kernel, run)


def _momentum(norm: nn.BatchNorm2d) -> float:
    """The share of this batch in the running statistics; without momentum they are means of all."""
    return 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum


def _activate(x: Tensor, activation: nn.Module | None) -> Tensor:
    return x if activation is None else ACTIVATIONS[type(activation)][0](x)


def _activate_over(x: Tensor, activation: nn.Module | None) -> Tensor:
    return x if activation is None else ACTIVATIONS[type(activation)][1](x)


def _activation_grad(grad: Tensor, x: Tensor, activation: nn.Module | None) -> Tensor:
    return grad if activation is None else ACTIVATIONS[type(activation)][2](grad, x)


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
            plain, inputs = partial(_plain, run, ctx.eps), (x, scale, shift, weight, bias)
            return *differentiable_gradients(plain, inputs, needs, grad), None
        grads = [None] * 5
        activated = y = _activate(x, run.before)
        is_folded = _is_folded(run)
        if scale is not None:
            factor, offset = _affine(scale, shift, mean, invstd)
            if not is_folded and (weight is not None or run.after is not None):
                y = torch.addcmul(offset[:, None, None], activated, factor[:, None, None])
        if weight is not None:
            # Of a ReLU the gradient needs the output alone.
            over = type(run.after) is nn.ReLU
            conv, read = run.conv, (_activate_over if over else _activate)(y, run.after)
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


def _forgetting(y: Tensor) -> AbstractContextManager:
    """Inside, the output of a run is not kept for backward passes, but computed again.

    Whoever has hooks of his own for what is kept, such as checkpointing, goes on to see all.
    """
    node = y.grad_fn
    run = getattr(node, "run", None)
    if not isinstance(run, _Run) or run.conv is not None or _others_see_what_is_kept():
        return nullcontext()
    storage, shape, stride = y.untyped_storage()._cdata, y.shape, y.stride()
    made = []

    def pack(kept: Tensor) -> Any:
        if kept.untyped_storage()._cdata != storage:
            return kept.detach()  # with its node it would be a cycle that nobody collects
        return kept.shape, kept.stride(), kept.storage_offset()

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        if not made:
            again = _output(node)
            if again.stride() != stride:
                again = again.new_empty_strided(shape, stride).copy_(again)
            made.append(again)
        return made[0].as_strided(*packed)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def _others_see_what_is_kept() -> bool:
    """Whether there are hooks for what is kept, or none are allowed."""
    autograd = torch._C._autograd
    top = getattr(autograd, "_top_saved_tensors_default_hooks", None)  # from PyTorch 2.8 on
    forbidden = autograd._saved_tensors_hooks_get_disabled_error_message()
    return top is None or top(False) is not None or forbidden is not None


@torch.no_grad()
def _output(node: Any) -> Tensor:
    """What a run without a convolution gave."""
    x, scale, shift, *_, mean, invstd = node.saved_tensors
    y = _activate(x, node.run.before)
    if scale is not None:
        factor, offset = _affine(scale, shift, mean, invstd)
        y = torch.addcmul(offset[:, None, None], y, factor[:, None, None])
    return _activate_over(y, node.run.after)


def _affine(scale: Tensor, shift: Tensor, mean: Tensor, invstd: Tensor) -> tuple[Tensor, Tensor]:
    """A normalisation as a factor and an offset for each channel."""
    factor = scale * invstd
    return factor, shift - mean * factor


def differentiable_gradients(
    function: Callable[..., Tensor],
    inputs: Iterable[Tensor | None],
    needs: Iterable[bool],
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients that are differentiated again, by the operations of ``function`` themselves.

    Args:
        function (Callable[..., Tensor]): Computes the output from ``inputs``.
        needs (Iterable[bool]): Which inputs get one; the others get None.
        grad (Tensor): Of the output.
    """
    # Views, so that a gradient ends there even where one input depends on another.
    inputs = [t if t is None else t.view_as(t) for t in inputs]
    wanted = [t for t, needed in zip(inputs, needs, strict=True) if needed]
    found = iter(torch.autograd.grad(function(*inputs), wanted, grad, create_graph=True))
    return tuple(next(found) if needed else None for needed in needs)


def _plain(run: _Run, eps: float | None, x: Tensor, *affine_and_kernel: Tensor | None) -> Tensor:
    scale, shift, weight, bias = affine_and_kernel
    y = _activate(x, run.before)
    if scale is not None:
        y = F.batch_norm(y, None, None, scale, shift, True, 0.0, eps)
    y = _activate(y, run.after)
    return y if weight is None else run.conv._conv_forward(y, weight, bias)
