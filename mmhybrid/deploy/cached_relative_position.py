"""Fitted tables of relative positions, kept from image to image."""

import torch
from torch._subclasses.fake_tensor import FakeTensor

from mmhybrid.backbones.transxnet import TransXNet
from mmhybrid.layers.relative_position import RelativePosition


class CachedRelativePosition:
    """Takes the place of :meth:`TransXNet.relative_position` in a fused model.

    That does not change, so what was fitted for the last image size serves the next image of it.
    """

    def __init__(self, backbone: TransXNet) -> None:
        self.backbone = backbone
        self.fit = backbone.relative_position
        self.kept: dict[int, tuple[tuple, RelativePosition]] = {}

    def __call__(self, stage: int, height: int, width: int) -> RelativePosition:
        if torch.compiler.is_compiling():
            return self.fit(stage, height, width)
        table = self.backbone.relative_pos_enc[stage]
        # What it was made of and for; loading other weights changes the version.
        made_for = (height, width, table.device, table.dtype, table.data_ptr(), table._version)
        if stage not in self.kept or self.kept[stage][0] != made_for:
            self.kept.pop(stage, None)
            # Tensors of inference mode could not be used outside of it.
            with torch.inference_mode(False), torch.no_grad():
                position = self.fit(stage, height, width)
            if any(isinstance(part, FakeTensor) for part in position):  # someone counts
                return position
            self.kept[stage] = made_for, position
        return self.kept[stage][1]
