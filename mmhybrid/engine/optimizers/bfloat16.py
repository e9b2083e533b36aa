"""Training in bfloat16 without a GPU, for which MMEngine's ``AmpOptimWrapper`` asks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """Computes the losses under autocast to bfloat16, on any device.

    Weights stay float32, and no loss is scaled: bfloat16 has the range of float32.

    Example:
        >>> from torch import nn
        >>> from mmhybrid.engine import Bfloat16OptimWrapper
        >>> model = nn.Linear(2, 1)
        >>> wrapper = Bfloat16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> with wrapper.optim_context(model):
        ...     model(torch.ones(1, 2)).dtype
        torch.bfloat16
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
