"""One page of images: what a network looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmhybrid.backbones import BACKBONES
from mmhybrid.visualization import attention_maps as looking

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
KERNELS = 24  # that are shown a stage


@dataclass
class Row:
    """One row of the page.

    Attributes:
        title: what it shows.
        text: how to read it.
        maps: one a column; drawn by ``draw``.
        captions: below the maps; as many, or none.
        draw: draws one map.
    """

    title: str
    text: str
    maps: list[np.ndarray]
    draw: Callable[[Axes, np.ndarray], None]
    captions: list[str] | None = None


def prepare_image(
    model: nn.Module, image: np.ndarray, short_side: int
) -> tuple[np.ndarray, Tensor, Tensor]:
    """Resizes an image.

    Args:
        model: its preprocessor's mean and standard deviation are taken, or ImageNet's.
        image: (H, W, 3), RGB, uint8.
        short_side: of the result, in pixels.

    Returns:
        The image, resized; the same for the backbone, (1, 3, H, W); and for the whole model.
    """
    raw = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    scale = short_side / min(raw.shape[-2:])
    size = [max(32, round(side * scale)) for side in raw.shape[-2:]]
    raw = F.interpolate(raw, size, mode="bilinear", antialias=True).clamp(0, 255)
    given = getattr(model, "data_preprocessor", None)
    mean = getattr(given, "mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
    std = getattr(given, "std", torch.tensor(IMAGENET_STD).view(3, 1, 1))
    normalised = (raw - mean) / std
    shown = raw[0].permute(1, 2, 0).byte().numpy()
    return shown, normalised, normalised if isinstance(model, BACKBONES) else raw


def draw_page(
    model: nn.Module,
    backbone: nn.Module,
    image: np.ndarray,
    path: str | Path,
    *,
    title: str,
    place: tuple[float, float] = (0.5, 0.5),
    short_side: int = 320,
) -> None:
    """Draws all that there is to see of a model and an image.

    Args:
        model: a backbone, or a classifier, segmentor or detector; in evaluation mode.
        backbone: the one of this package inside, or itself.
        image: (H, W, 3), RGB, uint8.
        path: of the .png, .jpg or .pdf file.
        title: of the page.
        place: row and column, 0 to 1, whose attention is shown.
        short_side: that the image is resized to.
    """
    shown, x, whole = prepare_image(model, image, short_side)
    rows = _rows(backbone, x, shown, place)
    cam = None
    if any(y.ndim == 4 for y in _outputs(backbone, x)[-1:]):
        cam = looking.grad_cam(model, backbone, whole)

    columns = max([4, *(len(row.maps) for row in rows)])
    aspect = shown.shape[0] / shown.shape[1]
    figure = Figure(
        figsize=(2.5 * (columns + 1), 0.7 + (len(rows) + 1) * (2.5 * aspect + 0.3)),
        layout="constrained",
    )
    figure.suptitle(title, fontsize=13, fontweight="bold")
    axes = figure.subplots(len(rows) + 1, columns + 1, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    axes[0, 0].imshow(shown)
    axes[0, 0].set_title("image", fontsize=10)
    if any(row.title == "Attention of one place" for row in rows):
        _cross(axes[0, 0], shown, place)
    if cam is not None:
        _overlay(axes[0, 1], shown, cam[0])
        axes[0, 1].set_title("Grad-CAM", fontsize=10)
    _explain(axes[0, 2], *_about(model, cam))
    for line, row in zip(axes[1:], rows, strict=True):
        _explain(line[0], row.title, row.text)
        for index, (ax, values) in enumerate(zip(line[1:], row.maps, strict=False)):
            row.draw(ax, values)
            if row.captions:
                ax.set_title(row.captions[index], fontsize=9)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, pil_kwargs=_compression(path))


def _compression(path: str | Path) -> dict[str, Any]:
    return {"quality": 85} if str(path).endswith((".jpg", ".jpeg")) else {}


def _outputs(backbone: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return backbone(x)


def _rows(
    backbone: nn.Module, x: Tensor, shown: np.ndarray, place: tuple[float, float]
) -> list[Row]:
    """The rows that this backbone has something for."""

    def over_image(ax: Axes, values: np.ndarray) -> None:
        _overlay(ax, shown, values, place)

    maps = looking.feature_maps(backbone, x)
    fields = looking.effective_receptive_fields(backbone, x)
    kernels = looking.dynamic_kernels(backbone, x)
    attention = looking.attention_of_pixel(backbone, x, *place)
    gates = looking.gates(backbone, x)
    channels = looking.channel_attentions(backbone, x)
    shortcuts = looking.shortcut_maps(backbone, x)
    # A class token is no map, though the stages may be named.
    stages = [
        f"stage {index + 1}, {y.shape[0]}x{y.shape[1]} places"
        for index, y in zip(backbone.out_indices, maps, strict=False)
    ]
    rows = [
        Row(
            "Feature maps",
            "Three principal components\nof each map as red, green\nand blue.",
            maps,
            lambda ax, values: ax.imshow(values),
            stages,
        ),
        Row(
            "Effective receptive field",
            "What moves the middle of\neach map. Above: how much of\nthe image makes half of it.",
            fields,
            lambda ax, values: ax.imshow(np.sqrt(values), cmap="inferno"),
            [f"{looking.area_of(field):.1%} of the image" for field in fields],
        ),
        Row(
            "Dynamic kernels",
            "Mixed for this image, in\nthe last block of each stage:\n"
            f"the first {KERNELS} channels.",
            kernels,
            _draw_kernels,
            [f"{len(k)} channels" for k in kernels],
        ),
        Row(
            "Attention of one place",
            "Where the place with the\ncross looks, in the last block\nof each stage.",
            attention,
            over_image,
            ["x".join(map(str, a.shape)) + " keys" for a in attention],
        ),
        Row(
            "Gate",
            "Factor of each channel\n(across) in each block\n(down): dark 0, bright 1.",
            gates,
            lambda ax, values: ax.imshow(
                values, vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest"
            ),
            [f"mean {g.mean():.2f}, {g.min():.2f} to {g.max():.2f}" for g in gates],
        ),
        Row(
            "Attention of channels",
            "Which channel (down) attends\nto which (across), in the\nlast layer of each stage.",
            channels,
            lambda ax, values: ax.imshow(values, cmap="viridis", interpolation="nearest"),
            [f"{len(c)} channels a head" for c in channels],
        ),
        Row(
            "Depth-wise shortcuts",
            "Length of what a shortcut\nadds to a token, over that of\nthe token. First to last.",
            shortcuts,
            lambda ax, values: ax.imshow(values, cmap="magma"),
            [f"{m.min():.2f} to {m.max():.2f}" for m in shortcuts],
        ),
    ]
    return [row for row in rows if row.maps]


def _about(model: nn.Module, cam: tuple[np.ndarray, int] | None) -> tuple[str, str]:
    """A title and a text beside the image."""
    if cam is None:
        return "", "The backbone returns no map,\nso there is no Grad-CAM."
    if isinstance(model, BACKBONES):
        of = f"its strongest channel, {cam[1]}:\nwithout a head there is no class"
    elif hasattr(model, "decode_head"):
        of = f"the pixels of the most\nfrequent class, label {cam[1]}"
    elif isinstance(getattr(model, "head", None), nn.Module):
        of = f"the best class, label {cam[1]}"
    else:
        of = "the best box of the dense head"
    return "Grad-CAM", f"What speaks, in the last map, for\n{of}."


def _explain(ax: Axes, title: str, text: str) -> None:
    ax.text(0, 0.95, title, fontsize=11, fontweight="bold", va="top", transform=ax.transAxes)
    ax.text(0, 0.80, text, fontsize=9, va="top", linespacing=1.4, transform=ax.transAxes)


def _cross(ax: Axes, shown: np.ndarray, place: tuple[float, float]) -> None:
    height, width = shown.shape[:2]
    for colour, thick in (("black", 3.5), ("white", 1.8)):
        ax.plot(place[1] * width, place[0] * height, "+", ms=11, mew=thick, color=colour)


def _overlay(
    ax: Axes, shown: np.ndarray, values: np.ndarray, place: tuple[float, float] | None = None
) -> None:
    """A map over the image, in grey."""
    height, width = shown.shape[:2]
    ax.imshow(shown.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
    ax.imshow(
        values,
        cmap="inferno",
        alpha=0.6,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="bilinear",
    )
    if place is not None:
        _cross(ax, shown, place)


def _draw_kernels(ax: Axes, kernels: np.ndarray) -> None:
    """The first kernels side by side, each scaled to its own largest value."""
    kernels = kernels[:KERNELS]
    size = kernels.shape[-1]
    columns = 6
    lines = -(-len(kernels) // columns)
    sheet = np.full((lines * (size + 1) - 1, columns * (size + 1) - 1), np.nan)
    for index, kernel in enumerate(kernels):
        top, left = (index // columns) * (size + 1), (index % columns) * (size + 1)
        sheet[top : top + size, left : left + size] = kernel / max(np.abs(kernel).max(), 1e-12)
    colours = colormaps["RdBu_r"].with_extremes(bad="0.35")
    ax.imshow(sheet, cmap=colours, vmin=-1, vmax=1, interpolation="nearest")
