"""A factor per channel, from the global mean."""

from torch import nn


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
