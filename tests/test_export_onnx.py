"""Export to ONNX: the same as PyTorch at sizes and batches that the export has not seen."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from safetensors import safe_open
from torch import Tensor, nn

from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import (
    DepthwiseShortcutBackbone,
    DMFormer,
    DWSwinTransformer,
    DWVisionTransformer,
    TransXNet,
)
from mmhybrid.deploy.onnx_boxes import boxes_of
from mmhybrid.deploy.onnx_export import (
    Difference,
    OnnxExportError,
    _difference,
    compare,
    export_onnx,
    random_images,
    trace,
)
from mmhybrid.deploy.onnx_operations import (
    adaptive_average_pool,
    convolve_by_products,
    normalise_whole,
    resize_bicubic,
)
from mmhybrid.deploy.onnx_outputs import NamedOutputs
from mmhybrid.deploy.runtimes import RUNTIMES, open_graph
from mmhybrid.layers.dynamic_convolution import InputDependentDepthwiseConv

pytestmark = [pytest.mark.onnx, pytest.mark.process, pytest.mark.compile]

# None is a multiple of 7 on every stage's map; in the first, the table of positions fits as it is.
SHAPES = [(1, 3, 224, 224), (3, 3, 75, 101), (1, 3, 96, 64)]


@pytest.mark.parametrize("size", [(7, 7), (8, 9), (20, 33), (3, 5), (1, 1)])
@pytest.mark.parametrize("output", [7, 1, (2, 3), (6, 6)])
def test_pooling_is_pytorchs(size, output) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = F.adaptive_avg_pool2d(x, output)
    torch.testing.assert_close(adaptive_average_pool(x, output), expected)


@pytest.mark.parametrize("size", [(30, 7), (5, 7), (11, 20), (9, 7)])
@pytest.mark.parametrize("antialias", [False, True])
def test_bicubic_resizing_is_pytorchs(size, antialias) -> None:
    x = torch.randn(1, 2, 9, 7, dtype=torch.float64)
    expected = F.interpolate(x, size=size, mode="bicubic", antialias=antialias)
    torch.testing.assert_close(resize_bicubic(x, size, antialias), expected)


@pytest.mark.parametrize("affine", [True, False])
def test_normalising_a_whole_map_is_pytorchs(affine: bool) -> None:
    norm = nn.GroupNorm(1, 6, affine=affine).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 6, 5, 9, dtype=torch.float64) * 3 + 7
    got = normalise_whole(x, 1, norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(got, norm(x))


class _Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 48)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"out": self.norm(image)}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_normalising_a_large_map_is_as_exact_in_a_runtime(runtime: str, tmp_path: Path) -> None:
    x = torch.randn(1, 48, 200, 336) * 2 + 3
    expected = F.group_norm(x.double(), 1).numpy()
    path = tmp_path / "norm.onnx"
    trace(_Normalised(), x, {2: "height", 3: "width"}, report=str).save(path)
    got = open_graph(path, runtime)(x.numpy())["out"]
    # A runtime that adds up three million values in float32 is 3e-4 away.
    assert abs(got - expected).max() < 1e-5


def test_a_large_table_is_resized_with_pytorchs_own_rounding() -> None:
    table = torch.randn(1, 1, 3136, 3)
    expected = F.interpolate(table, size=(19200, 3), mode="bicubic")
    # The exact result is 1e-3 away.
    assert (resize_bicubic(table, (19200, 3)) - expected).abs().max() < 1e-4


@torch.no_grad()
def test_the_dynamic_convolution_by_products() -> None:
    conv = random_init(InputDependentDepthwiseConv(8, norm_cfg=dict(type="BN"))).eval()
    x = torch.randn(3, 8, 9, 11)
    torch.testing.assert_close(convolve_by_products(conv, x), conv(x), rtol=1e-5, atol=1e-5)


BACKBONES = {
    "TransXNet": lambda: TransXNet(**TransXNet.test_options),
    "DWSwin": lambda: DWSwinTransformer(**DWSwinTransformer.test_options, out_indices=(0, 3)),
    "ViT as its host": lambda: DWVisionTransformer(
        **DWVisionTransformer.test_options, qkv_bias=True, position_antialias=True
    ),
    "mmseg's MiT with shortcuts": lambda: DepthwiseShortcutBackbone(
        dict(type="mmseg.MixVisionTransformer", embed_dims=16, num_stages=1, out_indices=(0,))
        | dict(num_layers=(1,), num_heads=(1,), patch_sizes=(7,), strides=(4,), sr_ratios=(8,))
    ),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_at_sizes_that_were_not_traced(name, tmp_path: Path) -> None:
    model = random_init(BACKBONES[name]()).eval()
    export_onnx(model, tmp_path / "model.onnx", safetensors=True)
    for runtime in RUNTIMES:
        rows = compare(model, tmp_path / "model.onnx", map(torch.randn, SHAPES), runtime=runtime)
        assert len(rows) == len(SHAPES) * len(model.out_indices)
        assert max(row.largest for row in rows) < 1e-4
        assert min(row.scale for row in rows) > 0.1
    # The graph itself holds no weights of note.
    assert onnx.load(tmp_path / "model.onnx", load_external_data=False).ByteSize() < 3_000_000
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        held = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    assert held > 0.9 * sum(p.numel() for p in model.parameters())


def test_one_image_of_any_size(tmp_path: Path) -> None:
    """TransXNet alone has another graph then; test_export_detectors.py has one of windows."""
    model = random_init(TransXNet(**TransXNet.test_options)).eval()
    export_onnx(model, tmp_path / "model.onnx", batch=1)
    for runtime in RUNTIMES:
        images = [torch.randn(1, *shape[1:]) for shape in SHAPES]
        rows = compare(model, tmp_path / "model.onnx", images, runtime=runtime)
        assert max(row.relative for row in rows) < 1e-4


def test_images_of_one_size_as_bytes(tmp_path: Path) -> None:
    """The positions are in the graph, which makes no table."""
    model = random_init(TransXNet(**TransXNet.test_options)).eval()
    export_onnx(model, tmp_path / "model.onnx", batch=2, size=(75, 101), uint8=True)
    operations = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert not operations & {"Scan", "Loop", "Shape", "Range", "Floor", "ScatterND"}
    x = torch.randint(256, (2, 3, 75, 101), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(x.float())
    for runtime in RUNTIMES:
        got = open_graph(tmp_path / "model.onnx", runtime)(x.numpy())
        for stage, y in enumerate(expected):
            # These are 255 times as large as normalised ones.
            torch.testing.assert_close(
                torch.from_numpy(got[f"stage_{stage}"]), y, rtol=1e-3, atol=1e-2
            )


def tiny(cfg: Config, backbone: type[nn.Module], in_channels: list[int]) -> nn.Module:
    """The model of a config, with a small backbone."""
    init_default_scope(cfg.default_scope)
    norm = dict(norm_cfg=dict(type="BN"))
    cfg.model.backbone.update(dict(backbone.test_options), init_cfg=None, **norm)
    cfg.model.neck.in_channels = in_channels
    if "decode_head" in cfg.model:
        cfg.model.decode_head.update(norm)
    return random_init(MODELS.build(cfg.model)).eval()


def test_a_whole_segmentor(tmp_path: Path, read_config) -> None:
    model = tiny(read_config("semantic_fpn_dmformer_s_ade20k"), DMFormer, [16, 32, 48, 64])
    export_onnx(model, tmp_path / "model.onnx")
    batches = [random_images(model, shape) for shape in ((1, 3, 75, 101), (3, 3, 128, 64))]
    rows = [
        row
        for runtime in RUNTIMES
        for row in compare(model, tmp_path / "model.onnx", batches, runtime=runtime)
    ]
    assert {row.output for row in rows} == {"labels", "logits"}
    assert max(row.largest for row in rows) < 1e-3

    # What the graph says is what the model predicts, preprocessor and all.
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    run = open_graph(tmp_path / "model.onnx")
    labels = run(image.flip(0)[None].float().numpy())["labels"]
    from mmseg.structures import SegDataSample

    given = SegDataSample(metainfo=dict.fromkeys(("ori_shape", "img_shape", "pad_shape"), (64, 96)))
    with torch.no_grad():
        (sample,) = model.test_step(dict(inputs=[image], data_samples=[given]))
    same = torch.from_numpy(labels) == sample.pred_sem_seg.data
    assert same.float().mean() > 0.999


def test_differences_are_seen() -> None:
    a = torch.tensor([[1.0, -4.0]])
    row = _difference((1, 3, 8, 8), "logits", a, a + 0.5)
    assert row == Difference((1, 3, 8, 8), "logits", 0.5, 4.0)
    assert row.relative == 0.125
    labels = torch.tensor([[1, 2, 3, 4]])
    assert _difference((1, 3, 8, 8), "labels", labels, labels.clamp(max=3)).largest == 0.25
    with pytest.raises(OnnxExportError, match="in the graph"):
        _difference((1, 3, 8, 8), "logits", a, a.t())


@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_swin_of_others_has_one_size(package: str, tmp_path: Path) -> None:
    """For any, torch.export says after minutes: "Constraints violated (L['args'][0].size()[0])"."""
    swin = dict(embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    model = DepthwiseShortcutBackbone(dict(type=f"{package}.SwinTransformer", **swin))
    with pytest.raises(OnnxExportError, match=rf"{package}'s ShiftWindowMSA.*DWSwinTransformer"):
        export_onnx(model, tmp_path / "model.onnx")
    if package == "mmdet":
        x = torch.randn(1, 3, 64, 96)
        export_onnx(model.eval(), tmp_path / "model.onnx", batch=1, size=(64, 96))
        rows = compare(model, tmp_path / "model.onnx", [x], runtime="openvino")
        assert max(row.relative for row in rows) < 1e-4


def test_what_gives_no_such_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match="neither a backbone"):
        NamedOutputs(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="is no detector"):
        NamedOutputs(TransXNet("tiny", init_cfg=None), boxes=True)


VIT = "DWVisionTransformer(arch={'embed_dims': 48, 'depth': 4})"


def test_the_command_line(run_tool, capsys, tmp_path: Path) -> None:
    run_tool("export_onnx.py", VIT, "--out", tmp_path / "vit.onnx", "--check", "64x96", "80x48")
    printed = capsys.readouterr().out
    assert "3x3x80x48" in printed
    assert "stage_3" in printed
    assert (tmp_path / "vit.onnx").is_file()


def test_old_option_of_the_command_line(run_tool, root: Path, tmp_path: Path) -> None:
    words = ("--out", tmp_path / "vit.onnx", "--pictures", root / "docs" / "images")
    with (
        pytest.raises(SystemExit, match=r"^error: --images need a whole model"),
        pytest.warns(DeprecationWarning, match="--pictures is now --images"),
    ):
        run_tool("export_onnx.py", VIT, *words)


@pytest.mark.parametrize("name", ["retinanet_transxnet_t_coco", "yolov3_xformer_s_coco"])
def test_boxes_are_those_of_mmdet(name: str, read_config) -> None:
    cfg = read_config(name)
    init_default_scope("mmdet")
    head = MODELS.build(cfg.model.bbox_head | dict(test_cfg=cfg.model.test_cfg))
    yolo = name.startswith("yolo")
    strides = head.featmap_strides if yolo else [16, 32, 64]
    if not yolo:
        head.prior_generator.base_anchors = head.prior_generator.base_anchors[1:4]
        head.prior_generator.strides = head.prior_generator.strides[1:4]
    sizes = [(128 // stride, 192 // stride) for stride in strides]
    channels = [head.num_attrib * 3] if yolo else [9 * 80, 9 * 4]
    lists = [[torch.randn(1, c, *size) for size in sizes] for c in channels]
    metas = [dict(img_shape=(128, 192))]
    # As many as there may be, and fewer.
    for threshold, counts in ((head.test_cfg.score_thr, [100]), (0.98, range(1, 100))):
        head.test_cfg.score_thr = threshold
        copies = [[y.clone() for y in one] for one in lists]
        (expected,) = head.predict_by_feat(*copies, batch_img_metas=metas)
        got = boxes_of(head, lists, (128, 192))
        assert len(expected) in counts
        assert torch.equal(got["labels"], expected.labels)
        assert (got["boxes"] - expected.bboxes).abs().max() < 1e-4
        assert (got["scores"] - expected.scores).abs().max() < 1e-6


def test_a_detector_with_its_boxes(tmp_path: Path, read_config) -> None:
    model = tiny(read_config("retinanet_transxnet_t_coco"), TransXNet, [32, 48, 64])
    export_onnx(model, tmp_path / "model.onnx", boxes=True)
    batches = [random_images(model, (1, 3, *size)) for size in ((160, 224), (96, 256))]
    rows = compare(model, tmp_path / "model.onnx", batches, boxes=True)
    assert [row.output for row in rows] == ["scores", "scores"]
    assert max(row.largest for row in rows) < 1e-3

    got = open_graph(tmp_path / "model.onnx")(batches[0].numpy())
    with torch.no_grad():
        expected = NamedOutputs(model, boxes=True)(batches[0])
    distances = torch.cdist(expected["boxes"], torch.from_numpy(got["boxes"]))
    found = (distances < 0.1) & (expected["labels"][:, None] == torch.from_numpy(got["labels"]))
    assert found.any(1).float().mean() > 0.9


class _Found(nn.Module):
    """A detector that finds objects of these scores."""

    boxes, test_cfg = True, dict(score_thr=0.0625)

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"boxes": torch.zeros(len(self.scores), 4), "scores": self.scores}


@pytest.mark.parametrize(
    ("expected", "got", "largest"),
    [((), (), 0.0), ((0.9,), (0.9, 0.0625), 0.0), ((0.5,), (), 0.4375), ((), (0.25,), 0.1875)],
)
def test_boxes_at_the_threshold(expected, got, largest, monkeypatch) -> None:
    found = {"scores": np.float32(got)}
    monkeypatch.setattr("mmhybrid.deploy.onnx_export.open_graph", lambda path: lambda x: found)
    monkeypatch.setattr("mmhybrid.deploy.onnx_export.NamedOutputs", lambda model, boxes: model)
    (row,) = compare(_Found(*expected), "model.onnx", [torch.zeros(1, 3, 8, 8)])
    assert (row.output, row.largest) == ("scores", largest)
