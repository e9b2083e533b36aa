r"""A shortcut with a depth-wise convolution around whole transformer blocks.

Depth-Wise Convolutions in Vision Transformers for Efficient Training on Small Datasets,
https://arxiv.org/abs/2407.19394. A module D bypasses N consecutive blocks B (equations 4 to 7):

.. math::

    x_{j+N} = B_{j+N-1}(\dots B_j(x_j)) + \sum_k D_k(x_j), \qquad
    D_k(x) = \mathrm{DWConv}_k(\mathrm{BN}(\mathrm{GELU}(x)))

It starts before the block's first normalisation and sees the whole map. Class tokens get nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.errors import ArgumentError
from mmhybrid.layers.depthwise_conv import DepthwiseConv
from mmhybrid.layers.norm import build_norm
from mmhybrid.layers.padding import are_odd


class DepthwiseShortcut(nn.Module):
    """GELU, batch normalisation and depth-wise convolution, once for each kernel size, summed."""

    def __init__(
        self,
        channels: int,
        kernel_sizes: Sequence[int],
        norm_cfg: dict[str, Any],
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(build_norm(norm_cfg, channels) for _ in kernel_sizes)
        self.convs = nn.ModuleList(DepthwiseConv(channels, size) for size in kernel_sizes)
        if zero_init:
            for parameter in self.convs.parameters():
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, size: tuple[int, int], num_class_tokens: int = 0) -> Tensor:
        """What is added to (B, num_class_tokens + H * W, C); class tokens come first, get zeros."""
        grid = tokens[:, num_class_tokens:].transpose(1, 2).unflatten(2, size)  # (B, C, H, W)
        grid = F.gelu(grid)
        added = sum(conv(norm(grid)) for norm, conv in zip(self.norms, self.convs, strict=True))
        return F.pad(added.flatten(2).transpose(1, 2), (0, 0, num_class_tokens, 0))


class IdentityShortcut(nn.Module):
    """Adds what enters the block once more: the paper's ablation of the convolution (Table 2).

    The paper does not say what a class token gets: nothing, as from the other shortcut.
    """

    def forward(self, tokens: Tensor, size: tuple[int, int], num_class_tokens: int = 0) -> Tensor:
        return F.pad(tokens[:, num_class_tokens:], (0, 0, num_class_tokens, 0))


class DepthwiseShortcuts(nn.ModuleList):
    """The shortcuts of one stage: one for every ``span`` consecutive blocks, none shared.

    Where ``span`` does not divide the number of blocks, the last shortcut bypasses the remainder.

    Args:
        channels (int): C of the (B, L, C) tokens.
        num_blocks (int): Of the stage.
        kernel_sizes (Sequence[int] | str): Odd, one for each parallel branch of a shortcut; ``()``
            for the plain host, ``'identity'`` for an :class:`IdentityShortcut`. In backbones
            ``dw_kernel_sizes``, which defaults to (3,).
        span (int | str): Blocks that a shortcut bypasses, or ``'stage'`` for all of them. In
            backbones ``dw_span``, which defaults to 1.
        norm_cfg (dict): Batch normalisations, see :func:`mmhybrid.layers.norm.build_norm`.
        zero_init (bool): Whether the convolutions start at zero, so that a pretrained model starts
            unchanged. The paper's shortcut is active from the first step. Defaults to False.
    """

    def __init__(
        self,
        channels: int,
        num_blocks: int,
        *,
        kernel_sizes: Sequence[int] | str,
        span: int | str,
        norm_cfg: dict[str, Any],
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        identity = kernel_sizes == "identity"
        if not identity and not are_odd(kernel_sizes):
            raise ArgumentError(
                f"dw_kernel_sizes={kernel_sizes!r}: give a tuple of odd numbers, such as (3,) or "
                "(3, 5), or () for no shortcut, or 'identity'"
            )
        if identity and zero_init:
            raise ArgumentError("dw_kernel_sizes='identity' has no convolution that starts at zero")
        if span != "stage" and not (isinstance(span, int) and span >= 1):
            raise ArgumentError(
                f"dw_span={span!r}: give the number of blocks that one shortcut bypasses, or "
                "'stage'"
            )
        self.span = num_blocks if span == "stage" else min(span, num_blocks)
        self.num_blocks = num_blocks
        if kernel_sizes:
            self.extend(
                IdentityShortcut()
                if identity
                else DepthwiseShortcut(channels, kernel_sizes, norm_cfg, zero_init)
                for _ in range(0, num_blocks, self.span)
            )

    def groups(self) -> Iterator[tuple[range, DepthwiseShortcut | IdentityShortcut | None]]:
        """The indices of the blocks that each shortcut bypasses, and the shortcut."""
        for start in range(0, self.num_blocks, self.span):
            stop = min(start + self.span, self.num_blocks)
            yield range(start, stop), self[start // self.span] if len(self) else None

    def last_bypassed(self, index: int) -> int:
        """Index of the last block that shortcut ``index`` bypasses."""
        return min((index + 1) * self.span, self.num_blocks) - 1

    def run(
        self,
        blocks: Sequence[nn.Module],
        tokens: Tensor,
        size: tuple[int, int],
        run_block: Callable[..., Tensor],
        *block_inputs: Any,
        num_class_tokens: int = 0,
    ) -> Tensor:
        """Runs ``block(tokens, *block_inputs)`` for all blocks, with their shortcuts.

        ``run_block`` calls a module; gradient checkpointing of blocks and shortcuts happens there.
        """
        for indices, shortcut in self.groups():
            bypassing = tokens
            for index in indices:
                tokens = run_block(blocks[index], tokens, *block_inputs)
            if shortcut is not None:
                tokens = tokens + run_block(shortcut, bypassing, size, num_class_tokens)
        return tokens
