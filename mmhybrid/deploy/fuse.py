"""Fusing a trained model for inference."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from mmhybrid.backbones.base import HybridBackbone
from mmhybrid.backbones.transxnet import TransXNet, TransXNetBlock
from mmhybrid.deploy.folding import fold_norms
from mmhybrid.deploy.fused_transxnet import FusedTransXNetBlock
from mmhybrid.deploy.remembered_positions import RememberedPositions

Model = TypeVar("Model", bound=nn.Module)

FUSED_BLOCKS = {TransXNetBlock: FusedTransXNetBlock}


@torch.no_grad()
def fuse(model: Model) -> Model:
    """Returns a copy of a model that computes the same with fewer operations, for inference.

    Batch normalisations are folded into the convolutions beside them, in backbone, neck and head.
    Blocks that know a shorter form (see ``FUSED_BLOCKS``) take it.

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
    if not any(isinstance(module, HybridBackbone) for module in model.modules()):
        raise ValueError(f"{type(model).__name__} holds no backbone of mmhybrid: nothing to fuse")
    model = copy.deepcopy(model).eval()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) in FUSED_BLOCKS:
                setattr(parent, name, FUSED_BLOCKS[type(child)](child))
    for module in model.modules():
        if isinstance(module, TransXNet):
            module.relative_position = RememberedPositions(module)
    fold_norms(model)
    return model.requires_grad_(False)
