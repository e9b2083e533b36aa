"""Models with random weights that hide nothing, for comparing forms of the same computation."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def random_init(model: Model, seed: int = 0) -> Model:
    """Gives every parameter and buffer of a model a random value of a fair size, in place.

    At initialisation LayerScale hides all branches, tables of positions are zero, and batch
    normalisations change nothing.

    Example:
        >>> from torch import nn
        >>> random_init(nn.BatchNorm2d(4)).running_var.min() > 0
        tensor(True)
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, std: float) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) * std + mean

    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if "relative_pos_enc" in key:
                tensor.copy_(normal(tensor, 0.0, 1.0))
            elif key.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.ndim > 1 and "layer_scale" not in key:
                tensor.copy_(normal(tensor, 0.0, 1 / math.sqrt(math.prod(tensor.shape[1:]))))
            else:
                tensor.copy_(normal(tensor, 0.3, 0.2))
    return model
