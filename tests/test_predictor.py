"""Predicting with an exported model: graphs of a few operations whose answers are known."""

import importlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import mmcv
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope
from onnx import TensorProto, helper
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

import mmhybrid
from mmhybrid.apis import init_model, make_inferencer, make_model, tiling
from mmhybrid.apis.random_init import random_init
from mmhybrid.apis.samples import samples_of
from mmhybrid.backbones import XFormer
from mmhybrid.datasets.synthetic.shapes import scene
from mmhybrid.deploy import Predictor, export, export_onnx, predictor, runtimes
from mmhybrid.deploy.model_json import describe
from mmhybrid.deploy.predictor import VERSION, PredictorError, prepare, read_image, resize
from mmhybrid.engine.runner.run_config import load_config

CLASSES = ["red", "green", "blue"]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
BOXES = np.float32([[8, 4, 24, 20], [2.3, 1.1, 13.7, 28.4], [0, 0, 0, 0], [40, 2, 60, 30]])
MASKS = np.random.default_rng(0).random((4, 28, 28), np.float32)


def constant(name: str, value: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value))


# By task: the nodes of a graph on an image (B, 3, H, W), and its outputs with their types.
GRAPHS = {
    "classification": (
        [helper.make_node("ReduceMean", ["x", "axes"], ["logits"], keepdims=0)],
        {"logits": FLOAT},
    ),
    # The class of a pixel is its largest channel.
    "segmentation": (
        [
            helper.make_node("ArgMax", ["x"], ["labels"], axis=1, keepdims=0),
            helper.make_node("AveragePool", ["x"], ["logits"], kernel_shape=[4, 4], strides=[4, 4]),
        ],
        {"labels": INT64, "logits": FLOAT},
    ),
    "instance_segmentation": (
        [
            constant("given", BOXES),
            constant("scores", np.float32([0.9, 0.7, 0.0, 0.04])),
            constant("labels", np.int64([2, 0, 0, 1])),
            constant("masks", MASKS),
            # A graph must use its input.
            helper.make_node("ReduceMin", ["x"], ["least"], keepdims=0),
            helper.make_node("Mul", ["least", "zero"], ["nothing"]),
            helper.make_node("Add", ["given", "nothing"], ["boxes"]),
        ],
        {"boxes": FLOAT, "scores": FLOAT, "labels": INT64, "masks": FLOAT},
    ),
    "features": (
        [helper.make_node("AveragePool", ["x"], ["stage_0"], kernel_shape=[4, 4], strides=[4, 4])],
        {"stage_0": FLOAT},
    ),
}


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Path]:
    """Makes the folder of an exported model; ``meta`` changes its model.json."""

    def make(task: str = "classification", dtype: str = "float32", **meta) -> Path:
        nodes, outputs = GRAPHS[task]
        names = meta.get("outputs", list(outputs))
        given = dict(name="image", dtype=dtype, batch=None, height=None, width=None, channels=3)
        given |= meta.pop("input", {})
        shape = [given["batch"] or "B", 3, given["height"] or "H", given["width"] or "W"]
        type_of_input = getattr(TensorProto, dtype.upper()[:5])
        graph = helper.make_graph(
            [
                constant("axes", np.int64([2, 3])),
                constant("zero", np.float32(0)),
                helper.make_node("Cast", ["image"], ["x"], to=FLOAT),
                *nodes,
            ],
            task,
            [helper.make_tensor_value_info("image", type_of_input, shape)],
            [helper.make_tensor_value_info(name, outputs[name], None) for name in names],
        )
        opset = [helper.make_opsetid("", 18)]
        folder = tmp_path / "exported"
        folder.mkdir(exist_ok=True)
        model = helper.make_model(graph, opset_imports=opset, ir_version=10)
        onnx.save(model, folder / "model.onnx")
        content = dict(format="mmhybrid", version=VERSION, file="model.onnx", runtime="onnxruntime")
        content |= dict(precision="fp32", task=task, classes=CLASSES, input=given, outputs=names)
        content |= dict(resize=[], score_threshold=0.05)
        (folder / "model.json").write_text(json.dumps(content | meta))
        return folder

    return make


def shapes_image(height: int = 64, width: int = 96) -> np.ndarray:
    return scene(np.random.default_rng(0), width, height, range(4), 3)[0]


GREEN = np.full((40, 60, 3), (20, 200, 10), np.uint8)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_classifier(exported, tmp_path: Path, runtime: str, dtype: str) -> None:
    predict = Predictor(exported(dtype=dtype), runtime, threads=1)
    found = predict(GREEN)
    assert (found.task, found.size, found.names[0]) == ("classification", (40, 60), "green")
    assert found.labels.tolist() == [1, 0, 2]
    assert found.scores[0] == found.probabilities[1] > 0.99
    assert found.probabilities.sum() == pytest.approx(1)
    Image.fromarray(GREEN).save(tmp_path / "green.png")
    content = (tmp_path / "green.png").read_bytes()
    for given in (tmp_path / "green.png", str(tmp_path / "green.png"), content):
        assert predict(given).to_dict() == found.to_dict()


@pytest.mark.parametrize(
    ("precision", "hint"), [("fp32", "f32"), ("bf16", "bf16"), ("int8", "bf16")]
)
def test_what_openvino_computes_in(exported, monkeypatch, precision: str, hint: str) -> None:
    """What an int8 graph does not have in 8 bits took longer than the whole of it in bfloat16."""
    folder = exported("classification", precision=precision, runtime="openvino")
    core = MagicMock()
    for module in (predictor, runtimes):
        monkeypatch.setattr(module, "openvino_core", lambda: core)
    Predictor(folder)
    runtimes.open_graph(folder / "model.onnx", "openvino", precision=precision)
    calls = core.compile_model.call_args_list
    assert [call.args[2]["INFERENCE_PRECISION_HINT"] for call in calls] == [hint, hint]


@pytest.mark.parametrize("batch", [None, 1, 2])
def test_a_list_goes_in_batches_that_the_graph_takes(exported, batch: int | None) -> None:
    predict = Predictor(exported(input=dict(batch=batch)))
    sizes, run = [], predict._run
    predict._run = lambda x: sizes.append(x.shape) or run(x)
    images = [np.roll(GREEN, shift, 2) for shift in range(3)] + [GREEN[:, :50]]
    names = [found.names[0] for found in predict(images)]
    assert names == ["green", "blue", "red", "green"]
    expected = {None: [3, 1], 1: [1, 1, 1, 1], 2: [2, 2, 2]}[batch]
    assert [size[0] for size in sizes] == expected
    assert sizes[-1][2:] == (40, 50)


def test_long_lists_do_not_go_at_once(exported) -> None:
    predict = Predictor(exported())
    sizes, run = [], predict._run
    predict._run = lambda x: sizes.append(len(x)) or run(x)
    assert len(predict([GREEN] * 40)) == 40
    assert sizes == [16, 16, 8]


@pytest.mark.parametrize("logits", [False, True])
def test_a_label_map_has_the_images_own_size(exported, logits: bool) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :45, 1] = image[:, 45:, 2] = 200
    outputs = ["labels", "logits"] if logits else ["labels"]
    value = [0, 0, 0] if logits else [255, 0, 0]  # which must not be seen
    steps = [dict(type="keep_ratio", scale=[90, 30]), dict(type="pad", divisor=16, value=value)]
    found = Predictor(exported("segmentation", resize=steps, outputs=outputs))(
        image, probabilities=True
    )
    assert found.label_map.shape == (40, 60)
    assert found.label_map.dtype == np.uint8
    near = 4 if logits else 0  # pixels from the border, where four are averaged
    assert (found.label_map[:, : 45 - near] == 1).all()
    assert (found.label_map[:, 45 + near : 60 - near] == 2).all()
    assert found.names[:2] == ["green", "blue"]
    assert found.scores[:2] == pytest.approx([0.75, 0.25], abs=0.1)
    assert (found.probabilities is not None) == logits
    if logits:
        assert (found.probabilities.argmax(0) == found.label_map).all()
        assert found.probabilities.sum(0) == pytest.approx(1)
    for label, code in zip(found.labels, found.to_dict()["masks"], strict=True):
        assert (decoded(code) == (found.label_map == label)).all()


@pytest.mark.parametrize("size", [None, (32, 48)])
def test_windows_are_mmsegs(exported, size: tuple[int, int] | None) -> None:
    image = np.random.default_rng(0).integers(0, 256, (75, 101, 3), np.uint8)
    fixed = dict(batch=1, height=32, width=48) if size else dict(batch=1)
    predict = Predictor(exported("segmentation", input=fixed, mean=[9, 9, 9]))
    found = predict(image, probabilities=True, tile=(32, 48))
    segmentors = importlib.import_module("mmseg.models.segmentors")

    def encode_decode(x: torch.Tensor, metas: list) -> torch.Tensor:
        logits = torch.from_numpy(predict._run(x.numpy())["logits"])
        return F.interpolate(logits, x.shape[2:], mode="bilinear")

    test_cfg = SimpleNamespace(stride=(24, 36), crop_size=(32, 48))
    model = SimpleNamespace(test_cfg=test_cfg, out_channels=3, encode_decode=encode_decode)
    x = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
    expected = segmentors.EncoderDecoder.slide_inference(model, x, [{}])[0]
    assert (found.label_map == expected.argmax(0).numpy()).all()
    assert found.probabilities == pytest.approx(expected.softmax(0).numpy(), abs=1e-4)
    small = predict(image[:20, :30], tile=(32, 48))  # than a window
    assert small.label_map.shape == (20, 30)


@pytest.mark.parametrize(("threshold", "label"), [(0.3, 1), (None, 0)])
def test_windows_of_one_channel_keep_its_threshold(exported, threshold, label) -> None:
    predict = Predictor(exported("segmentation", label_threshold=threshold))
    logits = np.full((1, 1, 8, 8), -0.5, np.float32)  # a probability of 0.38
    predict._run = lambda x: dict(labels=np.zeros((1, 32, 32)), logits=logits)
    found = predict(np.zeros((48, 48, 3), np.uint8), tile=(32, 32))
    assert (found.label_map == label).all()


def test_probabilities_of_one_channel(exported) -> None:
    predict = Predictor(exported("segmentation"))
    logits = np.full((1, 1, 10, 15), -3.0, np.float32)
    predict._run = lambda x: dict(labels=np.zeros((1, 40, 60), np.int64), logits=logits)
    found = predict(GREEN, probabilities=True)
    assert found.probabilities.shape == (1, 40, 60)
    assert found.probabilities == pytest.approx(1 / (1 + np.exp(3)))


def test_windows_need_logits(exported) -> None:
    for folder in (exported("segmentation", outputs=["labels"]), exported("classification")):
        with pytest.raises(PredictorError, match="tiles are for segmentors whose graph"):
            Predictor(folder)(GREEN, tile=(32, 32))


def decoded(code: dict) -> np.ndarray:
    return coco_mask.decode(coco_mask.frPyObjects(code, *code["size"])).astype(bool)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_boxes_and_masks_in_the_images_own_pixels(exported, runtime: str) -> None:
    pad = dict(type="pad", divisor=32, value=[0, 0, 0])
    steps = [dict(type="keep_ratio", scale=[64, 48]), pad]
    ids = [3, 7, 90]
    folder = exported("instance_segmentation", resize=steps, category_ids=ids)
    predict = Predictor(folder, runtime)
    found = predict(np.zeros((24, 20, 3), np.uint8))  # resized to 58x48
    assert found.names == ["blue", "red"]
    assert found.category_ids == found.to_dict()["category_ids"] == [90, 3]
    assert found.scores == pytest.approx([0.9, 0.7])
    expected = BOXES[:2] / [48 / 20, 58 / 24, 48 / 20, 58 / 24]
    assert found.boxes == pytest.approx(expected)
    paste = importlib.import_module("mmdet.models.roi_heads.mask_heads.fcn_mask_head")
    pasted, _ = paste._do_paste_mask(
        torch.from_numpy(MASKS[:2, None]), torch.from_numpy(found.boxes), 24, 20, skip_empty=False
    )
    assert (found.masks == (pasted >= 0.5).numpy()).all()
    assert found.masks.any()
    content = json.loads(json.dumps(found.to_dict()))
    for code, mask in zip(content["masks"], found.masks, strict=True):
        assert (decoded(code) == mask).all()
    assert len(predict(np.zeros((24, 20, 3), np.uint8), score_threshold=0.8).labels) == 1
    assert len(predict(np.zeros((24, 20, 3), np.uint8), score_threshold=0).labels) == 3


def test_masks_are_pasted_as_mmdet_does() -> None:
    """Boxes that reach over the border, tiny ones, and some without a width."""
    paste = importlib.import_module("mmdet.models.roi_heads.mask_heads.fcn_mask_head")
    generator = np.random.default_rng(1)
    for index in range(200):
        start = generator.uniform(-20, 74, 2).astype(np.float32)
        sides = generator.uniform(0, 2 if index % 4 == 0 else 90, 2).astype(np.float32)
        box = np.concatenate([start, np.maximum(start + sides, 1)])
        if index % 20 == 0:
            box[0] = box[2]
        probabilities = generator.random((28, 28), np.float32)
        mask = np.zeros((75, 101), bool)
        predictor._paste(mask, box, probabilities, 0.5)
        given = torch.from_numpy(probabilities)[None, None], torch.from_numpy(box)[None]
        pasted, where = paste._do_paste_mask(*given, 75, 101)
        expected = torch.zeros(75, 101)
        expected[where] = pasted[0]
        is_tie = (expected - 0.5).abs().numpy() < 1e-5
        assert (mask == (expected >= 0.5).numpy())[~is_tie].all(), box
    for box in ([-50, 0, -40, 9], [0, 80, 9, 99]):  # what mmdet clips before
        mask = np.zeros((75, 101), bool)
        predictor._paste(mask, np.float32(box), probabilities, 0.0)
        assert not mask.any()


def test_a_backbone_takes_what_is_normalised(exported) -> None:
    meta = dict(mean=[100, 0, 0], std=[50, 1, 1], normalized_in_graph=False)
    found = Predictor(exported("features", **meta))(GREEN)
    (maps,) = found.features.values()
    assert maps.shape == (3, 10, 15)
    assert maps[:, 3, 3] == pytest.approx([-1.6, 200, 10])
    found = Predictor(exported("features", bgr=True, **meta))(GREEN)
    (maps,) = found.features.values()
    assert maps[:, 3, 3] == pytest.approx([-1.8, 200, 20])


SIZES = [(30, 40), (41, 17), (33, 47), (128, 100), (64, 96)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("backend", ["cv2", "pillow"])
def test_resizing_is_opencvs_and_pillows(size, interpolation: str, backend: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    options = dict(interpolation=interpolation, backend=backend)
    expected = mmcv.imresize(image, size[::-1], **options)
    difference = resize(image, size, **options).astype(int) - expected
    assert np.abs(difference).max() <= 1


PIPELINES = {
    "mmdet": [dict(type="Resize", scale=(133, 80), keep_ratio=True)],
    "mmdet, a square": [
        dict(type="Resize", scale=(50, 50), keep_ratio=True),
        dict(type="Pad", size=(64, 96), pad_val=dict(img=(114, 3, 9))),
    ],
    "mmdet, cut off": [
        dict(type="FixScaleResize", scale=(133, 80), keep_ratio=True),
        dict(type="Pad", size_divisor=32, pad_to_square=True),
    ],
    "mmdet, exact": [dict(type="Resize", scale=(70, 40), keep_ratio=False)],
    "mmseg": [
        dict(type="Resize", scale=(200, 50), keep_ratio=True),
        dict(type="ResizeToMultiple", size_divisor=32),
    ],
    "mmseg, the shortest edge": [dict(type="ResizeShortestEdge", scale=(48, 70), max_size=101)],
    "mmpretrain": [
        dict(type="ResizeEdge", scale=72, edge="short", backend="pillow", interpolation="bicubic"),
        dict(type="CenterCrop", crop_size=63),
    ],
    "mmpretrain, a square": [dict(type="Resize", scale=32, interpolation="bicubic")],
    "mmpretrain, EfficientNet": [
        dict(type="EfficientNetCenterCrop", crop_size=48, crop_padding=7, backend="pillow")
    ],
}


@pytest.mark.parametrize("name", PIPELINES)
def test_images_become_what_test_pipelines_make_of_them(name: str) -> None:
    """What model.json says of a pipeline, and the predictor does, is what OpenMMLab does."""
    pipeline, told = PIPELINES[name], []
    dataset = dict(type="D", pipeline=pipeline)
    cfg = Config(dict(test_dataloader=dict(dataset=dataset), default_scope=name.split(",")[0]))
    steps = json.loads(json.dumps(describe(nn.Identity(), cfg, told.append)["resize"]))
    assert (bool(steps), told) == (True, [])
    init_default_scope(cfg.default_scope)
    transform = Compose(pipeline)
    still = ("crop", "crop_square", "pad")
    resizes = sum(step["type"] not in still for step in steps)  # each to within one grey level
    for size in ((64, 96), (96, 64), (65, 97), (30, 300), (333, 250)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        expected = transform(dict(img=image[..., ::-1], img_shape=size, ori_shape=size))["img"]
        got = prepare(image, given(steps)).x.transpose(1, 2, 0)[..., ::-1]
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= resizes


def given(steps: list, height: int | None = None, width: int | None = None, **meta) -> dict:
    return dict(resize=steps, input=dict(dtype="float32", height=height, width=width), **meta)


def test_padding_and_fixed_sizes() -> None:
    pad = dict(type="pad", divisor=32, value=[1.5, 2, 3])
    x, size, resized = prepare(GREEN, given([pad]))
    assert (x.shape, size, resized) == ((3, 64, 64), (40, 60), (40, 60))
    assert x[:, 40, 0].tolist() == x[:, 0, 60].tolist() == [1.5, 2, 3]
    assert x[:, 39, 59].tolist() == [20, 200, 10]
    # An upright image is made small enough for a graph that lies.
    steps = [dict(type="keep_ratio", scale=[96, 64])]
    x, _, resized = prepare(np.zeros((90, 60, 3), np.uint8), given(steps, 64, 96, mean=[7, 8, 9]))
    assert (x.shape, resized) == ((3, 64, 96), (64, 43))
    assert x[:, 63, 43].tolist() == [7, 8, 9]
    with pytest.raises(PredictorError, match=r"40x60 does not fit into this model.* 32x64"):
        prepare(GREEN, given([], 32, 64))


@pytest.mark.parametrize("reader", ["PIL", "cv2"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "I;16", "1"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_read_as_in_training(
    reader: str, mode: str, orientation: int, tmp_path: Path, monkeypatch
) -> None:
    if mode == "I;16":
        image = Image.fromarray((shapes_image()[..., 0].astype(np.uint16) << 8) + 77)
    else:
        image = Image.fromarray(shapes_image()).convert(mode)
    # The second tag, the unit of the resolution, is a text, which it may not be.
    tags = struct.pack(">HHIHHHHI4s", 0x0112, 3, 1, orientation, 0, 0x0128, 2, 2, b"?")
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + tags + bytes(4)
    path = tmp_path / ("a.jpg" if mode in ("RGB", "L", "CMYK") else "a.png")
    image.save(path, exif=exif)
    expected = mmcv.imfrombytes(path.read_bytes(), channel_order="rgb")
    find = predictor.find_spec
    monkeypatch.setattr(predictor, "find_spec", lambda name: name == reader and find(name))
    got = read_image(path)
    assert got.shape == expected.shape == ((64, 96, 3) if orientation < 5 else (96, 64, 3))
    assert np.abs(got.astype(int) - expected).max() <= (3 if mode == "CMYK" else 0)


def test_what_is_no_image_is_said(tmp_path: Path, exported, monkeypatch) -> None:
    predict = Predictor(exported())
    (tmp_path / "a.jpg").write_text("none")
    file = io.BytesIO()
    Image.fromarray(shapes_image()).save(file, "jpeg")
    for image, told in {
        str(tmp_path / "a.jpg"): "a.jpg is no image",
        str(tmp_path / "b.jpg"): "cannot read .*b.jpg: No such file",
        "a\0.jpg": "cannot read a\0.jpg: embedded null",
        b"none": "what was given is no image",
        file.getvalue()[:1000]: "cannot be read as an image: .*truncated",
        3: "a path, bytes or an array, not int",
    }.items():
        with pytest.raises(PredictorError, match=told):
            predict(image)
    for array in (GREEN[..., 0], GREEN[None], GREEN / 255, GREEN[..., :2], GREEN[:0]):
        with pytest.raises(PredictorError, match=r"\(height, width, 3\), RGB, uint8, not \("):
            predict(array)
    monkeypatch.setattr(predictor, "find_spec", lambda name: None)
    with pytest.raises(PredictorError, match="pip install pillow"):
        predict(file.getvalue())
    assert predict(GREEN).names[0] == "green"
    monkeypatch.setattr(predictor, "find_spec", lambda name: name == "cv2")
    for content in (b"none", b""):
        with pytest.raises(PredictorError, match="what was given is no image"):
            predict(content)


def test_what_is_no_model_is_said(tmp_path: Path, exported, monkeypatch) -> None:
    with pytest.raises(PredictorError, match=r"no folder of an exported model: no model\.json"):
        Predictor(tmp_path)
    with pytest.raises(PredictorError, match="version 1, and this predictor knows 2 alone"):
        Predictor(exported(version=1))
    for content in ("[]", "{", '{"format": "other"}', '{"format": "mmhybrid", "version": 2}'):
        (tmp_path / "model.json").write_text(content)
        with pytest.raises(PredictorError, match="does not describe an exported model"):
            Predictor(tmp_path)
    with pytest.raises(PredictorError, match="'tensorrt': choose from onnxruntime, openvino"):
        Predictor(exported(), "tensorrt")
    with pytest.raises(PredictorError, match=r"onnxruntime does not run model\.xml"):
        Predictor(exported(file="model.xml", runtime="openvino"), "onnxruntime")
    with pytest.raises(PredictorError, match=r"model\.xml is missing, which model\.json names"):
        Predictor(exported(file="model.xml", runtime="openvino"))
    for runtime in ("onnxruntime", "openvino"):
        graph = exported() / "model.onnx"
        graph.write_bytes(graph.read_bytes()[:50])
        with pytest.raises(PredictorError, match=rf"{runtime} cannot open .*model\.onnx: "):
            Predictor(graph.parent, runtime)
        wrong = Predictor(exported(outputs=["logits"], input=dict(name="picture")), runtime)
        with pytest.raises(
            PredictorError, match=rf"{runtime} fails on an input of \(1, 3, 40, 60\)"
        ):
            wrong(GREEN)
    for tile in (32, (32,), (0, 32)):
        with pytest.raises(PredictorError, match="a tile is its height and width, not"):
            Predictor(exported("segmentation"))(GREEN, tile=tile)
    with pytest.raises(PredictorError, match="knows no step 'mosaic'"):
        Predictor(exported(resize=[dict(type="mosaic")]))(GREEN)
    find = predictor.find_spec
    monkeypatch.setattr(predictor, "find_spec", lambda name: name != "onnxruntime" and find(name))
    assert Predictor(exported()).runtime == "openvino"
    monkeypatch.setattr(predictor, "find_spec", lambda name: None)
    with pytest.raises(PredictorError, match="not installed: pip install onnxruntime"):
        Predictor(exported())
    with pytest.raises(PredictorError, match="not installed: pip install openvino"):
        Predictor(exported(), "openvino")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_four_threads_share_a_predictor(exported, runtime: str) -> None:
    predict = Predictor(exported("segmentation"), runtime)
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (32, 32 + 4 * (n % 5), 3), np.uint8) for n in range(200)]
    with ThreadPoolExecutor(4) as pool:
        for image, found in zip(images, pool.map(predict, images), strict=True):
            assert (found.label_map == image.argmax(2)).all()


@pytest.mark.parametrize("task", ["segmentation", "instance_segmentation"])
def test_drawing_where_nobody_names_classes(exported, task: str) -> None:
    predict = Predictor(exported(task, classes=None))
    drawn = predict.draw(shapes_image(), predict(shapes_image()))
    assert (drawn != shapes_image()).any()


@pytest.mark.parametrize("writer", ["PIL", "cv2"])
@pytest.mark.parametrize("task", ["classification", "segmentation", "instance_segmentation"])
def test_drawing(exported, task: str, writer: str, monkeypatch) -> None:
    find = predictor.find_spec
    palette = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    predict = Predictor(exported(task, palette=palette))
    monkeypatch.setattr(predictor, "find_spec", lambda name: name == writer and find(name))
    found = predict(GREEN)
    drawn = predict.draw(GREEN, found)
    assert (drawn.shape, drawn.dtype) == (GREEN.shape, np.uint8)
    assert (drawn != GREEN).any()
    assert (GREEN == (20, 200, 10)).all()
    if task == "segmentation":
        assert (drawn == np.uint8([10, 227, 5])).all()
    if task == "instance_segmentation":
        assert (drawn[19, 8:24] == (0, 0, 255)).all()
        # What is drawn of none is the image.
        assert (predict.draw(GREEN, found, score_threshold=1) == GREEN).all()


def test_the_command_line(exported, tmp_path: Path, monkeypatch, capsys) -> None:
    Image.fromarray(GREEN).save(tmp_path / "a.png")
    good, missing = str(tmp_path / "a.png"), str(tmp_path / "none.png")
    monkeypatch.setattr(sys, "argv", ["predictor.py", str(exported()), missing, good])
    with pytest.raises(SystemExit) as left:
        predictor.main()
    assert left.value.code == 1
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    assert json.loads(line)["names"] == ["green", "red", "blue"]
    assert printed.err.startswith(f"error: cannot read {missing}")


# As a detector and a segmentor see them; both pad what comes out of Resize.
RESIZE = [dict(type="keep_ratio", scale=[160, 96])]
PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(160, 96), keep_ratio=True),
]


def save_whole(cfg: Config, folder: Path, task: str, outputs: list[str], **meta) -> tuple:
    """Exports the model of a config with random weights; its inferencer, and its Predictor."""
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.update(dict(XFormer.test_options), init_cfg=None)
    channels = XFormer(**XFormer.test_options).feature_channels
    for part in ("neck", "decode_head"):
        if part in cfg.model and "in_channels" in cfg.model[part]:
            cfg.model[part].in_channels = list(channels)
    model = random_init(MODELS.build(cfg.model)).eval()
    torch.save({"state_dict": model.state_dict(), "meta": {}}, folder / "model.pth")
    inferencer = make_inferencer(cfg, str(folder / "model.pth"), device="cpu")
    if task == "segmentation":  # no class may be everywhere
        (sample,) = samples_of(inferencer, [shapes_image(75, 130)])
        inferencer.model.decode_head.conv_seg.bias.data -= sample.seg_logits.data.mean((1, 2))
    export_onnx(inferencer.model, folder / "model.onnx", boxes=task == "detection")
    given = dict(name="image", dtype="float32", batch=1, height=None, width=None, channels=3)
    meta |= dict(format="mmhybrid", version=VERSION, file="model.onnx", runtime="onnxruntime")
    meta |= dict(task=task, outputs=outputs, input=given, resize=[*RESIZE, *meta.pop("pad", [])])
    (folder / "model.json").write_text(json.dumps(meta))
    return inferencer, Predictor(folder)


@pytest.mark.onnx
@pytest.mark.process
@pytest.mark.compile
def test_a_detector_finds_what_mmdet_finds(read_config, tmp_path: Path) -> None:
    cfg = read_config("retinanet_transxnet_t_coco")
    cfg.model.backbone = dict(type="XFormer")
    keys = ("img_path", "ori_shape", "img_shape", "scale_factor")
    pipeline = [*PIPELINE, dict(type="PackDetInputs", meta_keys=keys)]
    cfg.test_dataloader.dataset.pipeline = pipeline
    cfg.model.test_cfg.update(score_thr=0.0, max_per_img=20)
    pad = [dict(type="pad", divisor=32, value=cfg.model.data_preprocessor.mean)]
    inferencer, predict = save_whole(
        cfg, tmp_path, "detection", ["boxes", "scores", "labels"], pad=pad
    )
    image = shapes_image(75, 130)
    (sample,) = samples_of(inferencer, [image[..., ::-1].copy()])
    expected, found = sample.pred_instances, predict(image)
    assert len(found.labels) == len(expected) == 20
    assert found.scores == pytest.approx(expected.scores.numpy(), abs=1e-2)
    assert found.boxes == pytest.approx(expected.bboxes.numpy(), abs=1)
    assert (found.labels == expected.labels.numpy()).all()


@pytest.mark.onnx
@pytest.mark.process
@pytest.mark.compile
def test_a_segmentor_finds_what_mmseg_finds(read_config, tmp_path: Path) -> None:
    cfg = read_config("segformer_xformer_s_camvid")
    cfg.test_dataloader.dataset.pipeline = [*PIPELINE, dict(type="PackSegInputs")]
    cfg.model.test_cfg = dict(mode="whole")
    inferencer, predict = save_whole(cfg, tmp_path, "segmentation", ["labels", "logits"])
    image = shapes_image(75, 130)
    (sample,) = samples_of(inferencer, [image[..., ::-1].copy()])
    expected = sample.pred_sem_seg.data[0].numpy()
    assert len(np.unique(expected)) > 1
    assert (predict(image).label_map == expected).mean() > 0.995
    predict.meta["outputs"] = ["labels"]
    assert (predict(image).label_map == expected).mean() > 0.9


@pytest.mark.onnx
@pytest.mark.process
@pytest.mark.compile
@pytest.mark.parametrize("name", ["transxnet_t_imagenet", "dw_vit_t_cifar10"])
def test_a_classifier_finds_what_mmpretrain_finds(name: str, read_config, tmp_path: Path) -> None:
    """Its data preprocessor lies beside the model; the images of CIFAR are RGB already."""
    cfg, config, weights = read_config(name), tmp_path / "config.py", tmp_path / "model.pth"
    cfg.model.backbone = dict(type="XFormer", **XFormer.test_options)
    cfg.model.neck = dict(type="GlobalAveragePooling")
    cfg.model.head.in_channels = XFormer(**XFormer.test_options).feature_channels[-1]
    cfg.dump(config)
    model = random_init(make_model(str(config)))
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx(
        cfg.data_preprocessor.mean
    )
    torch.save({"state_dict": model.state_dict(), "meta": {}}, weights)
    export(init_model(str(config), str(weights)), tmp_path / "exported")
    image = shapes_image(224, 224)
    Image.fromarray(image).save(tmp_path / "a.png")
    inferencer = make_inferencer(load_config(str(config)), str(weights), device="cpu")
    (sample,) = samples_of(inferencer, [image[..., ::-1].copy()])
    expected, found = sample.pred_score.numpy(), Predictor(tmp_path / "exported")(image)
    assert (found.labels == np.argsort(-expected, kind="stable")[: len(found.labels)]).all()
    assert found.scores == pytest.approx(expected[found.labels], rel=1e-3)


@pytest.mark.parametrize("task", ["classification", "segmentation", "instance_segmentation"])
def test_tools_predict_takes_the_folder(exported, task, tmp_path: Path, run_tool, capsys) -> None:
    folder, out = exported(task, input=dict(batch=1)), tmp_path / "out"
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(GREEN).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "c.jpg").write_text("none")
    words = ["--out-dir", out, "--batch-size", 2]
    with pytest.raises(SystemExit) as end:
        run_tool("predict.py", folder, tmp_path / "in", *words)
    assert end.value.code == 3
    assert "2 images done, 1 inputs not readable" in capsys.readouterr().out
    for name in ("a", "b"):
        drawn = np.array(Image.open(out / "images" / f"{name}.jpg"))
        assert drawn.shape[0] * 60 == drawn.shape[1] * 40
    assert mmhybrid.predict(folder, tmp_path / "in" / "a.png").labels[0] in CLASSES
    if task == "segmentation":
        assert (np.array(Image.open(out / "labels" / "a.png")) == 1).all()
        return
    written = json.loads((out / "predictions.json").read_text())
    if task == "classification":
        assert [row["name"] for row in written] == ["green", "green"]
        return
    rows = [row for row in written["annotations"] if row["image_id"] == 1]
    assert [row["category_id"] for row in rows] == [3, 1]
    assert rows[0]["bbox"] == [8, 4, 16, 16]
    found = Predictor(folder)(GREEN)
    assert (coco_mask.decode(rows[0]["segmentation"]) == found.masks[0]).all()
    with pytest.raises(SystemExit, match="--device, --fuse and --cfg-options are for checkpoints"):
        run_tool("predict.py", folder, tmp_path / "in", *words, "--fuse")


@pytest.mark.parametrize("task", ["segmentation", "instance_segmentation"])
def test_tools_predict_takes_the_folder_in_tiles(
    exported, task: str, tmp_path: Path, run_tool, capsys, monkeypatch
) -> None:
    Image.fromarray(np.tile(GREEN, (3, 3, 1))).save(tmp_path / "a.png")
    folder, out = exported(task, iou_threshold=0.6, window=[32, 48]), tmp_path / "out"
    words = [tmp_path / "a.png", "--out-dir", out, "--no-save-vis", "--tile-check", "--tile"]
    run_tool("predict.py", folder, *words, "64x96")
    assert "1 images in tiles: 100.0 % of the whole image's result" in capsys.readouterr().out
    if task == "segmentation":
        assert (np.array(Image.open(out / "labels" / "a.png")) == 1).all()
        monkeypatch.setattr(tiling, "LARGEST", 99)
        assert tiling.choose_tile(make_inferencer(str(folder)), (120, 180)) == (32, 48)
    else:  # the graph finds the same boxes in the whole image and in each tile
        rows = json.loads((out / "predictions.json").read_text())["annotations"]
        places = {tuple(row["bbox"][:2]) for row in rows}
        assert (8, 4) in places
        assert len(places) > 4


def test_a_folder_that_cannot_be_predicted_with_is_said(exported, run_tool, tmp_path: Path) -> None:
    Image.fromarray(GREEN).save(tmp_path / "a.png")
    for meta, told in (
        (dict(version=1), "error: .* has version 1"),
        (dict(task="features"), "holds a backbone, which gives feature maps alone"),
        (dict(classes=None), "names no classes"),
    ):
        with pytest.raises(SystemExit, match=told):
            run_tool("predict.py", exported(**meta), tmp_path / "a.png")


def test_the_service_of_the_page(exported, monkeypatch, root: Path) -> None:
    page = (root / "docs" / "serving.md").read_text().partition("## Over HTTP")[2]
    code = page.partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) <= 30
    monkeypatch.setenv("MODEL", str(exported()))
    monkeypatch.syspath_prepend(Path(predictor.__file__).parent)
    testclient = pytest.importorskip("fastapi.testclient", reason="see requirements/tests.txt")
    service = {}
    exec(code, service)
    client = testclient.TestClient(service["app"])
    file = io.BytesIO()
    Image.fromarray(GREEN).save(file, "png")
    options = dict(content=file.getvalue(), headers={"Content-Type": "image/png"})
    answer = client.post("/predict", **options)
    assert answer.json()["names"] == ["green", "red", "blue"]
    assert Image.open(io.BytesIO(client.post("/draw", **options).content)).size == (60, 40)
    for path in ("/predict", "/draw"):
        answer = client.post(path, content=b"none", headers=options["headers"])
        assert answer.status_code == 422
        assert answer.json()["detail"] == "what was given is no image"


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "mmengine", "mmcv", "mmdet", "mmseg", "mmhybrid", "cv2"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
import numpy as np
from predictor import Predictor

for runtime in ("onnxruntime", "openvino"):
    found = Predictor(sys.argv[1], runtime)(np.full((9, 9, 3), (0, 99, 0), np.uint8))
    print(found.names[0], sorted({"torch", "mmhybrid", "PIL"} & set(sys.modules)))
"""


SIGNALLED = """
import os, signal, sys
from mmhybrid.deploy.predictor import Predictor

signal.signal(signal.SIGUSR1, lambda *args: print("still here"))
kept = [Predictor(sys.argv[1], runtime="openvino") for _ in range(2)]
while kept:
    kept.pop(0)
    os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.process
def test_a_signal_after_openvino_ends_no_process(exported, tmp_path: Path, run_python) -> None:
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    assert run_python(tmp_path / "signalled.py", exported()).count("still here") == 2


@pytest.mark.process
def test_the_file_needs_nothing_of_ours(exported, tmp_path: Path) -> None:
    folder = exported()
    shutil.copy(predictor.__file__, tmp_path)
    (tmp_path / "run.py").write_text(BLOCKER)
    command = [sys.executable, "-P", "run.py", str(folder)]
    env = dict(os.environ, PYTHONPATH=str(tmp_path))
    pipes = dict(capture_output=True, text=True, timeout=300)
    done = subprocess.run(command, cwd=tmp_path, env=env, **pipes)
    assert done.stdout.splitlines() == ["green []", "green []"], done.stderr


@pytest.mark.process
def test_an_environment_with_numpy_and_a_runtime_alone(exported, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pipes = dict(capture_output=True, text=True, timeout=600)
    command = [python, "-m", "pip", "install", "--quiet", "numpy", "onnxruntime", "pillow"]
    installed = subprocess.run(command, **pipes)
    if installed.returncode:
        pytest.skip(f"pip cannot install here: {installed.stderr[-300:]}")
    shutil.copy(predictor.__file__, tmp_path)
    Image.fromarray(GREEN).save(tmp_path / "a.png")
    command = [python, tmp_path / "predictor.py", exported(), tmp_path / "a.png"]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=env, **pipes)
    assert json.loads(done.stdout)["names"][0] == "green", done.stderr
