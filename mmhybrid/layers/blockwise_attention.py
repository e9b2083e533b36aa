"""Attention with folded positions for training on a CPU, a block of queries at a time.

PyTorch's fused attention wants queries, keys and values of one width. With positions folded in
(:mod:`mmhybrid.layers.relative_position`), queries and keys are three times as wide as values, and
a third of what it multiplies is zeros. Products of matrices of their own widths take 0.7 of the
time, forward and backward (all stages of TransXNet-T at 640x1088, batch of 2, two threads). The
scores of a block stay in the caches; the backward pass computes them again and needs the inputs
alone.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmhybrid.layers.lean_training import differentiable_gradients

BLOCK = 2**20  # scores at a time


def attention_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, position_q: Tensor, position_k: Tensor
) -> Tensor:
    """``softmax(q k^T / sqrt(d) + position_q position_k^T) v``.

    ``q`` is (B, heads, N_q, d), ``k`` and ``v`` (B, heads, N_k, d), ``position_q`` (1, heads, N_q,
    R), ``position_k`` (N_k, R), a constant. Gradients of gradients keep all scores.
    """
    with torch.autocast("cpu", enabled=False):
        return _BlockwiseAttention.apply(q, k, v, position_q, position_k)


class _BlockwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, position_q, position_k):
        keys, values, out = _keys(k, position_k), _values(v), torch.empty_like(q)
        for block, _, scores in _blocks(q, keys, position_q):
            out[:, :, block] = torch.bmm(values, scores.mT).mT.unflatten(0, q.shape[:2])
        ctx.save_for_backward(q, k, v, position_q, position_k)
        return out

    @staticmethod
    def backward(ctx, grad):
        # As in the forward pass, whatever autocast there is.
        with torch.autocast("cpu", enabled=False):
            saved = ctx.saved_tensors
            if torch.is_grad_enabled():  # these gradients will be differentiated again
                return differentiable_gradients(_plain, saved, ctx.needs_input_grad, grad)
            return *_gradients(grad, *saved), None


def _gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, position_q: Tensor, position_k: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of all inputs but ``position_k``."""
    dim, keys, values = q.shape[-1], _keys(k, position_k), _values(v)
    of_q, of_position = torch.empty_like(q), torch.empty_like(position_q)
    # In bfloat16 the sums of many blocks would be rounded at each.
    sums = torch.promote_types(q.dtype, torch.float32)
    of_k, of_v = (torch.zeros_like(values, dtype=sums) for _ in range(2))
    for block, queries, scores in _blocks(q, keys, position_q):
        grads = grad[:, :, block].flatten(0, 1)
        of_v += torch.bmm(grads.mT, scores)
        of_scores = torch.bmm(grads, values)
        torch.ops.aten._softmax_backward_data.out(
            of_scores, scores, -1, scores.dtype, grad_input=of_scores
        )
        of_k += torch.bmm(queries[..., :dim].mT, of_scores)
        of_queries = torch.bmm(keys, of_scores.mT).mT.unflatten(0, q.shape[:2])
        of_q[:, :, block] = of_queries[..., :dim]
        torch.sum(of_queries[..., dim:], 0, keepdim=True, out=of_position[:, :, block])
    of_k *= dim**-0.5
    of_k, of_v = (x.mT.unflatten(0, q.shape[:2]).to(q.dtype) for x in (of_k, of_v))
    return of_q, of_k, of_v, of_position


def _blocks(q: Tensor, keys: Tensor, position_q: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The queries of a block, their columns (B * heads, n, d + R) and attention (..., n, N_k)."""
    batch, length = len(q), q.shape[2]
    rows = max(1, BLOCK // (len(keys) * keys.shape[-1]))
    for start in range(0, length, rows):
        block = slice(start, min(start + rows, length))
        position = position_q[:, :, block].expand(batch, -1, -1, -1)
        queries = torch.cat([q[:, :, block], position], dim=-1).flatten(0, 1)
        scores = torch.bmm(queries, keys)
        yield block, queries, torch.softmax(scores, -1, out=scores)


def _keys(k: Tensor, position_k: Tensor) -> Tensor:
    """(B * heads, d + R, N_k), scaled: there are no more keys than queries."""
    position = position_k.expand(*k.shape[:2], -1, -1)
    return torch.cat([k * k.shape[-1] ** -0.5, position], dim=-1).flatten(0, 1).mT.contiguous()


def _values(v: Tensor) -> Tensor:
    """(B * heads, d, N_k)."""
    return v.flatten(0, 1).mT.contiguous()


def _plain(q: Tensor, k: Tensor, v: Tensor, position_q: Tensor, position_k: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.mT + position_q @ position_k.mT
    return scores.softmax(-1) @ v
