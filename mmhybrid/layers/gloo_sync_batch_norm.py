"""Batch normalisation over the images of all processes, on CPUs too."""

import torch
import torch.distributed as dist
from mmengine.registry import MODELS
from torch import Tensor

from mmhybrid.layers.norm import BatchNorm2d


@MODELS.register_module()
class GlooSyncBatchNorm(BatchNorm2d):
    """What :class:`torch.nn.SyncBatchNorm` computes, where that refuses: on CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce  # only where there are processes

        dims = [0, 2, 3]
        count = all_reduce(x.new_tensor([x.numel() / x.shape[1]]))
        mean = all_reduce(x.sum(dims)) / count
        centred = x - mean[:, None, None]
        variance = all_reduce((centred * centred).sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = self.momentum
            if momentum is None:
                momentum = 1 / int(self.num_batches_tracked)
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(unbiased, momentum)
        y = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y
