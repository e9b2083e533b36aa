"""Output maps of a backbone as colours, and which pixels move them.

``x`` is a normalised image (1, 3, H, W). Outputs that are no map (class tokens) are left out.
"""

import numpy as np
import torch
from torch import Tensor, nn


@torch.no_grad()
def feature_maps(backbone: nn.Module, x: Tensor) -> list[np.ndarray]:
    """Three principal components of each output map as colours: (h, w, 3) each, 0 to 1."""
    return [_principal_colours(y[0]) for y in backbone(x) if y.ndim == 4]


def _principal_colours(y: Tensor) -> np.ndarray:
    points = y.flatten(1).t().double()  # (positions, channels)
    points = points - points.mean(dim=0)
    directions = torch.linalg.svd(points, full_matrices=False).Vh
    # The sign of a component means nothing; this one is the same for the same image.
    directions = directions[:3] * directions[:3].sum(dim=1, keepdim=True).sign()
    colours = points @ directions.t()
    low, high = colours.quantile(0.01, dim=0), colours.quantile(0.99, dim=0)
    colours = ((colours - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    colours = torch.nn.functional.pad(colours, (0, 3 - colours.shape[1]))
    return colours.unflatten(0, y.shape[1:]).numpy()


def effective_receptive_fields(backbone: nn.Module, x: Tensor) -> list[np.ndarray]:
    """How much each pixel moves the middle of each output map: (H, W) each, 0 to 1.

    The gradient of all channels there (Luo et al., https://arxiv.org/abs/1701.04128), as magnitude.
    """
    x = x.clone().requires_grad_()
    fields = []
    for y in (y for y in backbone(x) if y.ndim == 4):
        middle = y[0, :, y.shape[2] // 2, y.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(middle, x, retain_graph=True)
        field = gradient[0].abs().sum(dim=0)
        fields.append((field / field.max().clamp_min(1e-30)).numpy())
    return fields


def receptive_area(field: np.ndarray) -> float:
    """Fraction of the pixels, the strongest first, that makes up half of a field's sum."""
    values = np.sort(field.ravel())[::-1].cumsum()
    return float((np.searchsorted(values, values[-1] / 2) + 1) / values.size)
