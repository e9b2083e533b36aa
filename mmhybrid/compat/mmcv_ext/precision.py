"""The precision that the kernels work in."""

import torch
from torch import Tensor


def as_working_precision(*tensors: Tensor) -> list[Tensor]:
    """Bring all tensors to one dtype: float64 where the first has it, float32 otherwise.

    Half precision, bfloat16 and integers are worked on in float32, as torchvision does under
    autocast: box coordinates need more digits than half precision has.
    """
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return [tensor.to(dtype) for tensor in tensors]
