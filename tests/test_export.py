"""Export into a folder: what its model.json says, its graph computes, and an export refuses."""

import json
import math
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmhybrid.apis.graph_inputs import GraphInputs
from mmhybrid.apis.graph_metric import _evaluate
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import DWVisionTransformer, TransXNet, XFormer
from mmhybrid.deploy import OnnxExportError, export
from mmhybrid.deploy.model_json import describe
from mmhybrid.deploy.onnx_export import Difference
from mmhybrid.deploy.onnx_outputs import NamedOutputs, takes_bgr
from mmhybrid.deploy.runtimes import open_graph
from mmhybrid.errors import UserError

VIT = "DWVisionTransformer(arch={'embed_dims': 48, 'depth': 4})"
exports = [pytest.mark.onnx, pytest.mark.process, pytest.mark.compile]


def tiny(cfg: Config, backbone: type[nn.Module]) -> nn.Module:
    """The model of a config, with a small backbone."""
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.update(dict(backbone.test_options), init_cfg=None, norm_cfg=dict(type="BN"))
    channels = list(backbone(**backbone.test_options).feature_channels)
    if "decode_head" in cfg.model:
        cfg.model.decode_head.update(norm_cfg=dict(type="BN"), in_channels=channels)
    elif "neck" in cfg.model and cfg.default_scope == "mmdet":
        cfg.model.neck.in_channels = channels[1:]
    return random_init(MODELS.build(cfg.model)).eval()


def vit() -> nn.Module:
    return random_init(DWVisionTransformer(**DWVisionTransformer.test_options)).eval()


def test_what_is_said_of_a_segmentor(tmp_path: Path, read_config) -> None:
    cfg = read_config("segformer_xformer_s_camvid")
    model = tiny(cfg, XFormer)
    model.dataset_meta = dict(classes=("road", "sky"), palette=[[0, 0, 0], [255, 0, 9]])
    describing = describe(model, cfg)
    assert describing == dict(
        task="segmentation",
        classes=["road", "sky"],
        palette=[[0, 0, 0], [255, 0, 9]],
        category_ids=None,
        resize=[dict(type="keep_ratio", scale=[240, 180])],
        mean=pytest.approx([123.675, 116.28, 103.53]),
        std=pytest.approx([58.395, 57.12, 57.375]),
        bgr=False,
        normalized_in_graph=True,
        window=None,
        label_threshold=None,
    )


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("mask_rcnn_transxnet_t_coco", [dict(type="keep_ratio", scale=[1333, 800])]),
        (
            "semantic_fpn_transxnet_t_ade20k",
            [dict(type="keep_ratio", scale=[2048, 512]), dict(type="multiple", divisor=32)],
        ),
        ("dw_vit_t_cifar10_32px", []),
    ],
)
def test_steps_for_sizes(name: str, steps: list, read_config) -> None:
    assert describe(SimpleNamespace(), read_config(name))["resize"] == steps


def test_a_segmentor_that_pads_in_tests(read_config) -> None:
    cfg = read_config("segformer_xformer_s_camvid")
    init_default_scope("mmseg")
    cfg.model.data_preprocessor.test_cfg = dict(size_divisor=32)
    given = MODELS.build(cfg.model.data_preprocessor)
    (step,) = describe(SimpleNamespace(data_preprocessor=given, decode_head=1), None)["resize"]
    mean = pytest.approx(cfg.model.data_preprocessor.mean)
    assert step == dict(type="pad", divisor=32, value=mean)


def test_what_is_said_of_a_backbone(read_config) -> None:
    told = describe(vit(), read_config("dw_vit_t_cifar10_32px"))
    assert (told["task"], told["normalized_in_graph"]) == ("features", False)
    assert told["mean"] == [125.307, 122.961, 113.8575]


def test_what_is_said_of_a_detector(read_config) -> None:
    cfg = read_config("mask_rcnn_transxnet_t_coco")
    init_default_scope("mmdet")
    given = MODELS.build(cfg.model.data_preprocessor)
    model = SimpleNamespace(
        rpn_head=1, roi_head=SimpleNamespace(with_mask=True), test_cfg=cfg.model.test_cfg
    )
    model.data_preprocessor = given
    model.dataset_meta = dict(classes=("car", "cat"), category_ids=[3, 17])
    told = describe(model, cfg)
    assert told["task"] == "instance_segmentation"
    assert told["category_ids"] == [3, 17]
    thresholds = [told[f"{name}_threshold"] for name in ("mask", "score", "iou")]
    assert thresholds == [0.5, 0.05, 0.5]


def test_steps_that_have_no_word_are_reported(read_config) -> None:
    cfg, told = read_config("semantic_fpn_transxnet_t_ade20k"), []
    cfg.test_dataloader.dataset.pipeline[1].interpolation = "area"
    cfg.test_dataloader.dataset.pipeline[2] = dict(type="Rotate", prob=1.0)
    (step,) = describe(SimpleNamespace(), cfg, told.append)["resize"]
    assert told == [
        "model.json has no word for interpolation='area' of the step Resize",
        "model.json has no word for the step Rotate of the test pipeline",
    ]
    assert "interpolation" not in step


@torch.no_grad()
@pytest.mark.parametrize("files", [True, False], ids=["files", "arrays in RGB"])
def test_a_model_that_normalises_bgr(files: bool, root: Path, read_config) -> None:
    """OpenMMLab reads files in BGR; where it does not convert them, graphs do."""
    cfg = read_config("segformer_xformer_s_camvid")
    cfg.model.data_preprocessor.update(mean=[1.0, 2.0, 3.0], bgr_to_rgb=False)
    cfg.model.data_preprocessor.test_cfg = dict(size_divisor=64)
    if not files:
        cfg.test_dataloader.dataset.pipeline[0] = dict(type="LoadImageFromNDArray")
    model = tiny(cfg, XFormer)
    model.cfg = cfg
    image = torch.randint(0, 256, (1, 3, 64, 64)).float()  # RGB
    expected = model.decode_head(
        model.backbone(
            ((image.flip(1) if files else image) - torch.tensor([[[1.0]], [[2.0]], [[3.0]]]))
            / model.data_preprocessor.std
        )
    )
    torch.testing.assert_close(NamedOutputs(model)(image)["logits"], expected)
    told = describe(model, cfg)
    assert told["mean"] == ([3, 2, 1] if files else [1, 2, 3])
    assert told["resize"][-1]["value"] == told["mean"]
    assert not told["bgr"]
    assert describe(XFormer(**XFormer.test_options), cfg)["bgr"] == files


@pytest.mark.parametrize(
    ("scope", "type_of_it", "option"),
    [
        ("mmpretrain", "ClsDataPreprocessor", "to_rgb"),
        ("mmseg", "SegDataPreProcessor", "bgr_to_rgb"),
        ("mmdet", "DetDataPreprocessor", "bgr_to_rgb"),
    ],
)
@pytest.mark.parametrize("converts", [True, False])
def test_who_converts_channels(scope: str, type_of_it: str, option: str, converts: bool) -> None:
    init_default_scope(scope)
    given = MODELS.build({"type": type_of_it, "mean": [1] * 3, "std": [1] * 3, option: converts})
    assert takes_bgr(SimpleNamespace(data_preprocessor=given)) == (not converts)


def test_a_backbone_alone_is_normalised_by_imagenets_values() -> None:
    assert describe(vit(), None)["mean"] == [123.675, 116.28, 103.53]


@pytest.mark.parametrize("uint8", [False, True])
def test_images_are_prepared_as_in_tests_of_the_model(uint8: bool, root, read_config) -> None:
    cfg = read_config("retinanet_transxnet_t_coco")
    init_default_scope("mmdet")
    given = MODELS.build(cfg.model.data_preprocessor)
    path = root / "docs" / "images" / "quick.jpg"
    model = SimpleNamespace(data_preprocessor=given)
    (image,) = GraphInputs([path], model, cfg, uint8=uint8)
    from mmengine.dataset import Compose, pseudo_collate

    steps = [one for one in cfg.test_dataloader.dataset.pipeline if one.type != "LoadAnnotations"]
    packed = Compose(steps)(dict(img_path=str(path), img_id=0))
    expected = given(pseudo_collate([packed]))["inputs"]
    assert image.dtype == (np.uint8 if uint8 else np.float32)
    # Bytes are rounded where the image is padded.
    got = (torch.from_numpy(image) - given.mean) / given.std
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-2 if uint8 else 1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("segformer_xformer_s_camvid", XFormer),
        ("dw_vit_t_cifar10_32px", DWVisionTransformer),
        ("retinanet_transxnet_t_coco", TransXNet),
    ],
)
def test_a_graph_is_evaluated_as_its_model_is(name: str, backbone, read_config) -> None:
    cfg = read_config(name)
    if cfg.default_scope == "mmpretrain":
        init_default_scope("mmpretrain")
        cfg.model.data_preprocessor = cfg.data_preprocessor
        model = random_init(MODELS.build(cfg.model)).eval()
    else:
        model = tiny(cfg, backbone)
    size = (64, 96) if cfg.default_scope != "mmpretrain" else (32, 32)
    metainfo = dict.fromkeys(("ori_shape", "img_shape", "pad_shape", "batch_input_shape"), size)
    metainfo["scale_factor"] = (1.0, 1.0)
    package = dict(mmseg="SegDataSample", mmdet="DetDataSample", mmpretrain="DataSample")
    structures = __import__(f"{cfg.default_scope}.structures", fromlist=["structures"])
    Sample = getattr(structures, package[cfg.default_scope])
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)

    def predicted():
        inputs = [image] if cfg.default_scope != "mmpretrain" else image[None]
        (sample,) = model.test_step(dict(inputs=inputs, data_samples=[Sample(metainfo=metainfo)]))
        return sample

    detects = cfg.default_scope == "mmdet"
    if detects:
        model.test_cfg.score_thr = model.bbox_head.test_cfg.score_thr = 1e-4
    before = predicted()
    outputs, seen = NamedOutputs(model, detects), []

    def graph(x):
        seen.append(x)
        return {key: y.numpy() for key, y in outputs(torch.from_numpy(x)).items()}

    runner = SimpleNamespace(
        model=model, cfg=cfg, test=lambda: {"mIoU": seen.append(predicted()) or 7.0}
    )
    assert _evaluate(runner, graph) == 7
    assert seen[0].shape[0] == 1
    after = seen[1]
    if detects:
        assert len(before.pred_instances.scores)
        torch.testing.assert_close(after.pred_instances.scores, before.pred_instances.scores)
    elif cfg.default_scope == "mmseg":
        assert (after.pred_sem_seg.data == before.pred_sem_seg.data).float().mean() > 0.99
    else:
        torch.testing.assert_close(after.pred_score, before.pred_score)


# --- exports


def exported(tmp_path: Path, **options) -> tuple[nn.Module, dict]:
    model = options.pop("model", None) or vit()
    meta = export(model, tmp_path / "out", check=[(64, 96)], **options)
    assert meta == json.loads((tmp_path / "out" / "model.json").read_text())
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    return model, meta


class TestFolder:
    pytestmark = exports

    def test_a_whole_segmentor(self, tmp_path: Path, read_config) -> None:
        cfg = read_config("segformer_xformer_s_camvid")
        options = dict(format="openvino", cfg=cfg, uint8=True)
        model, meta = exported(tmp_path, model=tiny(cfg, XFormer), **options)
        assert {"model.xml", "model.bin", "model.json"} <= set(names(tmp_path))
        assert "model.onnx" not in names(tmp_path)
        assert meta["outputs"] == ["labels", "logits"]
        assert meta["input"] == dict(name="image", dtype="uint8", batch=1, channels=3) | dict(
            height=None, width=None
        )
        assert meta["speed"]["runtime_ms"] > 0
        image = torch.randint(0, 256, (1, 3, 75, 101), dtype=torch.uint8)
        got = open_graph(tmp_path / "out" / "model.xml")(image.numpy())
        with torch.no_grad():
            expected = NamedOutputs(model)(image.float())
        assert (torch.from_numpy(got["labels"]) == expected["labels"]).float().mean() > 0.999

    def test_eight_bits_under_control(self, tmp_path: Path) -> None:
        model = vit()
        images = [np.float32(torch.randn(1, 3, 64, 64)) for _ in range(3)]
        with torch.no_grad():
            expected = model(torch.from_numpy(images[0]))[-1].numpy()

        def score(graph) -> float:
            error = np.abs(graph(images[0])["stage_3"] - expected).mean()
            return float(1 - error / np.abs(expected).mean())

        options = dict(format="openvino", precision="int8", calibration=images)
        _, meta = exported(tmp_path, model=model, evaluate=score, max_drop=0.2, **options)
        assert meta["metric"]["fp32"] > 0.9999
        assert 0.8 < meta["metric"]["int8"] < 0.9999
        assert "FakeQuantize" in (tmp_path / "out" / "model.xml").read_text()

    def test_the_command_line(self, run_tool, capsys, tmp_path: Path) -> None:
        options = ("--format", "openvino", "--precision", "bf16", "--size", "64x96")
        run_tool("export.py", VIT, "--out", tmp_path / "out", *options)
        assert "openvino" in capsys.readouterr().out
        meta = json.loads((tmp_path / "out" / "model.json").read_text())
        assert (meta["input"]["height"], meta["input"]["width"]) == (64, 96)
        assert meta["precision"] == "bf16"
        assert meta["origin"]["config"] == VIT


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in (folder / "out").iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(precision="bf16"), "onnxruntime does not compute in bfloat16"),
        (dict(precision="int8"), "needs images"),
        (dict(format="openvino", safetensors=True), "beside a float32 .onnx file alone"),
        (dict(format="tensorrt"), "no format 'tensorrt': there are onnx, openvino"),
        (dict(precision="int4"), "no precision 'int4'"),
        (dict(uint8=True), "images that are normalised, and no bytes"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: dict, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        export(vit(), tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "nncf" else 1)
    options = dict(format="openvino", precision="int8", calibration=[np.zeros((1, 3, 64, 64))])
    with pytest.raises(UserError, match=r"^nncf is missing: pip install nncf$"):
        export(vit(), tmp_path / "out", **options)


def test_a_detector_takes_one_image_at_a_time(tmp_path: Path) -> None:
    model = SimpleNamespace(bbox_head=1, test_cfg={})
    with pytest.raises(ValueError, match="one image at a time"):
        export(model, tmp_path / "out", batch=None)


@pytest.mark.parametrize("there", [False, True], ids=["new", "with an export"])
@pytest.mark.parametrize(
    ("largest", "precision", "told"),
    [
        (5.0, "fp32", "differs by"),
        (math.nan, "fp32", "not finite"),
        (math.nan, "bf16", "not finite"),
    ],
)
def test_a_failed_export_leaves_what_was(
    there: bool, largest: float, precision: str, told: str, tmp_path: Path, monkeypatch
) -> None:
    def write(model, path, **options) -> None:
        path.write_text("half")

    if there:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "model.onnx").write_text("whole")
    monkeypatch.setattr("mmhybrid.deploy.exporting.export_onnx", write)
    monkeypatch.setattr("mmhybrid.deploy.exporting.to_openvino", lambda onnx, path: None)
    rows = [Difference((1, 3, 8, 8), "stage_0", one, 1.0) for one in (largest, 0.0)]
    monkeypatch.setattr("mmhybrid.deploy.exporting.compare", lambda *args, **options: rows)
    with pytest.raises(OnnxExportError, match=told):
        export(vit(), tmp_path / "out", format="openvino", precision=precision)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "model.onnx"] * there
    assert not there or (tmp_path / "out" / "model.onnx").read_text() == "whole"


def test_an_export_stays_on_its_file_system(tmp_path: Path, monkeypatch) -> None:
    """The folder may be one that is mounted, as in containers."""
    parts = []
    real = tempfile.TemporaryDirectory
    monkeypatch.setattr(
        "tempfile.TemporaryDirectory", lambda dir, **options: parts.append(dir) or real(dir=dir)
    )
    monkeypatch.setattr("mmhybrid.deploy.exporting.export_onnx", mock.Mock(side_effect=KeyError))
    with pytest.raises(KeyError):
        export(vit(), tmp_path / "a" / "out")
    assert parts == [tmp_path / "a" / "out"]
    with pytest.raises(UserError, match="cannot write to /proc/out: "):
        export(vit(), "/proc/out")


def test_images_of_a_fixed_size_are_not_padded(root: Path, read_config) -> None:
    cfg = read_config("retinanet_transxnet_t_coco")
    init_default_scope("mmdet")
    model = SimpleNamespace(data_preprocessor=MODELS.build(cfg.model.data_preprocessor))
    paths = [root / "docs" / "images" / "quick.jpg"]
    (image,) = GraphInputs(paths, model, cfg, size=(200, 333))
    assert image.shape == (1, 3, 200, 333)
