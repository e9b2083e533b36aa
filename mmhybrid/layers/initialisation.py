"""How layers start."""

import math

from torch import nn


def init_convolutions(model: nn.Module) -> None:
    """Normal weights with variance 2 / (outputs that an input value meets), and no bias.

    He et al., https://arxiv.org/abs/1502.01852, but with the outputs counted within a group, so
    that depth-wise convolutions do not start near zero.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_truncated(model: nn.Module, layers: type[nn.Module]) -> None:
    """Truncated normal weights, standard deviation 0.02, and no bias, in all layers of a type."""
    for module in model.modules():
        if isinstance(module, layers):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
