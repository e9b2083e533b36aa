"""InceptionNeXt, https://arxiv.org/abs/2303.16900: the example of docs/adding_a_backbone.md."""

import torch
from mmengine.registry import MODELS
from torch import nn

from mmhybrid.backbones import HybridBackbone
from mmhybrid.layers.drop_path import DropPath, drop_path_rates
from mmhybrid.layers.layer_scale import LayerScale
from mmhybrid.layers.norm import build_norm


class InceptionMixer(nn.Module):
    """3x3, 1x11 and 11x1 depth-wise convolutions of an eighth of the channels each."""

    def __init__(self, dim):
        super().__init__()
        part = dim // 8
        self.split = (dim - 3 * part, part, part, part)
        self.square = nn.Conv2d(part, part, 3, padding=1, groups=part)
        self.wide = nn.Conv2d(part, part, (1, 11), padding=(0, 5), groups=part)
        self.tall = nn.Conv2d(part, part, (11, 1), padding=(5, 0), groups=part)

    def forward(self, x):
        rest, a, b, c = x.split(self.split, dim=1)
        return torch.cat((rest, self.square(a), self.wide(b), self.tall(c)), dim=1)


class Block(nn.Sequential):
    """x + scale * mlp(norm(mix(x)))"""

    def __init__(self, dim, mlp_ratio, norm_cfg, layer_scale_init, drop_path_rate):
        super().__init__(
            InceptionMixer(dim),
            build_norm(norm_cfg, dim),
            nn.Conv2d(dim, mlp_ratio * dim, 1),
            nn.GELU(),
            nn.Conv2d(mlp_ratio * dim, dim, 1),
            LayerScale(dim, layer_scale_init, bias=False),
            DropPath(drop_path_rate),
        )

    def forward(self, x):
        return x + super().forward(x)


@MODELS.register_module()
class InceptionNeXt(HybridBackbone):
    """InceptionNeXt-T by default; ``options`` as of HybridBackbone: out_indices, with_cp, ..."""

    def __init__(
        self, dims=(96, 192, 384, 768), depths=(3, 3, 9, 3), in_channels=3, norm_cfg=None,
        layer_scale_init=1e-6, drop_path_rate=0.0, **options,
    ):  # fmt: skip
        super().__init__(channels=dims, strides=(4, 8, 16, 32), **options)
        norm_cfg = norm_cfg or dict(type="BN")
        rates = drop_path_rates(drop_path_rate, depths)
        patches = nn.Conv2d(in_channels, dims[0], 4, stride=4)
        self.stem = nn.Sequential(patches, build_norm(norm_cfg, dims[0]))
        self.stages = nn.ModuleList()
        for i in range(self.out_indices[-1] + 1):  # a stage that nobody reads would get no gradient
            ratio = 3 if i == 3 else 4
            blocks = [Block(dims[i], ratio, norm_cfg, layer_scale_init, rate) for rate in rates[i]]
            if i > 0:
                halve = nn.Conv2d(dims[i - 1], dims[i], 2, stride=2)
                blocks.insert(0, nn.Sequential(build_norm(norm_cfg, dims[i - 1]), halve))
            self.stages.append(nn.ModuleList(blocks))
        self.freeze_stages()
