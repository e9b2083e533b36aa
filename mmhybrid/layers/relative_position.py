r"""Attention with a learned table of relative positions, at any size, without the matrix of scores.

TransXNet adds a learned table :math:`P` (queries x keys, at 224 pixels 3136 x 49 in the first
stage) to the scores of its attention. At any other size the published code resizes :math:`P`
bicubically to (N_q, N_k), in every block. Bicubic resizing is linear and separable, so the resized
table is :math:`U P V^T`, and

.. math:: softmax(s\, q k^T + U P V^T)\, v = softmax([s\, q,\; U P]\, [k,\; V]^T)\, v

which is plain attention over wider queries and keys. :math:`U P` is a resize of the short table
along one side, made once a stage; :math:`V` is a constant of the shape. Where the table fits as it
is, it is used as it is; a small one may be made whole, once a stage.

A row of :math:`V` has four columns that are not 0, bicubic's taps, and those of neighbours are
neighbours. So a group of neighbouring keys needs few columns of :math:`U P`; partial results merge
exactly by the logarithms of their sums.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from mmhybrid.layers.blockwise_attention import attention_in_blocks
from mmhybrid.layers.lean_training import is_training_on_cpu

LARGEST_WHOLE_TABLE = 20_000_000  # values, 80 MB in float32
# Of keys, on one thread: 1.2 times as fast at 800x1344 as all at once, 1.6 times at 2160x3840.
GROUPS = 4


class RelativePosition(NamedTuple):
    """The positions of one stage, ready for :func:`attention_with_position`.

    Attributes:
        table: (1, heads, N_q, N_k), what is added to the scores; None where it is folded instead.
        query, key: (1, heads, N_q, R) and (N_k, R), the columns that queries and keys get; None
            where there is a table.
    """

    table: Tensor | None
    query: Tensor | None
    key: Tensor | None


def fit_relative_position(table: Tensor, num_queries: int, num_keys: int) -> RelativePosition:
    """Fits a (1, heads, queries, keys) table to a feature map, once for all blocks of a stage."""
    rows, columns = table.shape[-2:]
    # An exported graph serves all sizes and cannot ask whether the table fits; folding is exact.
    if not torch.compiler.is_exporting() and (num_queries, num_keys) == (rows, columns):
        return RelativePosition(table, None, None)
    identity = torch.eye(columns, dtype=table.dtype, device=table.device)[None, None]
    query = F.interpolate(table, size=(num_queries, columns), mode="bicubic")
    key = F.interpolate(identity, size=(num_keys, columns), mode="bicubic")[0, 0]
    if _is_faster_whole(table, num_queries, num_keys):
        return RelativePosition(query @ key.t(), None, None)
    return RelativePosition(None, query, key)


def _is_faster_whole(table: Tensor, num_queries: int, num_keys: int) -> bool:
    """Whether a fitted table is better made once, for all blocks of a stage, than folded.

    On a CPU without gradients, masked attention is twice as fast as folded attention, which is
    three times as wide; while the table is not larger than the other maps of a network, making it
    costs less than that gains (two threads, all blocks of a stage: 16 against 27 ms in the first at
    512x512, 248 against 313 ms in the third at 800x1344). Gradients of a mask cost more.
    """
    return (
        table.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and table.requires_grad)
        and table.shape[1] * num_queries * num_keys <= LARGEST_WHOLE_TABLE
    )


def attention_with_position(q: Tensor, k: Tensor, v: Tensor, position: RelativePosition) -> Tensor:
    """``softmax(q k^T / sqrt(d) + P) v`` of (B, heads, N_q, d) and twice (B, heads, N_k, d)."""
    batch, heads, _, dim = q.shape
    if position.table is not None:
        table = position.table.to(q.dtype)
        if torch.is_grad_enabled() and table.requires_grad:
            # Fused kernels give no gradient to a mask, or a slow one. There are few keys here.
            scores = (q * dim**-0.5) @ k.transpose(-1, -2) + table
            return scores.softmax(dim=-1) @ v
        return F.scaled_dot_product_attention(q, k, v, attn_mask=table.detach())
    if _is_faster_in_groups(q, k, v, position.query):
        return _attention_in_groups(q, k, v, position)
    if is_training_on_cpu(q) and q.dtype == k.dtype == v.dtype != torch.float16:
        columns = (x.to(q.dtype) for x in (position.query, position.key))
        return attention_in_blocks(q, k, v, *columns)
    width = dim + position.key.shape[-1]
    # PyTorch's fused kernels want one width for all three, a multiple of 8; zeros change nothing. A
    # runtime of exported graphs takes any, and zeros cost it a third of its speed.
    is_exporting = torch.compiler.is_exporting()
    pad = 0 if is_exporting else -width % 8
    position_q = F.pad(position.query, (0, pad)).to(q.dtype).expand(batch, -1, -1, -1)
    position_k = F.pad(position.key, (0, pad)).to(k.dtype).expand(batch, heads, -1, -1)
    q = torch.cat([q * dim**-0.5, position_q], dim=-1)
    k = torch.cat([k, position_k], dim=-1)
    if not is_exporting:
        v = F.pad(v, (0, width + pad - dim))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :dim]


def _is_faster_in_groups(q: Tensor, k: Tensor, v: Tensor, position: Tensor) -> bool:
    """Whether attention of folded positions is faster with keys in groups: large, and inference."""
    return (
        q.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not isinstance(q, FakeTensor)  # someone counts
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, position)))
        and q.shape[:-1].numel() * k.shape[-2] > LARGEST_WHOLE_TABLE
    )


def _attention_in_groups(q: Tensor, k: Tensor, v: Tensor, position: RelativePosition) -> Tensor:
    batch, heads, keys, dim = k.shape
    q, outputs, sums = q * dim**-0.5, [], []
    rank = position.key.shape[-1]
    for group in range(GROUPS):
        start, stop = (end * keys // GROUPS for end in (group, group + 1))
        # The taps of the first and the last key, and one more for what is rounded otherwise.
        first, last = ((key + 0.5) * rank / keys - 0.5 for key in (start, stop - 1))
        columns = slice(max(0, math.floor(first) - 2), min(rank, math.floor(last) + 4))
        width = dim + columns.stop - columns.start
        pad = -width % 8
        position_q = F.pad(position.query[..., columns], (0, pad)).to(q.dtype)
        position_k = F.pad(position.key[start:stop, columns], (0, pad)).to(k.dtype)
        output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            torch.cat([q, position_q.expand(batch, -1, -1, -1)], dim=-1),
            torch.cat([k[:, :, start:stop], position_k.expand(batch, heads, -1, -1)], dim=-1),
            F.pad(v[:, :, start:stop], (0, width + pad - dim)),
            scale=1.0,
        )
        outputs.append(output[..., :dim])
        sums.append(log_sum)
    shares = torch.stack(sums).softmax(0).unsqueeze(-1).to(q.dtype)
    return sum(share * output for share, output in zip(shares, outputs, strict=True))
