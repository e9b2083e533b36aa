"""Parameters, multiply-accumulates and activations of a model, without running it.

The model runs on fake tensors, which have a shape and no values. Two counts stand side by side:

* ``macs``: what all operators multiply and accumulate, half of PyTorch's ``FlopCounterMode``.
* ``mm_macs``: what OpenMMLab's ``get_flops.py`` (mmcv 1.x) printed for most published tables, and
  papers call FLOPs. It goes by module, so that it sees no matrix product (attention) and no
  convolution outside a module (dynamic kernels).
"""

import math
from contextlib import ExitStack, nullcontext
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
FIGURES = ("macs", "mm_macs", "activations")
# PyTorch 2.7 knows what attention costs on a GPU, but not in its kernel for CPUs.
flop_registry.setdefault(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, sdpa_flop)


@dataclass
class ModuleCount:
    """What one module, by its name in the model and its class, costs with all modules inside it.

    For one image: ``macs`` are the multiply-accumulates of all operators, ``mm_macs`` those that
    OpenMMLab's tables count, and ``activations`` the values that come out of convolutions, linear
    layers, matrix products and attention. Frozen parameters count too.
    """

    name: str
    type: str
    parameters: int
    macs: int = 0
    mm_macs: int = 0
    activations: int = 0


@dataclass
class Count(ModuleCount):
    """What a model costs for an image (C, H, W): the whole, its name empty, and all that ran."""

    shape: tuple[int, ...] = ()
    modules: list[ModuleCount] = field(default_factory=list)


def count(model: nn.Module, shape: tuple[int, ...]) -> Count:
    """Counts a model for one image.

    As the published tables count: the second stage of a detector over 1000 boxes, of which 100 get
    masks; no auxiliary head; nothing for proposals, suppression and the cutting out of regions.
    Folded attention (:mod:`mmhybrid.layers.relative_position`) counts as it is computed.

    Args:
        model (nn.Module): A backbone or a model of OpenMMLab, on any device. Left as it is.
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
        for key, end, start in zip(FIGURES, totals(), starts.pop(), strict=True):
            setattr(rows[module], key, getattr(rows[module], key) + end - start)
        ran.add(module)

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    # What is on the meta device has no values already.
    fake = nullcontext() if device.type == "meta" else FakeTensorMode(allow_non_fake_inputs=True)
    with ExitStack() as stack:
        for module in rows:
            stack.callback(setattr, module, "training", module.training)
            # Of a whole detector, the parts are called, and not its own forward.
            if module is not model:
                stack.enter_context(module.register_forward_pre_hook(before))
                stack.enter_context(module.register_forward_hook(after))
        model.eval()
        with torch.no_grad(), fake, flops, activations:
            run_parts(model, torch.empty(1, *shape, device=device))
    modules = [row for module, row in rows.items() if module in ran]
    return Count("", type(model).__name__, _parameters(model), *totals(), shape, modules)


def run_parts(model: nn.Module, x: Tensor) -> Any:
    """Runs what costs anything of a model, of a detector all but finding and cutting out regions.

    Takes a normalised (B, C, H, W), and returns the last part's output.
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
        if (heads := getattr(roi_head, f"{part}_head", None)) is None:
            continue
        extractors = getattr(roi_head, f"{part}_roi_extractor")
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


OF_EVERY_VALUE = (nn.ReLU, nn.PReLU, nn.ELU, nn.LeakyReLU, nn.ReLU6, nn.Upsample)
NORMS = (batchnorm._NormBase, instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)
MAX_POOLS = (pooling._MaxPoolNd, pooling._AdaptiveMaxPoolNd)
MEAN_POOLS = (pooling._AvgPoolNd, pooling._AdaptiveAvgPoolNd)


def mm_style_macs(module: nn.Module, inputs: tuple, output: Any) -> int:
    """What mmcv 1.x counts for one call of a module, without what is inside it."""
    if not inputs or not isinstance(output, Tensor):
        return 0
    values, bias = output.numel(), getattr(module, "bias", None) is not None
    if isinstance(module, conv._ConvNd):
        per_position = math.prod(module.weight.shape[1:])
        positions = inputs[0].numel() if module.transposed else values
        return positions * per_position + values * bias
    if isinstance(module, LayerScale):  # a depth-wise 1x1 convolution in the authors' code
        return values * (1 + bias)
    if isinstance(module, nn.Linear):
        return values * module.in_features + module.out_features * bias
    if isinstance(module, NORMS):
        return values * (1 + getattr(module, "affine", True))
    if isinstance(module, OF_EVERY_VALUE):
        return values
    if isinstance(module, (*MAX_POOLS, *MEAN_POOLS)):
        return inputs[0].numel()
    return 0
