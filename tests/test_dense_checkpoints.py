"""The nine detectors and segmentors of TransXNet's authors, files of mmdet 2.28 and mmseg 0.30."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmhybrid import load_checkpoint
from mmhybrid.backbones import TransXNet
from mmhybrid.engine.runner.run_config import load_config

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


@pytest.mark.parametrize(
    "entry",
    [e for e in TransXNet.pretrained if e.config and ".in1k" not in e.name],
    ids=lambda e: e.name,
)
def test_the_catalogue_names_the_config_that_a_file_fits(entry, read_config) -> None:
    backbone = read_config(entry.config).model.backbone
    assert backbone.arch == entry.options["arch"]
    levels = entry.options.get("out_indices", (0, 1, 2, 3))
    assert tuple(backbone.out_indices) == levels


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


@pytest.mark.parametrize(
    ("method", "way"),
    [
        *((method, by_load_checkpoint) for method in PARAMETERS),
        ("retinanet", by_init_cfg),
        ("mask_rcnn", by_load_from),
        ("semantic_fpn", by_load_from),
    ],
)
def test_a_file_loads_whole(method: str, way, tiny, tmp_path, safe_checkpoints) -> None:
    config, path, file = tiny(method)
    state = way(load_config(str(config)), path, tmp_path).state_dict()
    assert state.keys() == file["state_dict"].keys()
    for key, value in file["state_dict"].items():
        assert torch.equal(state[key], value), key


# A user's own classes, and the file's where the config says nothing of them.
NAMES = {"retinanet": 80, "semantic_fpn": 150}


@pytest.mark.parametrize("method", NAMES)
def test_predicting_takes_the_classes_of_the_file(method: str, tiny, run_tool, tmp_path) -> None:
    config, _, file = tiny(method)
    names = tuple(f"thing {index}" for index in range(NAMES[method]))
    torch.save(file | dict(meta=file["meta"] | dict(CLASSES=names)), tmp_path / "own.pth")
    cv2.imwrite(str(tmp_path / "one.png"), np.full((64, 96, 3), 80, np.uint8))
    options = ["--out-dir", tmp_path / "out", "--device", "cpu", "--no-save-vis"]
    scale = "test_dataloader.dataset.pipeline.1.scale=(96,64)"
    words = [config, tmp_path / "own.pth", tmp_path / "one.png", *options, "--cfg-options", scale]
    run_tool("predict.py", *words)
    if method == "retinanet":
        found = json.loads((tmp_path / "out" / "predictions.json").read_text())
        assert [one["name"] for one in found["categories"]] == list(names)
        assert found["annotations"]
    else:
        assert (tmp_path / "out" / "labels" / "one.png").exists()


@pytest.mark.full_size
def test_testing_by_address_on_real_images(
    shared, dense_checkpoint, run_tool, monkeypatch, tmp_path
) -> None:
    """All but the download: the file lies where it would have come to lie."""
    entry = next(e for e in TransXNet.pretrained if e.name == "mask_rcnn_transxnet_tiny.coco")
    address = f"mmhybrid://{entry.name}"
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    file = dense_checkpoint("mask_rcnn", "t")
    torch.save(file, folder / Path(entry.url).name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    models, test = [], Runner.test

    def remembering(runner: Runner) -> dict[str, float]:
        models.append(runner.model)
        return test(runner)

    monkeypatch.setattr(Runner, "test", remembering)
    options = ["--data-root", shared / "data" / "coco_sample", "--work-dir", tmp_path / "work"]
    options += ["--out", tmp_path / "metrics.json", "--out-item", "metrics", "--cfg-options"]
    options += ["test_dataloader.dataset.pipeline.1.scale=(160,96)"]
    options += ["test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"]
    run_tool("test.py", ROOT / "configs" / f"{entry.config}.py", address, *options)
    assert {"coco/bbox_mAP", "coco/segm_mAP"} < json.loads(
        (tmp_path / "metrics.json").read_text()
    ).keys()
    state = models[0].state_dict()
    assert state.keys() == file["state_dict"].keys()
    assert all(torch.equal(state[key], value) for key, value in file["state_dict"].items())


FINE_TUNING = """
size = (96, 64)
classes = dict(classes=("person", "car"))
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    metainfo=classes, pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
        dict(type="Resize", scale=size, keep_ratio=True),
        dict(type="PackDetInputs")]))
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=ITERATIONS)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1), checkpoint=None)
randomness = dict(seed=0)
model["train_cfg"] = dict(rcnn=dict(sampler=dict(num=16)))
model["roi_head"] = dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=2))
"""
CLASS_LAYERS = [
    f"roi_head.{x}" for x in ("bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits")
]


def imagenet_weights(dense: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the authors' classifier would have saved."""
    weights = {k.removeprefix("backbone."): v for k, v in dense.items() if k.startswith("backbone")}
    last = weights["norm6.weight"]
    norms = [key for key in weights if key.startswith("norm")]
    classifier = {"0.weight": last, "0.bias": last, "2.bias": torch.zeros(1000)}
    classifier["2.weight"] = torch.zeros(1000, len(last), 1, 1)
    weights = {key: value for key, value in weights.items() if key not in norms}
    return weights | {f"classifier.{key}": value for key, value in classifier.items()}


@pytest.mark.process
@pytest.mark.train
@pytest.mark.parametrize("start", ["dense", "imagenet"])
def test_fine_tuning_on_two_classes(start, shared, dense_checkpoint, run_python, tmp_path) -> None:
    size, iterations = "tiny", 2
    dense = dense_checkpoint("mask_rcnn", size)
    path = tmp_path / f"{start}.pth"
    torch.save(dense if start == "dense" else imagenet_weights(dense["state_dict"]), path)
    more = FINE_TUNING.replace("ITERATIONS", str(iterations))
    if start == "dense":
        more += f"load_from = {str(path)!r}\n"
        total, new, named = len(dense["state_dict"]), 6, CLASS_LAYERS
    else:
        more += (
            f'model["backbone"]["init_cfg"] = dict(type="Pretrained", checkpoint={str(path)!r})\n'
        )
        total = sum(key.startswith("backbone.") for key in dense["state_dict"])
        new, named = 8, ["norm0", "norm2"]  # the output norms
    config = tiny_config("mask_rcnn", tmp_path, more)
    words = [ROOT / "tools" / "train.py", config, "--no-validate", "--verbose", "--data-root"]
    output = run_python(*words, shared / "data" / "coco_sample")
    report = output.partition(f"loaded {total - new} of {total} tensors")[2]
    assert str(path) in report.partition("\n")[0]
    assert all(name in report for name in named)
    losses = [float(one) for one in re.findall(r"\(train\).* loss: (\S+)", output)]
    assert len(losses) == iterations
    assert np.isfinite(losses).all()
