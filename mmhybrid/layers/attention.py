"""Attention of a transformer's blocks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmhybrid.layers.lean_training import is_training_on_cpu

FEW_KEYS = 256


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(d) + bias) v``.

    ``q`` is (B, heads, N_q, d), ``k`` and ``v`` (B, heads, N_k, d); ``bias``, of any precision,
    broadcasts to (B, heads, N_q, N_k).
    """
    bias = None if bias is None else bias.to(q.dtype)
    if not _is_faster_unfused(q, k, bias):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    scores = scores if bias is None else scores + bias
    return scores.softmax(dim=-1) @ v


def _is_faster_unfused(q: Tensor, k: Tensor, bias: Tensor | None) -> bool:
    """Whether to keep the scores of a few keys, in training on a CPU.

    Forward and backward, PyTorch's fused kernel takes 26 ms in bfloat16, and this 5 (64 images of
    65 tokens in 3 heads of 64, two threads); in float32 a whole step takes as long. With a bias
    that learns PyTorch has no fused kernel there: 53 ms in float32 and 57 in bfloat16, and this 43
    and 23 (722 windows of 49 tokens in 3 heads of 32).
    """
    learns = bias is not None and bias.requires_grad
    return (
        is_training_on_cpu(q) and (learns or q.dtype == torch.bfloat16) and k.shape[-2] <= FEW_KEYS
    )
