"""Detectors exported whole: what mmdet itself predicts, in both runtimes."""

from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from benchmarks.detectors import difference, predict, spread_predictions
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import DWSwinTransformer, XFormer
from mmhybrid.deploy.onnx_export import export_onnx
from mmhybrid.deploy.onnx_outputs import NamedOutputs
from mmhybrid.deploy.runtimes import RUNTIMES, open_graph
from mmhybrid.engine.runner.run_config import map_values
from mmhybrid.errors import ArgumentError

SIZES = ((128, 160), (96, 224), (101, 141))  # the last is no multiple of 32


def photograph(size: tuple[int, int], seed: int = 0) -> Tensor:
    """Something with edges at every scale, (1, 3, H, W), 0 to 255."""
    generator = torch.Generator().manual_seed(seed)
    coarse = [torch.rand(1, 3, n, n, generator=generator) for n in (4, 12, 40)]
    return sum(F.interpolate(y, size) for y in coarse) / 3 * 255


def tiny(cfg: Config, change: Callable[[Config], Any] = lambda model: None) -> nn.Module:
    """The detector of a config, with a small ResNet, narrow heads and predictions that differ."""
    init_default_scope("mmdet")

    def narrow(key: str, value: Any) -> Any:
        is_width = key.endswith("channels") and type(value) is int
        return min(value, 64 if "fc" in key else 32) if is_width else value

    model = map_values(cfg.model, narrow)
    channels = cfg.model.neck.in_channels
    levels, coarse_first = len(channels), channels[0] > channels[-1]
    stages = dict(num_stages=4, out_indices=range(4 - levels, 4))
    model["backbone"] = dict(type="ResNet", depth=18, base_channels=8, **stages)
    model["neck"]["in_channels"] = sorted([8, 16, 32, 64][-levels:], reverse=coarse_first)
    model = Config(model)
    if "roi_head" in model:
        model.test_cfg.rpn.max_per_img = 40  # so that there are fewer than 100 detections
    change(model)
    return spread_predictions(random_init(MODELS.build(model)).eval(), photograph(SIZES[0]))


def without_masks(model: Config) -> None:
    model.type = "FasterRCNN"
    del model.roi_head.mask_head, model.roi_head.mask_roi_extractor
    model.roi_head.bbox_head.reg_class_agnostic = True


def masks_of_any_class(model: Config) -> None:
    model.roi_head.mask_head.class_agnostic = True
    model.test_cfg.rpn.max_per_img = 150  # the mean of three stages is seldom sure


def few_proposals(model: Config) -> None:
    model.test_cfg.rpn.update(nms_pre=20, max_per_img=500, min_bbox_size=4)


VARIANTS = {
    "mask": ("mask_rcnn_dw_swin_t_coco", lambda model: None),
    "fewer proposals than room": ("mask_rcnn_dw_swin_t_coco", few_proposals),
    "faster, box of no class": ("mask_rcnn_dw_swin_t_coco", without_masks),
    "cascade, masks of no class": ("cascade_mask_rcnn_dw_swin_t_coco", masks_of_any_class),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_second_stage_is_mmdets(name: str, read_config) -> None:
    model = tiny(read_config(VARIANTS[name][0]), VARIANTS[name][1])
    outputs = NamedOutputs(model)
    for size in SIZES:
        expected = predict(model, photograph(size))
        with torch.no_grad():
            got = outputs(photograph(size))
        count = len(expected["scores"])
        assert 0 < count < 100
        assert {len(y) for y in got.values()} == {100}
        assert not got["scores"][count:].any()
        for key in ("boxes", "scores", "labels"):
            assert torch.equal(got[key][:count], expected[key])
        found = difference(expected, got, size)
        assert (found["unmatched"], found["pixels"]) == (0, 1.0)


def seldom_sure(model: Config) -> None:
    masks_of_any_class(model)
    model.test_cfg.rpn.max_per_img = 40


def with_windows(model: Config) -> None:
    arch = dict(DWSwinTransformer.test_options["arch"], depths=(1, 2, 1, 1))
    options = dict(arch=arch, out_indices=(1, 2, 3))
    model.backbone = dict(type="DWSwinTransformer", **options)
    model.neck.in_channels = list(DWSwinTransformer(**options).feature_channels)
    # Rounding alone moves more than a hundredth of a box that the border cuts to 0.001 pixels.
    model.test_cfg.min_bbox_size = 1


WHOLE = {
    "mask_rcnn_dw_swin_t_coco": lambda model: None,
    "cascade_mask_rcnn_dw_swin_t_coco": seldom_sure,  # nothing is found at one of the sizes
    "retinanet_transxnet_t_coco": with_windows,
    "yolov3_xformer_s_coco": lambda model: None,
}


@pytest.mark.onnx
@pytest.mark.parametrize("name", WHOLE)
def test_a_graph_finds_what_mmdet_finds(name: str, read_config, tmp_path: Path) -> None:
    model = tiny(read_config(name), WHOLE[name])
    export_onnx(model, tmp_path / "model.onnx", fused=WHOLE[name] is with_windows)
    running = {runtime: open_graph(tmp_path / "model.onnx", runtime) for runtime in RUNTIMES}
    counts = []
    for size in SIZES:
        expected = predict(model, photograph(size))
        counts.append(len(expected["scores"]))
        for runtime, run in running.items():
            got = {key: torch.from_numpy(y) for key, y in run(photograph(size).numpy()).items()}
            assert got.keys() == expected.keys()
            found = difference(expected, got, size)
            assert found["unmatched"] == 0, runtime
            assert found["pixels"] > 0.999
    assert max(counts) > 0
    assert (min(counts) == 0) == name.startswith("cascade")


@pytest.mark.onnx
def test_a_graph_of_one_size_finds_what_mmdet_finds(read_config, tmp_path: Path) -> None:
    size = SIZES[2]  # which its graph pads
    model = tiny(read_config("mask_rcnn_dw_swin_t_coco"))
    export_onnx(model, tmp_path / "model.onnx", fused=False, batch=1, size=size)
    expected = predict(model, photograph(size))
    assert len(expected["scores"]) > 0
    for runtime in RUNTIMES:
        run = open_graph(tmp_path / "model.onnx", runtime)
        got = {key: torch.from_numpy(y) for key, y in run(photograph(size).numpy()).items()}
        found = difference(expected, got, size)
        assert (found["unmatched"], found["pixels"] > 0.999) == (0, True), runtime


@pytest.mark.onnx
def test_a_graph_tells_classes_as_mmpretrain_does(read_config, tmp_path: Path) -> None:
    cfg = read_config("xformer_s_imagenet")
    init_default_scope("mmpretrain")
    cfg.model.backbone.update(dict(XFormer.test_options), init_cfg=None)
    model = random_init(MODELS.build(cfg.model)).eval()
    export_onnx(model, tmp_path / "model.onnx")
    for runtime in RUNTIMES:
        run = open_graph(tmp_path / "model.onnx", runtime)
        for size in SIZES:
            image = photograph(size)
            with torch.no_grad():
                (sample,) = model.test_step(dict(inputs=[image[0].flip(0)]))
            got = torch.from_numpy(run(image.numpy())["logits"]).softmax(1)[0]
            assert (got - sample.pred_score).abs().max() < 1e-4
            assert got.argmax() == sample.pred_label


def test_differences_are_seen() -> None:
    boxes = torch.tensor([[0.0, 0, 100, 100], [50, 50, 90, 90]])
    one = dict(boxes=boxes, scores=torch.tensor([0.9, 0.4]), labels=torch.tensor([1, 2]))
    assert difference(one, one, (128, 128)) == dict(detections=2, unmatched=0, pixels=1.0)
    moved = dict(one, boxes=boxes + torch.tensor([[0.0], [1]]))
    others = (moved, dict(one, labels=torch.tensor([1, 1])))
    others += (dict(one, scores=torch.tensor([0.9, 0.402])),)
    assert [difference(one, other, (128, 128))["unmatched"] for other in others] == [2, 2, 2]
    fewer = {key: y[:1] for key, y in one.items()}
    assert difference(one, fewer, (128, 128))["unmatched"] == 1
    whole = dict(one, masks=torch.ones(2, 128, 128, dtype=torch.bool))
    assert difference(whole, dict(one, masks=torch.ones(2, 28, 28)), (128, 128))["pixels"] < 0.2


SOFT = dict(type="soft_nms", iou_threshold=0.5)
REFUSED = {
    "FCOSHead": ("retinanet", "bbox_head", dict(type="FCOSHead", num_classes=80, in_channels=256)),
    "GenericRoIExtractor": ("mask_rcnn", "roi_head.bbox_roi_extractor.type", "GenericRoIExtractor"),
    "SeesawLoss": (
        "mask_rcnn",
        "roi_head.bbox_head.loss_cls",
        dict(type="SeesawLoss", num_classes=80),
    ),
    "soft_nms": ("mask_rcnn", "test_cfg.rcnn.nms", SOFT),
    "class_agnostic": ("retinanet", "test_cfg.nms.class_agnostic", True),
}


@pytest.mark.parametrize("what", REFUSED)
def test_boxes_that_cannot_be_exported_are_refused_at_once(what: str, read_config) -> None:
    method, place, value = REFUSED[what]
    cfg = read_config(f"{method}_transxnet_t_coco")
    *parents, key = place.split(".")
    reduce(getitem, parents, cfg.model)[key] = value
    init_default_scope("mmdet")
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    # Maps, where nothing is asked for.
    assert not NamedOutputs(model).boxes
    with pytest.raises(ArgumentError, match=f"{what}.* cannot be exported, only the maps.* can$"):
        NamedOutputs(model, boxes=True)
