"""A factor per channel, from the global mean."""

import torch
from torch import Tensor, nn


class ChannelGate(nn.Sequential):
    """Factors in [0, 1], one an image and channel: mean, two 1x1 convolutions, a sigmoid.

    The excitation of Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507. It maps
    (B, C, H, W) to (B, C, 1, 1) and leaves the multiplication to the caller.
    """

    def __init__(self, channels: int, squeezed: int, sigmoid: nn.Module) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            sigmoid,
        )


def convolve_each(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution of (B, C, H, W) with a weight (B, O, C) and a bias (B, O) for each image.

    With a gate in its weight, no map exists both with and without it.
    """
    pixels = x.movedim(1, -1).flatten(1, 2)
    out = pixels @ weight.mT if bias is None else torch.baddbmm(bias[:, None], pixels, weight.mT)
    return out.unflatten(1, x.shape[2:]).movedim(-1, 1)
