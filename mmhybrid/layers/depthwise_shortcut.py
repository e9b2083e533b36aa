r"""A shortcut with a depth-wise convolution around whole transformer blocks.

Depth-Wise Convolutions in Vision Transformers for Efficient Training on Small Datasets,
https://arxiv.org/abs/2407.19394. A module D bypasses N consecutive blocks B (equations 4 to 7):

.. math::

    x_{j+N} = B_{j+N-1}(\dots B_j(x_j)) + \sum_k D_k(x_j), \qquad
    D_k(x) = \mathrm{DWConv}_k(\mathrm{BN}(\mathrm{GELU}(x)))

It starts at the residual stream itself, before the block's first normalisation, and sees the whole
map: no windows, no shift, no padding to windows. A class token gets nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmhybrid.errors import ArgumentError
from mmhybrid.layers.norm import build_norm


class DepthwiseShortcut(nn.Module):
    """GELU, batch normalisation and depth-wise convolution, once for each kernel size, summed.

    Args:
        channels: C of the (B, L, C) tokens.
        kernel_sizes: one parallel branch each, with its own normalisation; odd numbers.
        norm_cfg: of the batch normalisations, see :func:`mmhybrid.layers.norm.build_norm`.
        zero_init: start the convolutions at zero, so that the shortcut adds nothing at first.
            The paper does not: its shortcut is active from the first step.
    """

    def __init__(
        self,
        channels: int,
        kernel_sizes: Sequence[int],
        norm_cfg: dict[str, Any],
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(build_norm(norm_cfg, channels) for _ in kernel_sizes)
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels)
            for size in kernel_sizes
        )
        if zero_init:
            for parameter in self.convs.parameters():
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, size: tuple[int, int], num_class_tokens: int = 0) -> Tensor:
        """What the shortcut adds.

        Args:
            tokens: (B, num_class_tokens + H * W, C), rows of the map one after the other.
            size: H and W.
            num_class_tokens: leading tokens that are no part of the map; they get zeros.
        """
        grid = tokens[:, num_class_tokens:].transpose(1, 2).unflatten(2, size)  # (B, C, H, W)
        grid = F.gelu(grid)
        added = sum(conv(norm(grid)) for norm, conv in zip(self.norms, self.convs, strict=True))
        return F.pad(added.flatten(2).transpose(1, 2), (0, 0, num_class_tokens, 0))


class IdentityShortcut(nn.Module):
    """Adds what enters the block once more: the paper's ablation of the convolution (Table 2).

    It has no parameters. The class token gets nothing, as from the other shortcut; the paper does
    not say.
    """

    def forward(self, tokens: Tensor, size: tuple[int, int], num_class_tokens: int = 0) -> Tensor:
        """See :meth:`DepthwiseShortcut.forward`."""
        return F.pad(tokens[:, num_class_tokens:], (0, 0, num_class_tokens, 0))


class DepthwiseShortcuts(nn.ModuleList):
    """The shortcuts of one stage: one for every ``span`` consecutive blocks, none shared.

    Where ``span`` does not divide the number of blocks, the last shortcut bypasses the remainder.

    Args:
        channels: of the tokens.
        num_blocks: of the stage.
        kernel_sizes: of each shortcut; ``()`` for a stage without any; ``'identity'`` for shortcuts
            without a convolution, see :class:`IdentityShortcut`.
        span: blocks that a shortcut bypasses, or ``'stage'`` for all of them.
        norm_cfg: of the batch normalisations.
        zero_init: start with shortcuts that add nothing.

    Raises:
        ArgumentError: a kernel size is not odd and positive, ``span`` is not at least 1, or an
            identity is to start at zero.
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
        if not identity and (
            not isinstance(kernel_sizes, (list, tuple))
            or any(not isinstance(size, int) or size < 1 or size % 2 == 0 for size in kernel_sizes)
        ):
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
            for _ in range(0, num_blocks, self.span):
                self.append(
                    IdentityShortcut()
                    if identity
                    else DepthwiseShortcut(channels, kernel_sizes, norm_cfg, zero_init)
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
        """Runs the blocks of the stage with their shortcuts.

        Args:
            blocks: called as ``block(tokens, *block_inputs)``.
            tokens: (B, num_class_tokens + H * W, C).
            size: H and W.
            run_block: calls a module; gradient checkpointing happens here, of blocks and shortcuts
                alike.
            num_class_tokens: leading tokens that the shortcuts leave alone.
        """
        for indices, shortcut in self.groups():
            bypassing = tokens
            for index in indices:
                tokens = run_block(blocks[index], tokens, *block_inputs)
            if shortcut is not None:
                tokens = tokens + run_block(shortcut, bypassing, size, num_class_tokens)
        return tokens
