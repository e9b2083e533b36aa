"""Cross feature attention (XFA), in two forms whose cost is linear in the number of tokens."""

import torch
from torch import Tensor, nn

from mmhybrid.errors import ArgumentError


def unit_length(x: Tensor, dim: int) -> Tensor:
    """Divides by the length along a dimension, which is taken in single precision or better.

    :func:`torch.nn.functional.normalize` is several times slower where that is strided.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    squared = wide.square().sum(dim, keepdim=True)
    return (wide * squared.clamp_min(1e-24).rsqrt()).to(x.dtype)


class CrossCovarianceAttention(nn.Module):
    r"""Attention between channels instead of tokens.

    Per head, with queries, keys and values of (N, d), queries and keys normalised to length 1 along
    the N tokens, and a learned temperature :math:`\tau`, which starts at 1:

    .. math:: Y^T = softmax(\tau\, \hat{Q}^T \hat{K})\, V^T

    The map is d x d. This is the attention of XCiT (https://arxiv.org/abs/2106.09681). Input and
    output are (..., N, channels); ``num_heads`` divides ``channels``.
    """

    def __init__(self, channels: int, num_heads: int = 4, output_projection: bool = False) -> None:
        super().__init__()
        if channels % num_heads:
            raise ArgumentError(f"{num_heads} heads do not divide {channels} channels")
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.proj = nn.Linear(channels, channels) if output_projection else nn.Identity()

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map of (..., N, D), (..., heads, d, d), and the values, (..., heads, d, N)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).movedim(-3, -1)
            for part in (unit_length(q, dim=-2), unit_length(k, dim=-2), v)
        )
        return (self.temperature * (q @ k.transpose(-1, -2))).softmax(dim=-1), v

    def forward(self, x: Tensor) -> Tensor:
        attention, v = self.attention(x)
        return self.proj((attention @ v).movedim(-1, -3).flatten(-2))


class ContextScoreAttention(nn.Module):
    r"""Queries meet one context vector, a weighted mean of the keys.

    With queries and keys of (N, D) normalised to length 1 along their channels, one learned vector
    :math:`w` that scores keys, and a learned scale :math:`\lambda`, which starts at 1:

    .. math:: g = \frac{1}{N} (\hat{K} w)^T \hat{K}, \qquad
              Y = \lambda\, \hat{Q} \odot g \odot V + V

    The context is the mean over the tokens, not their sum, so that weights that were learned at one
    image size mean the same at another. There is one context: ``num_heads`` is taken so that both
    forms are made alike.
    """

    def __init__(self, channels: int, num_heads: int = 1, output_projection: bool = False) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.key_score = nn.Linear(channels, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(1))
        self.proj = nn.Linear(channels, channels) if output_projection else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # each (..., N, D)
        q, k = unit_length(q, dim=-1), unit_length(k, dim=-1)
        context = (self.key_score(k) * k).mean(dim=-2, keepdim=True)  # (..., 1, D)
        return self.proj(self.scale * q * context * v + v)


CROSS_FEATURE_ATTENTIONS: dict[str, type[nn.Module]] = {
    "cross_covariance": CrossCovarianceAttention,
    "context_score": ContextScoreAttention,
}
