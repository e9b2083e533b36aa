"""Input-dependent depth-wise convolution (IDConv)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.layers.conv_norm import ConvNorm
from mmhybrid.layers.depthwise_conv import depthwise_conv


class InputDependentDepthwiseConv(nn.Module):
    """A depth-wise convolution whose kernel and bias are mixed anew for every image.

    TransXNet (https://arxiv.org/abs/2310.19380). A bank of ``num_groups`` kernels of odd size K is
    mixed by weights that a bottleneck (the gate) predicts from the input pooled to K x K, for each
    kernel position; the bias is mixed likewise from the global mean. So the gate runs twice a step,
    and in training its running statistics are updated twice, as in the published code.
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
        size = self.kernel_size
        pooled = F.adaptive_avg_pool2d(x, size).flatten(2).unsqueeze(-1)  # (B, C, K * K, 1)
        mean = x.mean(dim=(2, 3)).unflatten(1, (-1, 1, 1))  # (B, C, 1, 1)
        if self.training:
            # Each pass has batch statistics of its own.
            gate = torch.cat([self.proj(pooled), self.proj(mean)], dim=2)
        else:
            gate = self.proj(torch.cat([pooled, mean], dim=2))
        gate = gate.squeeze(-1).unflatten(1, (self.num_groups, -1)).softmax(dim=1)
        bank = torch.cat([self.weight.flatten(2), self.bias.unsqueeze(-1)], dim=2)
        mixed = (gate * bank).sum(dim=1)  # (B, C, K * K + 1)
        return mixed[..., :-1].unflatten(-1, (size, size)), mixed[..., -1]

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 0:
            return x  # no convolution has zero groups
        weight, bias = self.kernels(x)
        if _is_faster_one_by_one(x):
            images = zip(x.split(1), weight, bias, strict=True)
            return torch.cat([self._convolve(*one) for one in images])
        # One grouped convolution over all images is as fast as a static depth-wise one.
        return self._convolve(x.reshape(1, -1, *x.shape[2:]), weight, bias).reshape(x.shape)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight = weight.reshape(-1, 1, self.kernel_size, self.kernel_size)
        return depthwise_conv(x, weight, bias.flatten(), self.kernel_size // 2)


def _is_faster_one_by_one(x: Tensor) -> bool:
    """Whether images are better convolved one after the other.

    On a CPU a large map is channels last, and all images in one convolution would be no more: the
    copy there and back costs more than the calls (two threads, batches of 2 and 8, forward and
    backward: 1.2 to 1.7 times as fast from 28x28, slower at 14x14).
    """
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and x.shape[-2] * x.shape[-1] >= 28 * 28
    )
