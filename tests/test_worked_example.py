"""The backbone of docs/adding_a_backbone.md keeps its promises and trains under Mask R-CNN."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "examples" / "mask_rcnn_inception_next_t_coco.py"
SMALL = dict(dims=(16, 32, 48, 64), depths=(2, 1, 1, 1))


@pytest.fixture(scope="module")
def inception_next() -> type:
    """The class, as the config's custom_imports finds it."""
    module = importlib.import_module("examples.inception_next")
    return module.InceptionNeXt


def test_has_the_size_of_the_paper(inception_next: type) -> None:
    with torch.device("meta"):
        model = inception_next()
    # 28 M in the paper, of which an MLP of 768, 2304 and 1000 units is the classifier.
    head = 768 * 2304 + 2304 + 2 * 2304 + 2304 * 1000 + 1000
    parameters = sum(p.numel() for p in model.parameters())
    assert round((parameters + head) / 1e6) == 28


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 2), (-1,)])
def test_any_outputs_and_sizes(inception_next: type, out_indices: tuple[int, ...]) -> None:
    model = inception_next(**SMALL, out_indices=out_indices, drop_path_rate=0.1)
    outputs = model(torch.randn(2, 3, 61, 83))
    assert tuple(y.shape[1] for y in outputs) == model.feature_channels
    sum(y.square().mean() for y in outputs).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_recomputing_changes_nothing(inception_next: type) -> None:
    plain, recomputing = (inception_next(**SMALL, with_cp=on).train() for on in (False, True))
    recomputing.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, recomputing):
        sum(y.square().mean() for y in model(x)).backward()
    for a, b in zip(plain.parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(plain.buffers(), recomputing.buffers(), strict=True):
        assert torch.equal(a, b)


def test_freezes_and_knows_its_depths(inception_next: type) -> None:
    model = inception_next(**SMALL, frozen_stages=1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in trained} == {"1", "2", "3"}
    depths = [model.get_layer_depth(f"backbone.{name}", "backbone.") for name in model.state_dict()]
    # 5 blocks and 3 steps down between the stem and the heads.
    assert {depth for depth, _ in depths} == set(range(9))
    assert {number for _, number in depths} == {10}
    assert model.get_layer_depth("neck.weight", "backbone.") == (9, 10)


@pytest.mark.process
@pytest.mark.train
def test_trains_under_mask_rcnn(tmp_path: Path) -> None:
    options = [
        *("quick.iterations=3", "quick.batch_size=2"),
        *("quick.train_images=6", "quick.val_images=2"),
        *("model.backbone.dims=[16,32,48,64]", "model.backbone.depths=[1,1,1,1]"),
        *("model.neck.in_channels=[16,32,48,64]",),
    ]
    command = [sys.executable, ROOT / "tools" / "train.py", CONFIG, "--quick", "--cfg-options"]
    done = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Layer-wise decay of 0.95 over 8 layers" in done.stdout
    folder = tmp_path / "work_dirs" / "mask_rcnn_inception_next_t_coco_quick"
    losses = [one["loss"] for one in json.loads((folder / "metrics.json").read_text())["losses"]]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    weights = torch.load(folder / "epoch_1.pth", weights_only=False)["state_dict"]
    assert "backbone.stages.3.1.0.wide.weight" in weights
