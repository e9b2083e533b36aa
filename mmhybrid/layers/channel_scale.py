"""A depth-wise 1x1 convolution, as the multiplication that it is."""

import torch
from torch import Tensor, nn


class ChannelScale(nn.Conv2d):
    """``weight * x + bias`` per channel, of (B, C, H, W), with the parameters of a convolution.

    PyTorch may run a depth-wise 1x1 convolution as one matrix product a channel, which is many
    times as slow.

    Args:
        channels: C.
        bias: whether there is one.
    """

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__(channels, channels, 1, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        # As a convolution under autocast, the result keeps the precision of the input.
        weight = self.weight.view(-1, 1, 1).to(x.dtype)
        if self.bias is None:
            return x * weight
        return torch.addcmul(self.bias.view(-1, 1, 1).to(x.dtype), x, weight)
