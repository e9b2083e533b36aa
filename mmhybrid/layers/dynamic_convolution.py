"""Input-dependent depth-wise convolution (IDConv)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.layers.conv_norm import ConvNorm


class InputDependentDepthwiseConv(nn.Module):
    """A depth-wise convolution whose kernel and bias are mixed anew for every picture.

    TransXNet (https://arxiv.org/abs/2310.19380). A bank of G kernels is mixed by
    weights that a small bottleneck (the gate) predicts from the input pooled to the kernel's own
    size, for each kernel position; the bias is mixed likewise from the global mean.

    Args:
        channels: C of the (B, C, H, W) input and output.
        kernel_size: K, odd.
        num_groups: G, kernels in the bank.
        reduction_ratio: how much narrower the gate is.
        norm_cfg: of the normalisation in the gate. The gate runs twice a step (once for the kernel,
            once for the bias), so in training its running statistics are updated twice, as in the
            published code.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 7,
        num_groups: int = 2,
        reduction_ratio: int = 4,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.num_groups = num_groups
        self.weight = nn.Parameter(torch.empty(num_groups, channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(num_groups, channels))
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.trunc_normal_(self.bias, std=0.02)
        squeezed = channels // reduction_ratio
        self.proj = nn.Sequential(
            ConvNorm(channels, squeezed, 1, norm_cfg=norm_cfg, activation=nn.GELU()),
            nn.Conv2d(squeezed, num_groups * channels, 1),
        )

    def kernels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes the bank for (B, C, H, W): kernels (B, C, K, K) and biases (B, C)."""
        groups = (self.num_groups, -1)
        mean = x.mean(dim=(2, 3), keepdim=True)
        pooled = F.adaptive_avg_pool2d(x, self.kernel_size)
        kernel_gate = self.proj(pooled).unflatten(1, groups).softmax(dim=1)  # (B, G, C, K, K)
        bias_gate = self.proj(mean).flatten(1).unflatten(1, groups).softmax(dim=1)  # (B, G, C)
        return (kernel_gate * self.weight).sum(dim=1), (bias_gate * self.bias).sum(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        weight, bias = self.kernels(x)
        # One grouped convolution over all pictures: as fast as a static depth-wise one.
        x = F.conv2d(
            x.reshape(1, batch * channels, height, width),
            weight.reshape(batch * channels, 1, self.kernel_size, self.kernel_size),
            bias.flatten(),
            padding=self.kernel_size // 2,
            groups=batch * channels,
        )
        return x.view(batch, channels, height, width)
