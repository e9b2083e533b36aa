"""Operations of PyTorch in a form that its exporter and onnxruntime carry for every size."""

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

from mmhybrid.backbones import TransXNet
from mmhybrid.layers.dynamic_convolution import InputDependentDepthwiseConv


def adaptive_average_pool(x: Tensor, output_size: int | Sequence[int]) -> Tensor:
    """:func:`torch.nn.functional.adaptive_avg_pool2d` as two multiplications by matrices.

    The exporter's own takes the largest bin of the traced size for the largest of all sizes.
    """
    height, width = _pair(output_size)
    return _bins(x.shape[-2], height, x) @ (x @ _bins(x.shape[-1], width, x).t())  # (..., h, w)


def _bins(size: int, count: int, like: Tensor) -> Tensor:
    """The (count, size) matrix that takes the mean of each bin."""
    index = torch.arange(count, device=like.device).unsqueeze(1)
    start = index * size // count
    stop = ((index + 1) * size + count - 1) // count
    place = torch.arange(size, device=like.device)
    inside = (place >= start) & (place < stop)
    return inside.to(like.dtype) / (stop - start).to(like.dtype)


def resize_bicubic(x: Tensor, size: Sequence[int], antialias: bool = False) -> Tensor:
    """:func:`torch.nn.functional.interpolate` with ``mode='bicubic'``, one side after the other.

    onnxruntime rounds the place of a value otherwise than PyTorch does; among the 3136 rows of a
    table of positions that is seen in the third digit of a result. It is another cubic with
    ``antialias``, and wider where a side shrinks; a side is then multiplied by a matrix.
    """
    if antialias:
        rows, columns = (_antialiased(x.shape[d], size[d], x) for d in (-2, -1))
        return rows @ (x @ columns.t())
    for dim, new in zip((-2, -1), size, strict=True):
        old = x.shape[dim]
        # Comparing an unknown size would fix it to that of the trace.
        if not (isinstance(old, int) and isinstance(new, int) and old == new):
            x = _resize_side(x, dim, new)
    return x


def _resize_side(x: Tensor, dim: int, size: int) -> Tensor:
    old = x.shape[dim]
    # PyTorch rounds the ratio and the place to single precision, and nothing between; the finest
    # resize has places up to 3136, so every rounding more would be seen.
    ratio = torch.scalar_tensor(old / size, dtype=x.dtype, device=x.device).double()
    place = ((torch.arange(size, device=x.device).double() + 0.5) * ratio - 0.5).to(x.dtype)
    first = place.floor()
    t = (place - first).view(-1, *[1] * (-dim - 1))
    first = first.long()
    # Keys' weights of the four neighbours, the second of which the place is t behind.
    return sum(
        weight * x.index_select(dim, (first + offset).clamp(0, old - 1))
        for offset, weight in zip(
            (-1, 0, 1, 2), (_far(t + 1), _near(t), _near(1 - t), _far(2 - t)), strict=True
        )
    )


def _antialiased(old: int, size: int, like: Tensor) -> Tensor:
    """The (size, old) matrix of an antialiased resize."""
    ratio = torch.scalar_tensor(old / size, dtype=torch.double, device=like.device)
    centre = (torch.arange(size, device=like.device).double() + 0.5) * ratio
    place = torch.arange(old, device=like.device).double() + 0.5
    distance = (place - centre[:, None]).abs() / ratio.clamp(min=1)
    weight = torch.where(distance < 1, _near(distance, -0.5), _far(distance.clamp(max=2), -0.5))
    return (weight / weight.sum(1, keepdim=True)).to(like.dtype)


def _far(d: Tensor, a: float = -0.75) -> Tensor:
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a


def _near(d: Tensor, a: float = -0.75) -> Tensor:
    return ((a + 2) * d - (a + 3)) * d * d + 1


def normalise_whole(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`torch.nn.functional.group_norm` of one group over a map (B, C, H, W).

    The exporter's own lays each image out in a row, for which OpenVINO has to put channels first
    and last again (0.8 of the time, with the convolutions beside it). Means are of the channels'
    means: a runtime adds up millions of values one after another in float32, and a whole TransXNet
    was 160 times as far from PyTorch in onnxruntime at 800x1344, 50 times in OpenVINO.
    """

    def mean(x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True).mean(1, keepdim=True)

    x = x - mean(x)
    x = x / (mean(x.pow(2)) + eps).sqrt()
    x = x if weight is None else x * weight.view(-1, 1, 1)
    return x if bias is None else x + bias.view(-1, 1, 1)


def convolve_by_products(self: InputDependentDepthwiseConv, x: Tensor) -> Tensor:
    """The dynamic convolution for any batch: a product with the map moved along, then sums.

    PyTorch convolves all images at once, in as many groups as there are channels in all of them.
    In ONNX the number of groups is fixed, and OpenVINO opens no loop over the images. Of the forms
    that are left this was the fastest in both runtimes.
    """
    weight, bias = self.kernels(x)
    size, (height, width) = self.kernel_size, x.shape[-2:]
    x = F.pad(x, (size // 2,) * 4)
    moved = torch.stack([x[..., j : j + width] for j in range(size)], dim=2)
    # (B, C, K, K) @ (B, C, K, (H + K - 1) W): each row of a kernel along each row of the map.
    rows = (weight @ moved.flatten(3)).unflatten(3, (-1, width))
    return bias[..., None, None] + sum(rows[:, :, i, i : i + height] for i in range(size))


def upsample_by_scale(self: nn.Module, x: Tensor) -> Tensor:
    """mmseg's ``Upsample``, whose own way to the new size, ``int(side * scale)``, fixes it to that
    of the trace."""
    options = dict(mode=self.mode, align_corners=self.align_corners)
    return F.interpolate(x, scale_factor=self.scale_factor, **options)


def make_exportable(model: nn.Module, *, any_batch: bool, any_size: bool) -> None:
    """Replaces, in place, what cannot be exported for every batch and size, where it should be."""
    for module in model.modules():
        package, name = type(module).__module__.partition(".")[0], type(module).__name__
        if isinstance(module, InputDependentDepthwiseConv) and any_batch:
            module.forward = types.MethodType(convolve_by_products, module)
        elif isinstance(module, TransXNet) and not any_size:
            # Called before it is traced, it has its positions ready: the graph holds them.
            module.relative_position = functools.cache(module.relative_position)
        # By name: mmseg need not be there.
        elif (package, name) == ("mmseg", "Upsample") and not module.size:
            module.forward = types.MethodType(upsample_by_scale, module)


class ExportableOperations(TorchFunctionMode):
    """While it is entered, pooling, bicubic resizing and group normalisation are this file's."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.adaptive_avg_pool2d:
            return adaptive_average_pool(*args, **kwargs)
        if func is F.group_norm and args[0].ndim == 4 and args[1] == 1:
            return normalise_whole(*args, **kwargs)
        by_size = kwargs.get("size") is not None and not kwargs.get("align_corners")
        if func is F.interpolate and kwargs.get("mode") == "bicubic" and by_size:
            return resize_bicubic(*args, kwargs["size"], kwargs.get("antialias", False))
        return func(*args, **kwargs)


def translations() -> dict[Callable, Callable]:
    """What the exporter is told of operations that it translates for known numbers only."""
    from onnxscript import opset18 as op

    def remainder(self, other):
        return op.Mod(self, op.CastLike(other, self))

    return {torch.ops.aten.remainder.Scalar: remainder}
