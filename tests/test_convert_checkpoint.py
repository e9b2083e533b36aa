"""Weights under other names, and back."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from mmhybrid.backbones import DWCaiT, DWSwinTransformer, DWVisionTransformer, TransXNet
from mmhybrid.weights import CheckpointError, read_checkpoint
from mmhybrid.weights.converting import to_authors, to_ours

TOOL = Path(__file__).resolve().parents[1] / "tools" / "convert_checkpoint.py"
DW = {
    "dw_vit_tiny": lambda: DWVisionTransformer("tiny", out_type="cls_token"),
    "dw_vit_small": lambda: DWVisionTransformer("small", out_type="cls_token"),
    "dw_cait_xxs12": lambda: DWCaiT("xxs12", out_type="cls_token"),
    "dw_cait_xxs24": lambda: DWCaiT("xxs24", out_type="cls_token"),
    "dw_swin_t": lambda: DWSwinTransformer("tiny", out_indices=(3,)),
}
ARCH = dict(depths=(1, 1, 1, 1), embed_dims=(16, 16, 32, 32), num_heads=(1, 1, 2, 2))
SMALL = dict(arch=ARCH, image_size=64)


def tensors(shapes: dict) -> dict:
    """Random tensors of these shapes and types."""
    return {
        key: torch.randn(shape)
        if dtype.endswith("float32")
        else torch.randint(0, 99, shape, dtype=torch.int64)
        for key, (shape, dtype) in shapes.items()
    }


def assert_same(a: dict, b: dict) -> None:
    assert set(a) == set(b)
    for key, value in a.items():
        assert value.dtype == b[key].dtype
        assert torch.equal(value, b[key]), key


@pytest.mark.parametrize("name", DW)
def test_authors_files_of_dw_models_come_back_as_they_were(name: str, shared: Path) -> None:
    shapes = json.loads((shared / "reference" / f"{name}_keys.json").read_text())
    theirs = tensors(shapes)
    ours = to_ours(theirs)
    model = {f"backbone.{key}": value for key, value in DW[name]().state_dict().items()}
    assert set(ours.weights) == {*model, "head.fc.weight", "head.fc.bias"}
    assert all(ours.weights[key].shape == value.shape for key, value in model.items())
    back = to_authors(ours.weights).weights
    # These are no weights: they are made of the sizes alone, and follow from no random numbers.
    buffers = [k for k in theirs if k.endswith(("relative_position_index", "attn_mask"))]
    assert set(ours.left_out) == set(buffers)
    for key in buffers:
        assert back[key].shape == theirs[key].shape
        assert back[key].dtype == theirs[key].dtype
        theirs[key] = back[key]
    assert_same(back, theirs)


@pytest.mark.parametrize("size", ["t", "s", "b"])
@pytest.mark.parametrize("kind", ["keys_cls", "keys_fork_feat"])
def test_authors_files_of_transxnet_come_back_as_they_were(size, kind, shared: Path) -> None:
    content = json.loads((shared / "reference" / f"transxnet_{size}_keys.json").read_text())
    theirs = tensors({key: (shape, dtype) for key, shape, dtype in content[kind]})
    ours = to_ours(theirs)
    assert ("head.fc.weight" in ours.weights) == (kind == "keys_cls")
    assert_same(to_authors(ours.weights).weights, theirs)


def test_the_masks_are_those_that_swin_computes() -> None:
    from mmhybrid.layers.window_attention import cut_windows

    model = DWSwinTransformer("tiny", out_indices=(3,))
    weights = to_authors(model.state_dict()).weights
    for stage, side in enumerate((56, 28, 14)):
        mask = cut_windows(side, side, 7, True, torch.device("cpu")).mask
        assert torch.equal(weights[f"layers.{stage}.blocks.1.attn_mask"], mask)
    index = weights["layers.0.blocks.0.attn.relative_position_index"].flatten()
    assert torch.equal(index, model.layers[0].blocks[0].attn.relative_position_index.flatten())
    assert "layers.3.blocks.1.attn_mask" not in weights


def test_there_is_no_way_back_for_what_no_author_published() -> None:
    with pytest.raises(CheckpointError, match="TransXNet"):
        to_authors({"stages.0.0.conv.weight": torch.zeros(1)})
    several = DWVisionTransformer("tiny", out_type="cls_token", dw_kernel_sizes=(3, 5)).state_dict()
    with pytest.raises(CheckpointError, match="one kernel a shortcut"):
        to_authors(several)


def convert(*words: object, fails: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == fails, result.stderr
    return result


@pytest.mark.process
def test_a_training_file_becomes_safetensors_that_init_cfg_reads(tmp_path: Path) -> None:
    averaged, plain = TransXNet(**SMALL).state_dict(), TransXNet(**SMALL).state_dict()
    content = {
        "meta": {"epoch": 3},
        "state_dict": {f"backbone.{k}": v for k, v in averaged.items()},
        "ema_state_dict": {f"module.backbone.{k}": v for k, v in plain.items()},
        "optimizer": {"state": torch.zeros(1000)},
        "message_hub": {},
    }
    torch.save(content, tmp_path / "epoch_3.pth")
    result = convert(tmp_path / "epoch_3.pth", tmp_path / "small.safetensors")
    assert "optimizer" in result.stdout
    assert "averaged" in result.stdout
    (written,) = tmp_path.glob("small-*.safetensors")
    digest = hashlib.sha256(written.read_bytes()).hexdigest()
    assert written.stem == f"small-{digest[:8]}"
    assert_same(safetensors.torch.load_file(written), content["state_dict"])

    model = TransXNet(**SMALL, init_cfg=dict(type="Pretrained", checkpoint=str(written)))
    model.init_weights()
    assert_same(dict(model.state_dict()), dict(averaged))


@pytest.mark.parametrize("no_ema", [False, True])
@pytest.mark.parametrize("by", ["MMEngine", "others"])
def test_it_says_which_weights_it_took(
    by: str, no_ema: bool, tmp_path: Path, run_tool: Callable, capsys: pytest.CaptureFixture
) -> None:
    averaged, trained = {"a": torch.zeros(1)}, {"a": torch.ones(1)}
    if by == "MMEngine":
        file = dict(state_dict=averaged, ema_state_dict=trained, meta={})
    else:
        file = dict(state_dict=trained, state_dict_ema=averaged)
    torch.save(file, tmp_path / "in.pth")
    options = ["--no-hash", *(["--no-ema"] if no_ema else [])]
    run_tool("convert_checkpoint.py", tmp_path / "in.pth", tmp_path / "out.pth", *options)
    assert ("these are the averaged (EMA) weights" in capsys.readouterr().out) is not no_ema
    assert read_checkpoint(tmp_path / "out.pth")["state_dict"]["a"] == no_ema


@pytest.mark.process
def test_to_the_authors_and_back_on_the_command_line(tmp_path: Path) -> None:
    weights = {
        f"backbone.{k}": v for k, v in TransXNet(**SMALL, out_indices=(3,)).state_dict().items()
    }
    weights |= {"head.fc.weight": torch.randn(5, 32), "head.fc.bias": torch.randn(5)}
    torch.save({"state_dict": weights}, tmp_path / "ours.pth")
    there = ["--to", "authors", "--no-hash"]
    result = convert(tmp_path / "ours.pth", tmp_path / "theirs.pth", *there)
    assert "backbone.norm6.weight -> classifier.0.weight" in result.stdout
    theirs = read_checkpoint(tmp_path / "theirs.pth")["state_dict"]
    assert theirs["classifier.2.weight"].shape == (5, 32, 1, 1)
    assert_same(to_ours(theirs).weights, weights)


@pytest.mark.process
def test_a_hashed_name_leaves_a_file_called_out_alone(tmp_path: Path) -> None:
    torch.save({"state_dict": TransXNet(**SMALL).state_dict()}, tmp_path / "epoch_3.pth")
    before = (tmp_path / "epoch_3.pth").read_bytes()
    convert(tmp_path / "epoch_3.pth", tmp_path / "epoch_3.pth")
    assert (tmp_path / "epoch_3.pth").read_bytes() == before
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2
    assert re.fullmatch(r"epoch_3-[0-9a-f]{8}\.pth", names[0])


@pytest.mark.process
def test_the_file_to_read_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "epoch_3.pth").write_bytes(b"weights and optimizer")
    there = [tmp_path / "." / "epoch_3.pth", "--no-hash"]
    assert "is the file to read" in convert(tmp_path / "epoch_3.pth", *there, fails=True).stderr
    assert (tmp_path / "epoch_3.pth").read_bytes() == b"weights and optimizer"
    # One that is not there is told as such, whatever OUT is.
    result = convert(tmp_path / "none.pth", *there, fails=True)
    assert result.stderr.startswith("error: there is no checkpoint")
    assert "Traceback" not in result.stderr
