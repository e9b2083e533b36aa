"""Maps of four sizes from the single map of a plain transformer."""

from collections.abc import Sequence

from torch import Tensor, nn

from mmhybrid.layers.norm import LayerNorm2d


class SimpleFeaturePyramid(nn.Module):
    """The simple feature pyramid of ViTDet, https://arxiv.org/abs/2203.16527, without its neck.

    Level 0 is four times as large as the map and has C / 4 channels, level 1 is twice as large and
    has C / 2 channels, level 2 is the map, level 3 half of it. ``levels`` are those to return.
    """

    def __init__(self, channels: int, levels: Sequence[int]) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        builders = {
            0: lambda: nn.Sequential(
                nn.ConvTranspose2d(channels, half, 2, stride=2),
                LayerNorm2d(half),
                nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, stride=2),
            ),
            1: lambda: nn.ConvTranspose2d(channels, half, 2, stride=2),
            2: nn.Identity,
            3: lambda: nn.MaxPool2d(2, ceil_mode=True),
        }
        self.levels = nn.ModuleDict({str(level): builders[level]() for level in levels})

    @staticmethod
    def level_channels(channels: int) -> tuple[int, int, int, int]:
        """Channels of the four levels."""
        return channels // 4, channels // 2, channels, channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(level(x) for level in self.levels.values())
