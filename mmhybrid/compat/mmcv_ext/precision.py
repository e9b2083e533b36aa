"""The precision that the kernels work in."""

import torch
from torch import Tensor


def as_working_precision(*tensors: Tensor) -> list[Tensor]:
    """Bring all tensors to float64 where the first has it, to float32 otherwise.

    Box coordinates need more digits than half precision has; torchvision does so under autocast.
    """
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return [tensor.to(dtype) for tensor in tensors]
