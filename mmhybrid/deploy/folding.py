"""The algebra of fusing: two linear operations that follow each other become one.

Sums are made in float64 before they are rounded to the parameters' own precision.
"""

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmhybrid.errors import ArgumentError
from mmhybrid.layers.conv_norm import ConvNorm

FUSED_FORMS: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {}
Make = TypeVar("Make", bound=Callable[[nn.Module], nn.Module])


def fuses(module_class: type[nn.Module]) -> Callable[[Make], Make]:
    """Decorates what makes the fused form of such a module, for :func:`mmhybrid.deploy.fuse`.

    It is called with a module in evaluation mode, which it may take apart, and returns what comes
    in its place, or the module itself.

    Example:
        >>> class Residual(torch.nn.Sequential):
        ...     def forward(self, x):
        ...         return super().forward(x) + x
        >>> fused_residual = fuses(Residual)(lambda block: identity_added(block[0]))
    """

    def register(make: Make) -> Make:
        FUSED_FORMS[module_class] = make
        return make

    return register


def is_affine(norm: nn.Module) -> bool:
    """Whether a normalisation is a scale and a shift in evaluation, and nothing else."""
    return isinstance(norm, _BatchNorm) and norm.running_mean is not None


def norm_as_affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """The scale and the shift that a batch normalisation is in evaluation, in float64."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale, shift


def affine_after(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Conv2d:
    """The convolution that does ``scale * conv(x) + shift``, per channel."""
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    bias = shift if conv.bias is None else conv.bias.double() * scale + shift
    return with_parameters(conv, weight, bias)


def affine_before(scale: Tensor, shift: Tensor, conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution that does ``conv(scale * x + shift)``, per channel; it must not pad."""
    if any(conv.padding):
        raise ArgumentError("a shift before a convolution that pads cannot be folded into it")
    scale, shift = (one.view(conv.groups, 1, -1, 1, 1) for one in (scale, shift))
    weight = conv.weight.double().unflatten(0, (conv.groups, -1))
    bias = (weight * shift).sum(dim=(2, 3, 4)).flatten()
    if conv.bias is not None:
        bias = bias + conv.bias.double()
    return with_parameters(conv, (weight * scale).flatten(0, 1), bias)


def identity_added(conv: nn.Conv2d) -> nn.Conv2d:
    """The depth-wise convolution of odd size that does ``x + conv(x)``."""
    weight = conv.weight.double().clone()
    weight[:, 0, weight.shape[2] // 2, weight.shape[3] // 2] += 1
    return with_parameters(conv, weight, conv.bias)


def merged_depthwise(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """One depth-wise convolution that does what several, of odd sizes, do side by side."""
    largest = max(convs, key=lambda conv: conv.kernel_size[0])
    size = largest.kernel_size[0]
    padded = [F.pad(conv.weight, ((size - conv.kernel_size[0]) // 2,) * 4) for conv in convs]
    largest = copy.copy(largest)
    largest.groups = sum(conv.groups for conv in convs)
    return with_parameters(largest, torch.cat(padded), torch.cat([conv.bias for conv in convs]))


def with_parameters(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution like another with frozen parameters of its own, in the other's precision."""
    made = copy.copy(conv)
    made.out_channels, made.in_channels = len(weight), weight.shape[1] * conv.groups
    made._parameters = {
        name: nn.Parameter(value.detach().to(conv.weight.dtype), requires_grad=False)
        for name, value in (("weight", weight), ("bias", bias))
    }
    return made


def activate_in_place(module: nn.Module) -> None:
    """Lets the activation of every :class:`ConvNorm` write over its map, which nothing else needs.

    A large one costs more to allocate than to activate.
    """
    for part in module.modules():
        if isinstance(part, ConvNorm) and hasattr(part.activation, "inplace"):
            part.activation.inplace = True


def fold_norms(module: nn.Module) -> None:
    """Folds every batch normalisation that has a convolution right beside it, in place.

    In :class:`ConvNorm`, ``nn.Sequential`` and mmcv's ``ConvModule`` neighbours run side by side.
    """
    for part in module.modules():
        if isinstance(part, ConvNorm) and is_affine(part.bn):
            part.conv = affine_after(part.conv, *norm_as_affine(part.bn))
            part.bn = nn.Identity()
        elif type(part) is nn.Sequential:
            _fold_sequence(part)
        elif _is_conv_module(part) and _are_conv_and_norm(part.conv, part.norm):
            part.conv = affine_after(part.conv, *norm_as_affine(part.norm))
            setattr(part, part.norm_name, nn.Identity())


def _fold_sequence(sequence: nn.Sequential) -> None:
    for i in range(len(sequence) - 1):
        first, second = sequence[i], sequence[i + 1]
        if _are_conv_and_norm(first, second):
            sequence[i] = affine_after(first, *norm_as_affine(second))
            sequence[i + 1] = nn.Identity()
        elif _are_conv_and_norm(second, first) and not any(second.padding):
            sequence[i] = nn.Identity()
            sequence[i + 1] = affine_before(*norm_as_affine(first), second)


def _is_conv_module(part: nn.Module) -> bool:
    # By name: mmcv need not be there.
    return type(part).__name__ == "ConvModule" and part.order[:2] == ("conv", "norm") and part.norm


def _are_conv_and_norm(conv: nn.Module, norm: nn.Module) -> bool:
    return type(conv) is nn.Conv2d and is_affine(norm)
