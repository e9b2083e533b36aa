"""The block of a plain vision transformer, with the additions of CaiT."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.errors import ArgumentError
from mmhybrid.layers.attention import attention
from mmhybrid.layers.drop_path import DropPath


class Attention(nn.Module):
    """Multi-head attention of tokens to themselves and to a context.

    Without ``qkv_bias``, queries, keys and values have no bias, as in vit-pytorch, on which the
    published shortcut models are built. ``talking_heads`` are mixed before and after the softmax by
    learned matrices (https://arxiv.org/abs/2003.02436), with ``talking_heads_bias`` affinely. The
    matrix of scores then has to exist; without, the attention is fused.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        talking_heads: bool = False,
        qkv_bias: bool = False,
        talking_heads_bias: bool = False,
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ArgumentError(f"{num_heads} heads do not divide {channels} channels")
        self.num_heads = num_heads
        self.q = nn.Linear(channels, channels, bias=qkv_bias)
        self.kv = nn.Linear(channels, 2 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.talking_heads = talking_heads
        self.mix_heads_pre_attn_bias = self.mix_heads_post_attn_bias = None
        if talking_heads:
            self.mix_heads_pre_attn = nn.Parameter(torch.randn(num_heads, num_heads))
            self.mix_heads_post_attn = nn.Parameter(torch.randn(num_heads, num_heads))
            if talking_heads_bias:
                self.mix_heads_pre_attn_bias = nn.Parameter(torch.zeros(num_heads))
                self.mix_heads_post_attn_bias = nn.Parameter(torch.zeros(num_heads))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps (B, L, C) to the same; keys and values come from x and (B, M, C) ``context``."""
        source = x if context is None else torch.cat([x, context], dim=1)
        q, k, v = (self._split_heads(t) for t in (self.q(x), *self.kv(source).chunk(2, dim=-1)))
        if self.talking_heads:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, heads, L, L + M)
            scores = _mix_heads(scores, self.mix_heads_pre_attn, self.mix_heads_pre_attn_bias)
            weights = _mix_heads(
                scores.softmax(-1), self.mix_heads_post_attn, self.mix_heads_post_attn_bias
            )
            out = weights @ v
        else:
            out = attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        # (B, L, C) -> (B, heads, L, C / heads)
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _mix_heads(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    x = torch.einsum("bhij,hg->bgij", x, matrix)
    return x if bias is None else x + bias.to(x.dtype)[:, None, None]


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
    ``normalise_context`` also takes the context of the attention through the first normalisation.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4,
        norm_eps: float = 1e-5,
        drop_path_rate: float = 0.0,
        qkv_bias: bool = False,
        talking_heads: bool = False,
        talking_heads_bias: bool = False,
        layer_scale_init: float | None = None,
        layer_dropout: float = 0.0,
        normalise_context: bool = False,
        attn: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= layer_dropout < 1:
            raise ArgumentError(f"layer_dropout lies in [0, 1), not {layer_dropout}")
        self.norm1 = nn.LayerNorm(channels, eps=norm_eps)
        self.attn = attn or Attention(
            channels, num_heads, talking_heads, qkv_bias, talking_heads_bias
        )
        self.norm2 = nn.LayerNorm(channels, eps=norm_eps)
        self.mlp = FeedForward(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)
        self.layer_dropout = layer_dropout
        self.normalise_context = normalise_context
        self.scale1 = self.scale2 = None
        if layer_scale_init is not None:
            self.scale1 = nn.Parameter(torch.full((1, 1, channels), float(layer_scale_init)))
            self.scale2 = nn.Parameter(torch.full((1, 1, channels), float(layer_scale_init)))

    def forward(self, x: Tensor, context: Any = None) -> Tensor:
        """Maps (B, L, C) to the same; ``context`` is of the attention, (B, M, C) for CaiT's."""
        if self.normalise_context:
            context = self.norm1(context)
        out = x + self.drop_path(_scaled(self.attn(self.norm1(x), context), self.scale1))
        out = out + self.drop_path(_scaled(self.mlp(self.norm2(out)), self.scale2))
        if self.layer_dropout > 0 and self.training:
            # Computed and thrown away: no parameter is unused, and the graph does not depend on it.
            skipped = torch.rand(x.shape[0], 1, 1, device=x.device) < self.layer_dropout
            out = torch.where(skipped, x, out)
        return out


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale
