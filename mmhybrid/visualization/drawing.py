"""A row of images on a page, and the ways to draw one of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from torchvision.utils import make_grid

Place = tuple[float, float]  # row and column in an image, 0 to 1
# Called with the panel, the map, the image (H, W, 3) and the place that is asked about.
Draw = Callable[[Axes, np.ndarray, np.ndarray, Place], Any]


class Row(NamedTuple):
    """A heading, how to read the maps, what draws one of them, the maps, and their captions."""

    title: str
    text: str
    draw: Draw
    maps: Sequence[np.ndarray]
    captions: Sequence[str]


def plain(**options: Any) -> Draw:
    """The map alone, with options of ``Axes.imshow``."""
    return lambda ax, values, image, place: ax.imshow(values, **options)


def over_image(ax: Axes, values: np.ndarray, image: np.ndarray, place: Place) -> None:
    """The map over the grey image; a map in colours alone."""
    height, width = image.shape[:2]
    ax.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
    options = dict(cmap="inferno", alpha=0.6, interpolation="bilinear") if values.ndim == 2 else {}
    ax.imshow(values, extent=(-0.5, width - 0.5, height - 0.5, -0.5), **options)


def over_image_with_place(ax: Axes, values: np.ndarray, image: np.ndarray, place: Place) -> None:
    """The map over the grey image, with a cross at the place."""
    over_image(ax, values, image, place)
    y, x = np.multiply(place, image.shape[:2])
    for colour, thick in (("black", 3.5), ("white", 1.8)):
        ax.plot(x, y, "+", ms=11, mew=thick, color=colour)


def kernel_sheet(ax: Axes, kernels: np.ndarray, image: np.ndarray, place: Place) -> None:
    """The first 24 kernels (C, K, K), each divided by its own largest magnitude."""
    kernels = torch.from_numpy(kernels[:24, None])
    kernels = kernels / kernels.abs().amax(dim=(2, 3), keepdim=True).clamp_min(1e-12)
    sheet = make_grid(kernels, nrow=6, padding=1, pad_value=torch.nan)[0].numpy()
    colours = colormaps["RdBu_r"].with_extremes(bad="0.35")
    ax.imshow(sheet, cmap=colours, vmin=-1, vmax=1, interpolation="nearest")
