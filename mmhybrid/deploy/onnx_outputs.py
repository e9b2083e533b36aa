"""Whole models as functions from images to named tensors, which is what a graph can hold."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from mmhybrid.backbones import is_backbone
from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.deploy import onnx_boxes, onnx_second_stage
from mmhybrid.errors import ArgumentError
from mmhybrid.layers.padding import pad_to_multiple
from mmhybrid.registry import type_name


class NamedOutputs(nn.Module):
    """A model without the classes of OpenMMLab around what goes in and what comes out.

    ``forward`` maps images (B, C, H, W) to a dict of tensors. A backbone takes what it was
    trained with, and gives ``stage_0`` (B, C, h, w) and so on. Whole models take RGB images with
    values from 0 to 255, normalise them, and give

    * a classifier of mmpretrain: ``logits`` (B, classes);
    * a segmentor of mmseg: ``labels`` (B, H, W), int64, and the ``logits`` (B, classes, h, w) that
      they are made of. It sees the whole image at once, also where its config tests in windows;
    * a detector of mmdet, of one image: what :func:`mmhybrid.deploy.onnx_boxes.boxes_of` does, or
      with two stages :func:`mmhybrid.deploy.onnx_second_stage.detections_of`;
    * the same without ``boxes``: what its head gives of each level before anything is decoded,
      ``score_0`` and ``box_0`` and so on, or ``prediction_0`` where one map holds both. Of two
      stages, this is of the region proposal network, and the map of each level that the second
      stage goes on with comes with it, ``feature_0`` and so on.

    A detector pads the image as in mmdet, after normalising it; boxes end at the image itself.

    Args:
        model (nn.Module): One of these; kept as it is.
        boxes (bool, optional): Of detectors, see above. Defaults to what is possible.

    Raises:
        ArgumentError: It is none of these, or gives no boxes where they are asked for.
    """

    def __init__(self, model: nn.Module, boxes: bool | None = None) -> None:
        super().__init__()
        found = [k for k in OUTPUTS_OF_HEADS if isinstance(getattr(model, k, None), nn.Module)]
        head, name = next(iter(found), None), type(model).__name__
        refused = None if boxes is False else _why_no_boxes(model, head)
        if boxes and refused:
            raise ArgumentError(refused)
        self.boxes = boxes is not False and not refused
        if is_backbone(model):
            self.outputs_of = _stages
        elif head and hasattr(model, "data_preprocessor"):
            self.outputs_of = (BOXES_OF_HEADS if self.boxes else OUTPUTS_OF_HEADS)[head]
        else:
            raise ArgumentError(
                f"{name} is neither a backbone of mmhybrid nor a classifier, "
                "segmentor or detector of OpenMMLab that holds one"
            )
        self.takes_bgr = takes_bgr(model, getattr(model, "cfg", None))
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.outputs_of(self.model, image.flip(1) if self.takes_bgr else image)


def takes_bgr(model: nn.Module, cfg: Config | None = None) -> bool:
    """Whether a model normalises images in BGR, as files are read in OpenMMLab.

    Most have their data preprocessor convert them. Where it does not, the test pipeline of ``cfg``
    says whether images come from files; those of other data sets, such as CIFAR's, are in RGB.
    """
    given = getattr(model, "data_preprocessor", None)
    # As mmpretrain, mmseg and MMEngine call it; there is one of them.
    names = ("to_rgb", "channel_conversion", "_channel_conversion")
    converts = next((getattr(given, name) for name in names if hasattr(given, name)), True)
    return not converts and (cfg is None or reads_files(cfg))


def reads_files(cfg: Config) -> bool:
    """Whether the tests of a config read images from files."""
    _, dataset = next(datasets_of(cfg, ("test_dataloader",)), ("", {}))
    steps = dataset.get("pipeline") or [dict(type="LoadImageFromFile")]
    return any(type_name(step) == "LoadImageFromFile" for step in steps)


def _why_no_boxes(model: nn.Module, head: str | None) -> str | None:
    if head == "bbox_head":
        return onnx_boxes.refused(model.bbox_head)
    if head == "rpn_head" and hasattr(model, "roi_head"):
        return onnx_second_stage.refused(model)
    return f"{type(model).__name__} is no detector, and gives no boxes"


def _features(model: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """The model's maps of images, 0 to 255, which its data preprocessor normalises and pads."""
    given = model.data_preprocessor
    x = (image - given.mean) / given.std if hasattr(given, "mean") else image
    if (divisor := getattr(given, "pad_size_divisor", 1)) > 1:
        x = pad_to_multiple(x, divisor, given.pad_value)
    return model.extract_feat(x)


def _stages(backbone: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return {f"stage_{stage}": y for stage, y in zip(backbone.out_indices, backbone(x), strict=True)}


def _classified(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    return {"logits": model.head(_features(model, image))}


def _segmented(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    logits = model.decode_head(_features(model, image))
    options = dict(mode="bilinear", align_corners=model.align_corners)
    full = F.interpolate(logits, size=image.shape[-2:], **options)
    if logits.shape[1] == 1:
        labels = (full.squeeze(1).sigmoid() > model.decode_head.threshold).long()
    else:
        labels = full.argmax(dim=1)
    return {"labels": labels, "logits": logits}


def _boxes(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    lists = model.bbox_head(_features(model, image))
    return onnx_boxes.boxes_of(model.bbox_head, lists, image.shape[-2:])


def _boxes_of_two_stages(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    return onnx_second_stage.detections_of(model, _features(model, image), image.shape[-2:])


def _detected(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    return _levels(model.bbox_head(_features(model, image)))


def _proposed(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    features = _features(model, image)
    return {**_levels(model.rpn_head(features)), **_numbered("feature", features)}


def _levels(lists: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """Names what a dense head of mmdet returns: lists of scores and boxes, of one map a level."""
    names = {1: ("prediction",), 2: ("score", "box"), 3: ("score", "box", "centre")}
    named = zip(names[len(lists)], lists, strict=True)
    return {key: y for name, maps in named for key, y in _numbered(name, maps).items()}


def _numbered(name: str, maps: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"{name}_{level}": y for level, y in enumerate(maps)}


# The head says what a whole model is; of a two-stage detector, the first stage.
OUTPUTS_OF_HEADS = {
    "decode_head": _segmented,
    "rpn_head": _proposed,
    "bbox_head": _detected,
    "head": _classified,
}
BOXES_OF_HEADS = {"rpn_head": _boxes_of_two_stages, "bbox_head": _boxes}
