"""Fusing a trained model for inference."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from mmhybrid.backbones import BACKBONES
from mmhybrid.backbones.dmformer import DMFormerBlock
from mmhybrid.backbones.transxnet import TransXNet, TransXNetBlock
from mmhybrid.deploy.cached_relative_position import CachedRelativePosition
from mmhybrid.deploy.folding import activate_in_place, fold_norms
from mmhybrid.deploy.fused_dmformer import FusedDMFormerBlock
from mmhybrid.deploy.fused_transxnet import FusedTransXNetBlock
from mmhybrid.deploy.fused_xformer import FusedInvertedResidual
from mmhybrid.errors import ArgumentError
from mmhybrid.layers.inverted_residual import InvertedResidual

Model = TypeVar("Model", bound=nn.Module)

FUSED_BLOCKS = {
    TransXNetBlock: FusedTransXNetBlock,
    DMFormerBlock: FusedDMFormerBlock,
    InvertedResidual: FusedInvertedResidual,
}


@torch.inference_mode(False)  # whose tensors could not be used outside of it
@torch.no_grad()
def fuse(model: Model) -> Model:
    """Returns a copy of a model that computes the same with fewer operations, for inference.

    Batch normalisations are folded into the convolutions beside them, in backbone, neck and head.
    Blocks that know a shorter form (see ``FUSED_BLOCKS``) take it; one with normalisations of
    another kind, which depend on the image, stays as it is. A model on a CPU works channels last.

    A batch normalisation before a convolution that pads stays too, as in the depth-wise shortcut:
    the convolution pads with zeros after the shift, which no convolution before the shift can.

    Args:
        model: a backbone of this package, or a detector, segmentor or classifier that holds one; is
            left as it is.

    Returns:
        The copy, in evaluation mode, without gradients. It cannot be trained, and its state dict is
        its own.

    Raises:
        ValueError: the model holds no backbone of this package.

    Example:
        >>> import torch
        >>> from mmhybrid.backbones import TransXNet
        >>> from mmhybrid.deploy import fuse
        >>> model = TransXNet('tiny').eval()
        >>> x = torch.randn(1, 3, 64, 64)
        >>> all(torch.allclose(a, b, atol=1e-4) for a, b in zip(model(x), fuse(model)(x)))
        True
    """
    if not any(isinstance(module, BACKBONES) for module in model.modules()):
        raise ArgumentError(
            f"{type(model).__name__} holds no backbone of mmhybrid: nothing to fuse"
        )
    model = copy.deepcopy(model).eval()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            fused = FUSED_BLOCKS.get(type(child))
            if fused is not None and fused.fits(child):
                setattr(parent, name, fused(child))
    for module in model.modules():
        if isinstance(module, TransXNet):
            module.relative_position = CachedRelativePosition(module)
    fold_norms(model)
    activate_in_place(model)
    if all(parameter.device.type == "cpu" for parameter in model.parameters()):
        # Convolutions whose weights lie so make maps that lie so.
        # See mmhybrid.layers.memory_format.
        model.to(memory_format=torch.channels_last)
    return model.requires_grad_(False)
