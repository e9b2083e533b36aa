"""Feed-forward network with a depth-wise convolution."""

from torch import Tensor, nn


class DepthwiseFeedForward(nn.Module):
    """1x1 convolution, 3x3 depth-wise convolution, GELU, 1x1 convolution.

    The form of PVTv2 (https://arxiv.org/abs/2106.13797) and VAN (https://arxiv.org/abs/2202.09741).
    """

    def __init__(self, channels: int, hidden_channels: int, depthwise: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden_channels, 1)
        self.dwconv = (
            nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels)
            if depthwise
            else nn.Identity()
        )
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))
