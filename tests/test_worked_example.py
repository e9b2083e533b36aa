"""The backbone of docs/adding_a_backbone.md is one file and one config; all else follows."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from examples.inception_next import InceptionNeXt
from mmhybrid.analysis.counting import count
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import backbone_classes
from mmhybrid.deploy import fuse
from mmhybrid.weights import load_checkpoint, read_checkpoint
from mmhybrid.weights.converting import to_authors, to_ours

ROOT = Path(__file__).resolve().parents[1]
ARCH = dict(embed_dims=(16, 32, 48, 64), depths=(2, 1, 1, 1))
MEASURED = ["benchmark.json", "benchmark.md"]


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """timm's model of the same size."""
    timm = pytest.importorskip("timm")
    options = dict(dims=ARCH["embed_dims"], depths=ARCH["depths"])
    return random_init(timm.create_model("inception_next_tiny", **options)).eval().double()


@pytest.fixture(scope="module")
def checkpoint(theirs: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timm") / "inception_next.pth"
    torch.save(dict(state_dict=theirs.state_dict()), path)
    return path


def test_has_the_size_of_the_paper() -> None:
    assert InceptionNeXt in backbone_classes()
    with torch.device("meta"):
        parameters = count(InceptionNeXt(), (224, 224)).parameters
    # 28 M in the paper, of which an MLP of 768, 2304 and 1000 units is the classifier.
    head = 768 * 2304 + 2304 + 2 * 2304 + 2304 * 1000 + 1000
    assert round((parameters + head) / 1e6) == 28


@torch.no_grad()
def test_computes_what_timm_does_fused_too(theirs, checkpoint) -> None:
    ours = InceptionNeXt(ARCH).eval().double()
    report = load_checkpoint(ours, checkpoint)
    assert report.missing_keys == []
    assert {name.partition(".")[0] for name in report.unexpected_keys} == {"head"}
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected = theirs.forward_features(x)
    torch.testing.assert_close(ours(x)[-1], expected, rtol=1e-12, atol=1e-12)
    fused = fuse(ours)
    assert not any(type(m).__name__ in ("BatchNorm2d", "LayerScale") for m in fused.modules())
    torch.testing.assert_close(fused(x)[-1], expected, rtol=1e-10, atol=1e-10)


def test_converts_to_our_names_and_back(checkpoint: Path) -> None:
    theirs = read_checkpoint(checkpoint)["state_dict"]
    theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith("head.")}
    ours = to_ours(theirs).weights
    assert set(ours) == set(InceptionNeXt(ARCH).state_dict())
    back = to_authors(ours)
    assert back.family == "InceptionNeXt"
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in theirs.items())


@pytest.mark.onnx
@pytest.mark.process  # memory is measured in another
@pytest.mark.parametrize(
    ("tool", "options", "files"),
    [
        ("export_onnx", "--out model.onnx", ["model.onnx"]),
        ("visualize", "--out page.png", ["page.png"]),
        ("benchmark", "--size 64x64 --mode eager fused --repeats 3 --out .", MEASURED),
    ],
)
def test_every_tool_takes_it(
    checkpoint: Path, tmp_path: Path, monkeypatch, run_tool, tool, options, files
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = [] if tool == "benchmark" else [checkpoint]
    run_tool(f"{tool}.py", f"InceptionNeXt({ARCH})", *weights, *options.split())
    assert all((tmp_path / name).stat().st_size > 0 for name in files)


@pytest.mark.process
@pytest.mark.train
def test_trains_under_mask_rcnn(tmp_path: Path, run_python) -> None:
    options = [
        *("quick.iterations=3", "quick.batch_size=2"),
        *("quick.train_images=6", "quick.val_images=2"),
        *("model.backbone.arch.embed_dims=[16,32,48,64]", "model.backbone.arch.depths=[1,1,1,1]"),
        *("model.neck.in_channels=[16,32,48,64]",),
    ]
    config = ROOT / "examples" / "mask_rcnn_inception_next_t_coco.py"
    out = run_python(ROOT / "tools" / "train.py", config, "--quick", "--cfg-options", *options)
    assert "Layer-wise decay of 0.95 over 5 layers" in out
    folder = tmp_path / "work_dirs" / f"{config.stem}_quick"
    losses = [one["loss"] for one in json.loads((folder / "metrics.json").read_text())["losses"]]
    assert losses
    assert torch.tensor(losses).isfinite().all()
    weights = read_checkpoint(folder / "epoch_1.pth")["state_dict"]
    assert "backbone.stages.3.0.mixer.wide.weight" in weights
