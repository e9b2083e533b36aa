"""Parameters, multiply-accumulates and activations of a model, without running it.

The model runs on fake tensors, which have a shape and no values: no memory, and no time but
Python's. Two counts stand side by side, because tables in papers use the second:

* ``macs``: what PyTorch's operators multiply and accumulate, counted by PyTorch's own
  ``FlopCounterMode``: convolutions, also those whose kernels are computed, linear layers and matrix
  products, attention in a fused kernel too. Half of what PyTorch calls FLOPs.
* ``mm_macs``: what OpenMMLab's ``get_flops.py`` printed for most published tables, mmcv 1.x's
  ``get_model_complexity_info``. It goes by module: convolutions and linear layers with their
  biases, two for each value of a normalisation, one for each of a rectifier or a pool. It sees no
  matrix product (attention) and no convolution outside a module (dynamic kernels). The papers call
  it FLOPs.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules import activation, batchnorm, conv, instancenorm, pooling
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop

from mmhybrid.errors import ArgumentError
from mmhybrid.layers.layer_scale import LayerScale

PROPOSALS = 1000  # boxes that the second stage of a detector is counted with
MASKS = 100  # of which get a mask
# PyTorch 2.7 knows what attention costs on a GPU, but not in its kernel for CPUs.
flop_registry.setdefault(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, sdpa_flop)


@dataclass
class ModuleCount:
    """What one module costs, with all modules inside it.

    Attributes:
        name: where it is in the model, ``''`` for the whole.
        type: its class.
        parameters: all of them, frozen ones too.
        macs: multiply-accumulates of one image, see :mod:`mmhybrid.analysis.counting`.
        mm_macs: the same as OpenMMLab's tables count them.
        activations: values that come out of convolutions, linear layers, matrix products and
            attention.
    """

    name: str
    type: str
    parameters: int
    macs: int = 0
    mm_macs: int = 0
    activations: int = 0


@dataclass
class Count(ModuleCount):
    """What a model costs: the whole, and every module that ran, in the order of the model.

    Attributes:
        shape: (C, H, W) of the image.
        modules: the rows. A module inside another is counted in both.
    """

    shape: tuple[int, ...] = ()
    modules: list[ModuleCount] = field(default_factory=list)


def count(model: nn.Module, shape: tuple[int, ...]) -> Count:
    """Counts a model for one image.

    A detector is counted with backbone, neck, first stage, and a second stage over 1000 boxes, of
    which 100 get masks; a segmentor without its auxiliary head; as the published tables are.
    Proposals, suppression of boxes and the cutting out of regions count nothing. What is counted
    is what this implementation does on the model's device: attention that is folded to be faster
    (:mod:`mmhybrid.layers.relative_position`) counts as it is computed.

    Args:
        model: a backbone, or a detector, segmentor or classifier of OpenMMLab, on any device,
            ``'meta'`` too. Left as it is.
        shape: (H, W) or (C, H, W); C is 3 unless given.

    Returns:
        The whole and its parts.

    Raises:
        ValueError: ``shape`` is neither.

    Example:
        >>> from mmhybrid.analysis import count
        >>> from mmhybrid.backbones import TransXNet
        >>> round(count(TransXNet('tiny'), (224, 224)).mm_macs / 1e9, 2)
        1.77
    """
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ArgumentError(f"shape={shape}: give (H, W) or (C, H, W), positive")
    shape = (3, *shape)[-3:]
    counter = FlopCounterMode(display=False)
    activations = _Activations()
    rows = {
        module: ModuleCount(name, type(module).__name__, _parameters(module))
        for name, module in model.named_modules()
    }
    ran: set[nn.Module] = set()
    mm_macs = 0
    starts: list[tuple[int, int, int]] = []

    def totals() -> tuple[int, int, int]:
        return counter.get_total_flops() // 2, mm_macs, activations.values

    def before(module: nn.Module, inputs: Any) -> None:
        starts.append(totals())

    def after(module: nn.Module, inputs: tuple, output: Any) -> None:
        nonlocal mm_macs
        mm_macs += mm_style_macs(module, inputs, output)
        row, ended, started = rows[module], totals(), starts.pop()
        row.macs += ended[0] - started[0]
        row.mm_macs += ended[1] - started[1]
        row.activations += ended[2] - started[2]
        ran.add(module)

    # The forward of a whole detector is more than its modules: that of the model itself is not
    # called.
    parts = [module for module in rows if module is not model]
    handles = [module.register_forward_pre_hook(before) for module in parts]
    handles += [module.register_forward_hook(after) for module in parts]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    # What is on the meta device has no values already.
    fake = nullcontext() if device.type == "meta" else FakeTensorMode(allow_non_fake_inputs=True)
    were_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), fake, counter, activations:
            run_parts(model, torch.empty(1, *shape, device=device))
    finally:
        for handle in handles:
            handle.remove()
        for module in were_training:
            module.training = True
    macs, mm_macs, values = totals()
    return Count(
        "",
        type(model).__name__,
        _parameters(model),
        macs,
        mm_macs,
        values,
        shape,
        [row for module, row in rows.items() if module in ran],
    )


def run_parts(model: nn.Module, x: Tensor) -> Any:
    """Runs what costs anything of a model: of a detector all but finding and cutting out regions.

    Args:
        model: as :func:`count` takes it.
        x: (B, C, H, W), normalised already.

    Returns:
        What the last part returns.
    """
    if not hasattr(model, "extract_feat"):  # a backbone
        return model(x)
    output = features = model.extract_feat(x)
    for name in ("rpn_head", "bbox_head", "decode_head", "head"):
        if getattr(model, name, None) is not None:
            output = getattr(model, name)(features)
    if getattr(model, "roi_head", None) is not None:
        output = _second_stage(model.roi_head, features[0])
    return output


def _second_stage(roi_head: nn.Module, finest: Tensor) -> list[Any]:
    """Runs all box and mask heads over regions of random values."""
    outputs = []
    for kind, number in (("bbox", PROPOSALS), ("mask", MASKS)):
        heads = getattr(roi_head, f"{kind}_head", None)
        extractors = getattr(roi_head, f"{kind}_roi_extractor", None)
        if heads is None:
            continue
        if not isinstance(heads, nn.ModuleList):
            heads, extractors = [heads], [extractors]
        for head, extractor in zip(heads, extractors, strict=True):
            side = extractor.roi_layers[0].output_size
            outputs.append(head(finest.new_empty(number, finest.shape[1], *side)))
    return outputs


class _Activations(TorchDispatchMode):
    """Counts the values that come out of the operators which multiply and accumulate."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.values += (output if isinstance(output, Tensor) else output[0]).numel()
        return output


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


RECTIFIERS = (
    activation.ReLU,
    activation.PReLU,
    activation.ELU,
    activation.LeakyReLU,
    activation.ReLU6,
)
NORMS = (batchnorm._NormBase, instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)
POOLS = (
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
    pooling._AdaptiveAvgPoolNd,
)


def mm_style_macs(module: nn.Module, inputs: tuple, output: Any) -> int:
    """What mmcv 1.x counts for one call of one module, without what is inside it.

    Args:
        module: that was called.
        inputs: its positional arguments.
        output: what it returned.
    """
    if not inputs or not isinstance(output, Tensor):
        return 0
    values = output.numel()
    if isinstance(module, conv._ConvNd):
        per_position = math.prod(module.weight.shape[1:])
        positions = inputs[0].numel() if module.transposed else values
        return positions * per_position + (values if module.bias is not None else 0)
    if isinstance(module, LayerScale):  # a depth-wise 1x1 convolution in the authors' code
        return values * (1 + (module.bias is not None))
    if isinstance(module, nn.Linear):
        return values * module.in_features + (module.out_features if module.bias is not None else 0)
    if isinstance(module, NORMS):
        return values * (2 if getattr(module, "affine", True) else 1)
    if isinstance(module, (*RECTIFIERS, nn.Upsample)):
        return values
    if isinstance(module, POOLS):
        return inputs[0].numel()
    return 0
