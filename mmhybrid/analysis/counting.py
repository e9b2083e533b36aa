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
from torch.nn.modules import batchnorm, conv, instancenorm, pooling
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
        name (str): Name in the model, ``''`` for the whole.
        type (str): Its class.
        parameters (int): All of them, frozen ones too.
        macs (int): Multiply-accumulates of one image, see :mod:`mmhybrid.analysis.counting`.
        mm_macs (int): The same as OpenMMLab's tables count them.
        activations (int): Values that come out of convolutions, linear layers, matrix products and
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
    """What a model costs: the whole, and every module that ran.

    Attributes:
        shape (tuple): (C, H, W) of the image.
        modules (list[ModuleCount]): In the order of the model. A module inside another is counted
            in both.
    """

    shape: tuple[int, ...] = ()
    modules: list[ModuleCount] = field(default_factory=list)


def count(model: nn.Module, shape: tuple[int, ...]) -> Count:
    """Counts a model for one image.

    A detector is counted with backbone, neck, first stage, and a second stage over 1000 boxes, of
    which 100 get masks; a segmentor without its auxiliary head; as the published tables are.
    Proposals, suppression of boxes and the cutting out of regions count nothing. Attention that is
    folded to be faster (:mod:`mmhybrid.layers.relative_position`) counts as it is computed.

    Args:
        model (nn.Module): A backbone, or a detector, segmentor or classifier of OpenMMLab, on any
            device, ``'meta'`` too. Left as it is.
        shape (tuple): (H, W), or (C, H, W). C defaults to 3.

    Example:
        >>> from mmhybrid.analysis import count
        >>> from mmhybrid.backbones import TransXNet
        >>> round(count(TransXNet('tiny'), (224, 224)).mm_macs / 1e9, 2)
        1.77
    """
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ArgumentError(f"shape={shape}: give (H, W) or (C, H, W), positive")
    shape = (3, *shape)[-3:]
    flops, activations = FlopCounterMode(display=False), _Activations()
    rows = {
        module: ModuleCount(name, type(module).__name__, _parameters(module))
        for name, module in model.named_modules()
    }
    ran: set[nn.Module] = set()
    mm_macs = 0
    starts: list[tuple[int, int, int]] = []

    def totals() -> tuple[int, int, int]:
        return flops.get_total_flops() // 2, mm_macs, activations.values

    def before(module: nn.Module, inputs: Any) -> None:
        starts.append(totals())

    def after(module: nn.Module, inputs: tuple, output: Any) -> None:
        nonlocal mm_macs
        mm_macs += mm_style_macs(module, inputs, output)
        macs, mm, values = (end - start for end, start in zip(totals(), starts.pop(), strict=True))
        row = rows[module]
        row.macs += macs
        row.mm_macs += mm
        row.activations += values
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
        with torch.no_grad(), fake, flops, activations:
            run_parts(model, torch.empty(1, *shape, device=device))
    finally:
        for handle in handles:
            handle.remove()
        for module in were_training:
            module.training = True
    modules = [row for module, row in rows.items() if module in ran]
    return Count("", type(model).__name__, _parameters(model), *totals(), shape, modules)


def run_parts(model: nn.Module, x: Tensor) -> Any:
    """Runs what costs anything of a model: of a detector all but finding and cutting out regions.

    Args:
        model (nn.Module): As :func:`count` takes it.
        x (Tensor): (B, C, H, W), normalised already.

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
    for part, number in (("bbox", PROPOSALS), ("mask", MASKS)):
        heads = getattr(roi_head, f"{part}_head", None)
        extractors = getattr(roi_head, f"{part}_roi_extractor", None)
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


RECTIFIERS = (nn.ReLU, nn.PReLU, nn.ELU, nn.LeakyReLU, nn.ReLU6)
NORMS = (batchnorm._NormBase, instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)
POOLS = (
    pooling._MaxPoolNd,
    pooling._AvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
    pooling._AdaptiveAvgPoolNd,
)


def mm_style_macs(module: nn.Module, inputs: tuple, output: Any) -> int:
    """What mmcv 1.x counts for one call of a module, without what is inside it.

    Args:
        module (nn.Module): The module.
        inputs (tuple): Its positional arguments.
        output (Any): What it returned.
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
