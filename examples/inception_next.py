"""InceptionNeXt, https://arxiv.org/abs/2303.16900: the example of docs/adding_a_backbone.md."""

import torch
from mmengine.registry import MODELS
from torch import nn

from mmhybrid.backbones import HybridBackbone, Published, Stage, resolve_arch
from mmhybrid.deploy.folding import affine_after, fuses
from mmhybrid.layers.drop_path import DropPath, drop_path_rates
from mmhybrid.layers.layer_scale import LayerScale
from mmhybrid.layers.norm import build_norm


class InceptionMixer(nn.Module):
    """3x3, 1x11 and 11x1 depth-wise convolutions of an eighth of the channels each."""

    def __init__(self, dim):
        super().__init__()
        part = dim // 8
        self.split = (dim - 3 * part, part, part, part)
        self.square, self.wide, self.tall = (
            nn.Conv2d(part, part, size, padding=(size[0] // 2, size[1] // 2), groups=part)
            for size in ((3, 3), (1, 11), (11, 1))
        )

    def forward(self, x):
        rest, a, b, c = x.split(self.split, dim=1)
        return torch.cat((rest, self.square(a), self.wide(b), self.tall(c)), dim=1)


class Block(nn.Module):
    """x + scale * mlp(norm(mix(x)))"""

    def __init__(self, dim, hidden, norm_cfg, layer_scale_init, drop_path_rate):
        super().__init__()
        self.mixer = InceptionMixer(dim)
        expand, reduce = nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1)
        self.mlp = nn.Sequential(build_norm(norm_cfg, dim), expand, nn.GELU(), reduce)
        self.scale = LayerScale(dim, layer_scale_init, bias=False)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x):
        return x + self.drop_path(self.scale(self.mlp(self.mixer(x))))


@fuses(Block)
def fused_block(block):
    """The scale goes into the last convolution; the norm goes into the first by itself."""
    scale = block.scale.weight.double().flatten()
    block.mlp[-1] = affine_after(block.mlp[-1], scale, torch.zeros_like(scale))
    block.scale = nn.Identity()
    return block


@MODELS.register_module()
class InceptionNeXt(HybridBackbone):
    """InceptionNeXt-T by default; ``options`` as of HybridBackbone: out_indices, with_cp, ..."""

    presets = {"tiny": dict(embed_dims=(96, 192, 384, 768), depths=(3, 3, 9, 3))}  # noqa: RUF012
    test_options = dict(arch=dict(embed_dims=(16, 32, 48, 64), depths=(2, 1, 1, 1)))  # noqa: RUF012
    signs = (r"stages\.\d+\.\d+\.mixer\.wide\.",)
    published = (Published({  # timm's names
        "stages.*.downsample.": "downsamplings.*.",
        "stages.*.blocks.*.token_mixer.dwconv_hw.": "stages.*.*.mixer.square.",
        "stages.*.blocks.*.token_mixer.dwconv_w.": "stages.*.*.mixer.wide.",
        "stages.*.blocks.*.token_mixer.dwconv_h.": "stages.*.*.mixer.tall.",
        "stages.*.blocks.*.norm.": "stages.*.*.mlp.0.",
        "stages.*.blocks.*.mlp.fc1.": "stages.*.*.mlp.1.",
        "stages.*.blocks.*.mlp.fc2.": "stages.*.*.mlp.3.",
        "stages.*.blocks.*.gamma": "stages.*.*.scale.weight",
    }),)  # fmt: skip

    def __init__(self, arch="tiny", in_channels=3, norm_cfg=None, layer_scale_init=1e-6,
                 drop_path_rate=0.0, **options):  # fmt: skip
        settings = resolve_arch(arch, self.presets, defaults="tiny")
        dims, self.depths = settings["embed_dims"], settings["depths"]
        super().__init__(channels=dims, strides=(4, 8, 16, 32), **options)
        norm_cfg = norm_cfg or dict(type="BN")
        patches = nn.Conv2d(in_channels, dims[0], 4, stride=4)
        self.stem = nn.Sequential(patches, build_norm(norm_cfg, dims[0]))
        self.downsamplings, self.stages = nn.ModuleList(), nn.ModuleList()
        rates = drop_path_rates(drop_path_rate, self.depths)
        for i in range(self.out_indices[-1] + 1):  # a stage that nobody reads would get no gradient
            before, dim, hidden = dims[i - 1], dims[i], dims[i] * (3 if i == 3 else 4)
            halve = [build_norm(norm_cfg, before), nn.Conv2d(before, dim, 2, stride=2)]
            self.downsamplings.append(nn.Sequential(*halve) if i > 0 else nn.Identity())
            blocks = (Block(dim, hidden, norm_cfg, layer_scale_init, rate) for rate in rates[i])
            self.stages.append(nn.ModuleList(blocks))
        self.freeze_stages()

    def get_stages(self):
        parts = zip(self.stages, self.downsamplings, strict=True)
        return [Stage(blocks, downsample=halving) for blocks, halving in parts]
