"""One page of images: what a network sees."""

from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.transforms.functional import resize

from mmhybrid.backbones.family import is_backbone
from mmhybrid.deploy.model_json import MEAN, STD
from mmhybrid.deploy.onnx_outputs import takes_bgr
from mmhybrid.visualization import feature_maps as features
from mmhybrid.visualization.drawing import Place, Row, over_image, plain
from mmhybrid.visualization.grad_cam import grad_cam
from mmhybrid.visualization.layer_maps import layer_rows


def prepare_image(
    model: nn.Module, image: np.ndarray, short_side: int
) -> tuple[np.ndarray, Tensor, Tensor]:
    """An image resized; normalised by the model's data preprocessor, or for ImageNet, as input of
    the backbone, (1, 3, H, W); and as input of the whole model."""
    raw = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    raw = resize(raw, short_side, antialias=True).clamp(0, 255)
    given = getattr(model, "data_preprocessor", None)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (MEAN, STD))
    if given:
        mean, std = getattr(given, "mean", 0), getattr(given, "std", 1)
    is_bgr = takes_bgr(model, getattr(model, "cfg", None))
    normalised = ((raw.flip(1) if is_bgr else raw) - mean) / std
    resized = raw[0].permute(1, 2, 0).byte().numpy()
    return resized, normalised, normalised if is_backbone(model) else raw


def draw_page(
    model: nn.Module,
    backbone: nn.Module,
    image: np.ndarray,
    path: str | Path,
    *,
    title: str,
    place: Place = (0.5, 0.5),
    short_side: int = 320,
) -> None:
    """Draws all that there is to see of a model and an image into a .png, .jpg or .pdf file.

    Takes any model in evaluation mode, its backbone, or itself, and an RGB image (H, W, 3), uint8.
    ``place`` is the row and column, 0 to 1, whose attention is shown; ``short_side`` is in pixels.
    """
    resized, x, whole = prepare_image(model, image, short_side)
    rows = _output_rows(backbone, x) + layer_rows(backbone, x, place)
    maps, text = [resized], "The last output is no map, so there is no Grad-CAM."
    with torch.no_grad():
        last = backbone(x)[-1]
    if last.ndim == 4:
        cam, explained = grad_cam(model, backbone, whole)
        maps, text = [resized, cam], f"What speaks, in the last map, for {explained}."
    rows.insert(0, Row("Grad-CAM", text, over_image, maps, ["image", "Grad-CAM"]))

    columns = 1 + max(4, *(len(row.maps) for row in rows))
    height = 2.5 * resized.shape[0] / resized.shape[1] + 0.3
    figure = Figure(figsize=(2.5 * columns, 0.7 + len(rows) * height), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (words, *panels), row in zip(grid, rows, strict=True):
        words.text(0, 0.95, row.title, fontsize=11, fontweight="bold", va="top")
        words.text(0, 0.80, fill(row.text, 28), fontsize=9, va="top", linespacing=1.4)
        for ax, values, caption in zip(panels, row.maps, row.captions, strict=False):
            ax.set_title(caption, fontsize=9)
            row.draw(ax, values, resized, place)
    for ax in grid.flat:
        ax.axis("off")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    options = {"pil_kwargs": {"quality": 85}} if Path(path).suffix.lower() == ".jpg" else {}
    figure.savefig(path, dpi=80, **options)


def _output_rows(backbone: nn.Module, x: Tensor) -> list[Row]:
    """Rows of the outputs, which every backbone has."""
    maps = features.feature_maps(backbone, x)
    if not maps:
        return []
    shown = zip(backbone.out_indices, maps, strict=False)
    sizes = [f"stage {i + 1}, {y.shape[0]}x{y.shape[1]}" for i, y in shown]
    fields = features.effective_receptive_fields(backbone, x)
    areas = [f"{features.receptive_area(field):.1%} of the image" for field in fields]
    fields = [np.sqrt(field) for field in fields]
    text = "Three principal components of each map as red, green and blue."
    moves = "What moves the middle of each map. Above: how much of the image makes half of it."
    return [
        Row("Feature maps", text, plain(), maps, sizes),
        Row("Effective receptive field", moves, plain(cmap="inferno"), fields, areas),
    ]
