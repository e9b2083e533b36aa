"""Fusing a trained model for inference."""

import copy
from typing import TypeVar

import torch
from torch import nn

from mmhybrid.backbones import is_backbone
from mmhybrid.deploy.folding import FUSED_FORMS, activate_in_place, fold_norms
from mmhybrid.errors import ArgumentError

Model = TypeVar("Model", bound=nn.Module)


@torch.inference_mode(False)  # whose tensors could not be used outside of it
@torch.no_grad()
def fuse(model: Model) -> Model:
    """Returns a copy of a model that computes the same with fewer operations, for inference.

    Batch normalisations are folded into the convolutions beside them, in backbone, neck and head.
    Blocks that have a fused form (:func:`mmhybrid.deploy.folding.fuses`) take it; one with
    normalisations that depend on the image stays as it is, and so does a batch normalisation before
    a convolution that pads, as in the depth-wise shortcut: the zeros come after the shift. A model
    on a CPU works channels last.

    Args:
        model (nn.Module): A backbone, or a detector, segmentor or classifier that holds one.

    Returns:
        nn.Module: A copy in evaluation mode, which cannot be trained; its state dict is its own.

    Raises:
        ArgumentError: The model holds no backbone of mmhybrid.

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
    return model.requires_grad_(False)


def _with_fused_forms(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        fused = _with_fused_forms(child)
        if fused is not child:
            setattr(module, name, fused)
    make = FUSED_FORMS.get(type(module))
    return module if make is None else make(module)
