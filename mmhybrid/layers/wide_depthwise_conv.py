"""A depth-wise convolution that stays fast where it reaches far beyond the border."""

import torch.nn.functional as F
from torch import Tensor, nn

# Zeros on each side, up to which oneDNN's fast depth-wise kernel supplies them itself.
WIDEST_RIM = 6


class WideDepthwiseConv(nn.Conv2d):
    """A depth-wise convolution of odd size that keeps height and width, padding with zeros.

    A CPU's fast kernel refuses a rim of more than 6 zeros, such as a 7x7 kernel of dilation 3
    wants, for one six times as slow. A map that has its rim already goes through the fast one.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1) -> None:
        rim = dilation * (kernel_size // 2)
        super().__init__(
            channels, channels, kernel_size, padding=rim, dilation=dilation, groups=channels
        )

    def forward(self, x: Tensor) -> Tensor:
        rim = self.padding[0]
        if rim <= WIDEST_RIM or x.device.type != "cpu":
            return super().forward(x)
        x = F.pad(x, (rim,) * 4)
        return F.conv2d(x, self.weight, self.bias, dilation=self.dilation, groups=self.groups)
