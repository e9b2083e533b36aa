"""The block of a plain vision transformer, with the additions of CaiT."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.errors import ArgumentError
from mmhybrid.layers.drop_path import DropPath


class Attention(nn.Module):
    """Multi-head attention of tokens to themselves and to a context.

    Queries, keys and values have no bias, as in vit-pytorch, on which the published shortcut models
    are built. ``talking_heads`` are mixed before and after the softmax by learned matrices
    (https://arxiv.org/abs/2003.02436). The matrix of scores then has to exist; without, the
    attention is fused.
    """

    def __init__(self, channels: int, num_heads: int, talking_heads: bool = False) -> None:
        super().__init__()
        if channels % num_heads:
            raise ArgumentError(f"{num_heads} heads do not divide {channels} channels")
        self.num_heads = num_heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Linear(channels, 2 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.talking_heads = talking_heads
        if talking_heads:
            self.mix_heads_pre_attn = nn.Parameter(torch.randn(num_heads, num_heads))
            self.mix_heads_post_attn = nn.Parameter(torch.randn(num_heads, num_heads))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps (B, L, C) to the same; keys and values come from x and (B, M, C) ``context``."""
        source = x if context is None else torch.cat([x, context], dim=1)
        q, k, v = (self._split_heads(t) for t in (self.q(x), *self.kv(source).chunk(2, dim=-1)))
        if self.talking_heads:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, heads, L, L + M)
            scores = torch.einsum("bhij,hg->bgij", scores, self.mix_heads_pre_attn)
            attention = torch.einsum("bhij,hg->bgij", scores.softmax(-1), self.mix_heads_post_attn)
            out = attention @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        # (B, L, C) -> (B, heads, L, C / heads)
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Attention and a feed-forward network, each a residual with a layer normalisation first.

    ``layer_scale_init`` is the initial scale of both residuals. With the probability
    ``layer_dropout``, in [0, 1), a sample skips the block in training, but not shortcuts around it.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4,
        drop_path_rate: float = 0.0,
        talking_heads: bool = False,
        layer_scale_init: float | None = None,
        layer_dropout: float = 0.0,
        attn: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= layer_dropout < 1:
            raise ArgumentError(f"layer_dropout lies in [0, 1), not {layer_dropout}")
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attn or Attention(channels, num_heads, talking_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)
        self.layer_dropout = layer_dropout
        self.scale1 = self.scale2 = None
        if layer_scale_init is not None:
            self.scale1 = nn.Parameter(torch.full((1, 1, channels), float(layer_scale_init)))
            self.scale2 = nn.Parameter(torch.full((1, 1, channels), float(layer_scale_init)))

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        """Maps (B, L, C) to the same; ``context`` is of the attention, (B, M, C) for CaiT's."""
        out = x + self.drop_path(_scaled(self.attn(self.norm1(x), context), self.scale1))
        out = out + self.drop_path(_scaled(self.mlp(self.norm2(out)), self.scale2))
        if self.layer_dropout > 0 and self.training:
            # Computed and thrown away: no parameter is unused, and the graph does not depend on it.
            skipped = torch.rand(x.shape[0], 1, 1, device=x.device) < self.layer_dropout
            out = torch.where(skipped, x, out)
        return out


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale
