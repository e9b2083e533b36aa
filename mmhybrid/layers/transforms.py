"""Whether something looks on that knows PyTorch's own operations alone."""

import torch


def is_transformed() -> bool:
    """Whether a graph is being made (compiled, exported, traced) or ``torch.func`` is at work."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )
