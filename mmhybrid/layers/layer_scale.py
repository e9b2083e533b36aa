"""A learned scale and shift of a residual branch."""

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """``weight * x + bias`` per channel, of (B, C, H, W).

    LayerScale is from CaiT (https://arxiv.org/abs/2103.17239); TransXNet adds the bias. The weight
    starts at ``init``, the bias at 0.
    """

    def __init__(self, channels: int, init: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        # The shape of a depth-wise 1x1 convolution, which it is in the authors' checkpoints.
        self.weight = nn.Parameter(torch.full((channels, 1, 1, 1), float(init)))
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return x * self.weight.view(-1, 1, 1)
        return torch.addcmul(self.bias.view(-1, 1, 1), x, self.weight.view(-1, 1, 1))

    def folded(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a layer that does itself what this would do to its output.

        The layer is a convolution or a normalisation, whose weight has one entry a channel or more.
        """
        weight = weight * self.weight.view(-1, *[1] * (weight.ndim - 1))
        bias = None if bias is None else bias * self.weight.flatten()
        if bias is None or self.bias is None:
            return weight, self.bias if bias is None else bias
        return weight, bias + self.bias
