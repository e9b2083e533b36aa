"""Fusing a trained model for inference."""

import copy
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from mmhybrid.backbones import is_backbone
from mmhybrid.deploy.folding import FUSED_FORMS, activate_in_place, fold_norms
from mmhybrid.errors import ArgumentError

Model = TypeVar("Model", bound=nn.Module)
# Parts of a whole model that may compute in another type; heads decode boxes, and stay as they are.
INSIDE = ("backbone", "neck")


@torch.inference_mode(False)  # whose tensors could not be used outside of it
@torch.no_grad()
def fuse(model: Model, dtype: torch.dtype | None = None) -> Model:
    """Returns a copy of a model that computes the same with fewer operations, for inference.

    Batch normalisations are folded into the convolutions beside them, in backbone, neck and head.
    Blocks that have a fused form (:func:`mmhybrid.deploy.folding.fuses`) take it; one with
    normalisations that depend on the image stays as it is, and so does a batch normalisation before
    a convolution that pads, as in the depth-wise shortcut: the zeros come after the shift. A model
    on a CPU works channels last.

    Args:
        model (nn.Module): A backbone, or a detector, segmentor or classifier that holds one.
        dtype (torch.dtype, optional): Such as ``torch.bfloat16``, in which backbone and neck
            compute; images and what they return stay float32. ``docs/speed.md`` has what that gains
            and changes. Defaults to the model's own.

    Returns:
        nn.Module: A copy in evaluation mode, which cannot be trained; its state dict is its own.

    Raises:
        ArgumentError: The model holds no backbone of mmhybrid, or is on a processor that has no
            instructions for bfloat16.

    Example:
        >>> import torch
        >>> from mmhybrid.backbones import TransXNet
        >>> from mmhybrid.deploy import fuse
        >>> model = TransXNet('tiny').eval()
        >>> x = torch.randn(1, 3, 64, 64)
        >>> all(torch.allclose(a, b, atol=1e-4) for a, b in zip(model(x), fuse(model)(x)))
        True
    """
    if not any(map(is_backbone, model.modules())):
        raise ArgumentError(
            f"{type(model).__name__} holds no backbone of mmhybrid: nothing to fuse"
        )
    model = _with_fused_forms(copy.deepcopy(model).eval())
    fold_norms(model)
    activate_in_place(model)
    if all(parameter.device.type == "cpu" for parameter in model.parameters()):
        # Convolutions whose weights lie so make maps that lie so, see prefer_channels_last.
        model.to(memory_format=torch.channels_last)
        if dtype == torch.bfloat16:
            check_bfloat16()
    if dtype is not None:
        whole = is_backbone(model)
        for part in [model] if whole else filter(None, map(model._modules.get, INSIDE)):
            part.to(dtype)
            part.register_forward_pre_hook(partial(_cast_inputs, dtype))
            part.register_forward_hook(_cast_outputs)
    return model.requires_grad_(False)


def check_bfloat16() -> None:
    """Raises ArgumentError where the processor has no instructions for bfloat16."""
    # PyTorch says what a processor can from some version on.
    known = getattr(torch.cpu, "get_capabilities", dict)()
    can = not known or any(value for name, value in known.items() if "bf16" in name)
    if not can:
        raise ArgumentError(
            "this processor has no instructions for bfloat16, which would be slower than float32"
        )


def _cast_inputs(dtype: torch.dtype, module: nn.Module, inputs: tuple) -> tuple:
    return tree_map_only(torch.Tensor, lambda x: x.to(dtype), inputs)


def _cast_outputs(module: nn.Module, inputs: tuple, outputs: Any) -> Any:
    return tree_map_only(torch.Tensor, torch.Tensor.float, outputs)


def _with_fused_forms(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        fused = _with_fused_forms(child)
        if fused is not child:
            setattr(module, name, fused)
    make = FUSED_FORMS.get(type(module))
    return module if make is None else make(module)
