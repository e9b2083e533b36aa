"""Compiling a model for images of one size, and measuring what that gains."""

import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmhybrid.analysis.timing import ratio, seconds_of, time_interleaved
from mmhybrid.errors import UserError


def compiled(
    model: nn.Module,
    images: Tensor,
    *,
    repeats: int = 5,
    report: Callable[[str], None] = print,
    **options: object,
) -> nn.Module:
    """Compiles a model by ``torch.compile``, warms it up, and says how much faster it is.

    The first images of another shape are compiled for anew, and slow.

    Args:
        model (nn.Module): In evaluation mode, such as :func:`mmhybrid.deploy.fuse` returns.
        images (Tensor): (B, C, H, W), as they will come.
        repeats (int): Calls that are timed.
        report (Callable[[str], None]): Called with the sentence that says it.
        **options: Of ``torch.compile``, such as ``mode='max-autotune'``.

    Raises:
        UserError: It cannot be compiled here, as without a C++ compiler on a CPU.

    Example:
        >>> from mmhybrid.backbones import XFormer
        >>> from mmhybrid.deploy import compiled, fuse
        >>> fast = compiled(fuse(XFormer('small')), torch.ones(1, 3, 224, 224))  # doctest: +SKIP
        compiled in 40 s: 1.2 times as fast at (1, 3, 224, 224), 31 ms instead of 37 ms
    """
    device = str(images.device)
    fast = torch.compile(model, **options)
    with torch.inference_mode():
        try:
            compiling = seconds_of(lambda: fast(images), device)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{type(model).__name__} cannot be compiled here: {reason}") from error
        ways = {"as it was": lambda: model(images), "compiled": lambda: fast(images)}
        seconds = time_interleaved(ways, repeats=repeats)
    before, after = (1000 * statistics.median(one) for one in seconds.values())
    gain = ratio(seconds, "as it was", "compiled")
    report(
        f"compiled in {math.ceil(compiling)} s: {gain:.3g} times as fast at {tuple(images.shape)}, "
        f"{after:.3g} ms instead of {before:.3g} ms"
    )
    return fast
