"""Whole detectors in onnxruntime and OpenVINO against what mmdet predicts itself, on images.

Weights are random, and tell nothing apart. The layers that predict are scaled, each by what it
gives for one image, so that scores and boxes differ from place to place as trained ones do.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures import DetDataSample
from torch import Tensor, nn
from torchvision.ops import box_iou

from mmhybrid.analysis.tables import markdown_table
from mmhybrid.apis.inputs import find_inputs, read_rgb
from mmhybrid.apis.models import init_model
from mmhybrid.deploy import fuse
from mmhybrid.deploy.onnx_export import export_onnx
from mmhybrid.deploy.onnx_outputs import NamedOutputs
from mmhybrid.deploy.runtimes import RUNTIMES, Graph, open_graph
from mmhybrid.engine.runner.results import write_json

MODELS = ("mask_rcnn_transxnet_t_coco", "retinanet_transxnet_t_coco")
SIZES = ((800, 1344), (480, 640), (427, 633))  # the last is no multiple of 32
# Standard deviation and mean of what layers give, by the ends of their names; fc_cls gives more for
# the background. Levels that differ would have scores that round to 1, and so no order.
PREDICTIONS = {
    r"fpn_convs\.\d\.conv": (1.0, 0.0),
    r"rpn_cls": (1.5, -2.0),
    r"rpn_reg|retina_reg": (0.3, 0.0),
    r"retina_cls": (1.5, -4.0),
    r"convs_pred\.0": (1.5, -1.0),
    r"fc_cls": (3.0, 0.0),
    r"fc_reg": (1.0, 0.0),
    r"conv_logits": (2.0, 0.0),
}


@torch.no_grad()
def predict(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """mmdet's own detections in an RGB image (1, 3, H, W), 0 to 255; ``masks`` (N, H, W), bool."""
    size = tuple(image.shape[-2:])
    about = dict.fromkeys(("ori_shape", "img_shape", "pad_shape"), size) | {"scale_factor": (1, 1)}
    sample = DetDataSample(metainfo=about)
    # As read by OpenCV.
    (found,) = model.test_step(dict(inputs=[image[0].flip(0)], data_samples=[sample]))
    found = found.pred_instances
    named = {"boxes": found.bboxes, "scores": found.scores, "labels": found.labels}
    return named | ({"masks": found.masks} if "masks" in found else {})


@torch.no_grad()
def spread_predictions(model: nn.Module, image: Tensor) -> nn.Module:
    """Scales the layers in PREDICTIONS, in place, so that this image gives what is said there."""
    handles = []

    def scale(layer: nn.Module, std: float, mean: float, background: float) -> None:
        def scaled(layer: nn.Module, inputs: tuple[Tensor], y: Tensor) -> Tensor:
            handle.remove()  # what is called for every level is scaled by the first
            centre = y.mean([d for d in range(y.ndim) if d != 1], keepdim=True)
            factor = std / (y - centre).std()
            shift = torch.full_like(layer.bias, mean)
            shift[-1] += background
            layer.weight.mul_(factor)
            layer.bias.sub_(centre.flatten()).mul_(factor).add_(shift)
            return (y - centre) * factor + shift.view(centre.shape)

        handle = layer.register_forward_hook(scaled)
        handles.append(handle)

    for name, layer in model.named_modules():
        for ending, (std, mean) in PREDICTIONS.items():
            if re.search(f"({ending})$", name):
                scale(layer, std, mean, 8.0 if ending == "fc_cls" else 0.0)
    predict(model, image)
    for handle in handles:
        handle.remove()
    return model


def difference(
    expected: Mapping[str, Tensor], got: Mapping[str, Tensor], size: tuple[int, int]
) -> dict[str, float]:
    """Compares detections of :func:`predict` with those of a graph, for an image of ``size``.

    Two are the same where labels are equal, boxes overlap by 0.99 and scores differ by less than
    1e-3.

    Returns:
        ``detections`` expected with a score above 0.05, ``unmatched`` of either above that, and
        ``pixels``, the smallest share of pixels in which the masks of two that are the same agree.
    """
    sure, real = (one["scores"] > 0.05 for one in (expected, got))
    same = box_iou(expected["boxes"], got["boxes"]) > 0.99
    same &= (expected["scores"][:, None] - got["scores"]).abs() < 1e-3
    same &= expected["labels"][:, None] == got["labels"]
    pixels = 1.0
    if "masks" in expected and same.any():
        rows, columns = same.nonzero().unbind(1)
        masks = got["masks"][columns, None]
        pasted = _do_paste_mask(masks, got["boxes"][columns], *size, skip_empty=False)[0] >= 0.5
        pixels = (pasted == expected["masks"][rows]).float().mean((1, 2)).min().item()
    unmatched = (sure & ~same.any(1)).sum() + (real & ~same.any(0)).sum()
    return dict(detections=int(sure.sum()), unmatched=int(unmatched), pixels=pixels)


def measure(
    shared: Path, folder: Path, graphs: Path, models: Iterable[str] = MODELS, images: int = 58
) -> str:
    """Compares on the images of ``coco_sample`` and some of ``camvid_sample`` in ``shared``, in all
    ``SIZES``; writes detectors.json and detectors.md, which it returns.

    What the file has of a model and size is not compared again, so that a stopped run can be
    resumed.
    """
    folders = (shared / "coco_sample", shared / "camvid_sample" / "images")
    files = [path for one in folders for path, _ in find_inputs([str(one)])][:images]
    kept = folder / "detectors.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    if results.get("images") != len(files):
        results = {"images": len(files), "rows": []}
    rows = results["rows"]
    for name in models:
        done = {row["size"] for row in rows if row["model"] == name}
        left = [size for size in SIZES if _text(size) not in done]
        for new in _rows(name, files, graphs, left) if left else ():
            rows += new
            write_json(kept, results)
            (folder / "detectors.md").write_text(page(rows, len(files)))
    return page(rows, len(files))


def _rows(
    name: str, files: list[Path], graphs: Path, sizes: Iterable[tuple[int, int]]
) -> Iterable[list[dict[str, Any]]]:
    """The rows of one size after another."""
    model = spread_predictions(init_model(f"configs/{name}.py"), _read(files[0], SIZES[0]))
    path = graphs / f"{name}.onnx"
    print(f"exporting {name} ...", flush=True)
    export_onnx(model, path, boxes=True)
    running = {runtime: partial(_run, open_graph(path, runtime)) for runtime in RUNTIMES}
    running["PyTorch, fused"] = torch.no_grad()(fuse(NamedOutputs(model)))
    for size in sizes:
        found: dict[str, list[dict[str, float]]] = {runtime: [] for runtime in running}
        for number, file in enumerate(files, 1):
            image = _read(file, size)
            expected = predict(model, image)
            for runtime, run in running.items():
                found[runtime].append(difference(expected, run(image), size))
                line = f"{name} {size} {number}/{len(files)} {runtime}: {found[runtime][-1]}"
                print(line, flush=True)
        yield [
            dict(
                model=name,
                runtime=runtime,
                size=_text(size),
                detections=sum(one["detections"] for one in all_found),
                unmatched=sum(one["unmatched"] for one in all_found),
                images_that_differ=sum(one["unmatched"] > 0 for one in all_found),
                pixels=min(one["pixels"] for one in all_found),
            )
            for runtime, all_found in found.items()
        ]


def _text(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


def _run(graph: Graph, image: Tensor) -> dict[str, Tensor]:
    return {key: torch.from_numpy(y) for key, y in graph(image.numpy()).items()}


def _read(path: Path, size: tuple[int, int]) -> Tensor:
    image = torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None].float()
    return F.interpolate(image, size, mode="bilinear", antialias=True).round().clamp(0, 255)


def page(rows: Iterable[Mapping[str, Any]], images: int) -> str:
    """The results as Markdown."""
    columns = ("model", "runtime", "size", "detections", "unmatched", "images_that_differ")
    lines = [[*(str(row[key]) for key in columns), f"{row['pixels']:.4%}"] for row in rows]
    parts = [
        "# Detectors",
        f"Whole detectors, exported fused, on {images} photographs: how many detections mmdet "
        "itself predicts with a score above 0.05, and how many of either have none in the other "
        "with the same label, an overlap of 0.99 and a score within 1e-3. Masks are pasted into "
        "the image as mmdet does: the smallest share of an image's pixels in which two agree. "
        "Weights are random, the layers that predict scaled so that scores spread; float32. "
        "What PyTorch itself, fused, finds otherwise is what rounding does.",
        markdown_table([*(key.replace("_", " ") for key in columns), "mask pixels alike"], lines),
    ]
    return "\n\n".join(parts) + "\n"
