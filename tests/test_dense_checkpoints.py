"""The nine detectors and segmentors of TransXNet's authors, files of mmdet 2.28 and mmseg 0.30."""

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmhybrid import load_checkpoint
from mmhybrid.backbones import TransXNet
from mmhybrid.engine.runner.run_config import load_config
from mmhybrid.weights import load_weights

ROOT = Path(__file__).resolve().parents[1]
DATA = {"retinanet": "coco", "mask_rcnn": "coco", "semantic_fpn": "ade20k"}
# Parameters of the authors' models, by size.
PARAMETERS = {
    "retinanet": dict(t=22_439_812, s=36_601_936, b=58_006_790),
    "mask_rcnn": dict(t=32_500_704, s=46_519_500, b=67_558_810),
    "semantic_fpn": dict(t=16_599_942, s=30_618_738, b=51_658_048),
}
NINE = [(method, size) for method, sizes in PARAMETERS.items() for size in sizes]


def config_name(method: str, size: str = "t") -> str:
    return f"{method}_transxnet_{size}_{DATA[method]}"


def tiny_config(method: str, folder: Path, more: str = "") -> Path:
    """A user's config: ours, with the class's backbone for tests."""
    options = {
        key: dict(value) if key == "arch" else value
        for key, value in TransXNet.test_options.items()
    }
    channels = list(options["arch"]["embed_dims"])
    if method == "retinanet":
        options["out_indices"], channels = (1, 2, 3), channels[1:]
    options["arch"]["_delete_"], options["init_cfg"] = True, None
    path = folder / f"{method}_tiny.py"
    path.write_text(
        f"_base_ = [{str(ROOT / 'configs' / config_name(method))!r} + '.py']\n"
        f"model = dict(backbone=dict({', '.join(f'{k}={v!r}' for k, v in options.items())}),"
        f" neck=dict(in_channels={channels}))\n" + more
    )
    return path


@pytest.mark.parametrize(("method", "size"), NINE)
@pytest.mark.full_size
def test_models_have_the_names_shapes_and_types_of_the_files(
    method: str, size: str, dense_shapes, read_config
) -> None:
    cfg = read_config(config_name(method, size))
    init_default_scope(cfg.default_scope)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    ours = {key: (list(value.shape), value.dtype) for key, value in model.state_dict().items()}
    assert ours == dense_shapes(method, size)
    assert sum(one.numel() for one in model.parameters()) == PARAMETERS[method][size]


@pytest.fixture(scope="module")
def tiny(dense_checkpoint, tmp_path_factory: pytest.TempPathFactory):
    """By method, a small config and a file that fits it; made when asked for."""
    folder, made = tmp_path_factory.mktemp("tiny"), {}

    def make(method: str) -> tuple[Path, Path, dict[str, Any]]:
        if method not in made:
            file = dense_checkpoint(method, "tiny")
            torch.save(file, folder / f"{method}.pth")
            made[method] = tiny_config(method, folder), folder / f"{method}.pth", file
        return made[method]

    return make


def built(cfg: Config) -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def by_load_checkpoint(cfg: Config, path: Path, folder: Path) -> torch.nn.Module:
    model = built(cfg)
    report = load_checkpoint(model, path, logger="silent")
    assert sorted(report.loaded) == sorted(model.state_dict())
    assert not report.missing_keys + report.unexpected_keys + report.adapted
    assert not report.mismatched
    assert not report.renamed
    return model


def by_init_cfg(cfg: Config, path: Path, folder: Path) -> torch.nn.Module:
    cfg.model.init_cfg = dict(type="Pretrained", checkpoint=str(path))
    model = built(cfg)
    model.init_weights()
    return model


def by_load_from(cfg: Config, path: Path, folder: Path) -> torch.nn.Module:
    runner = Runner(built(cfg), str(folder), load_from=str(path), experiment_name=folder.name)
    runner.load_or_resume()
    return runner.model


@pytest.mark.parametrize("way", [by_load_checkpoint, by_init_cfg, by_load_from])
@pytest.mark.parametrize("method", PARAMETERS)
def test_a_file_loads_whole(way, method: str, tiny, tmp_path, safe_checkpoints, caplog) -> None:
    config, path, file = tiny(method)
    state = way(load_config(str(config)), path, tmp_path).state_dict()
    assert state.keys() == file["state_dict"].keys()
    for key, value in file["state_dict"].items():
        assert torch.equal(state[key], value), key
