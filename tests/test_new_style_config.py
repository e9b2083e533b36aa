"""mmdet's own Mask R-CNN in MMEngine's pure Python style: types are classes, and no default scope.

mmdet's wheel has its configs in the text style alone, so the test writes one in the new style.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

import mmhybrid  # noqa: F401  (MMEngine reads 'mmdet::...' through it)

import mmdet.registry  # isort: skip
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import Registry

from mmhybrid.apis.models import DETECTOR_SIZE, model_of, size_of
from mmhybrid.backbones import TransXNet
from mmhybrid.datasets.check_data import check
from mmhybrid.datasets.data_paths import check_data
from mmhybrid.engine.runner.prepare_config import prepare_config, with_mixed_precision
from mmhybrid.engine.runner.run_config import load_config
from mmhybrid.errors import UserError

SCOPED = [one for one in vars(mmdet.registry).values() if isinstance(one, Registry)]
REGISTRIES = [one for one in SCOPED if one.scope == "mmdet"]


def in_new_style(cfg: Config) -> str:
    """The text of a config in the pure Python style."""
    imports = set()

    def text(node: Any) -> str:
        if isinstance(node, list | tuple):
            return f"[{', '.join(map(text, node))}]"
        if not isinstance(node, dict):
            return repr(node)
        items = [f"{key!r}: {text(value)}" for key, value in node.items() if key != "type"]
        name = node.get("type")
        found = next(filter(None, (one.get(name) for one in REGISTRIES if name)), None)
        if found is not None:
            imports.add(f"from {found.__module__} import {found.__name__}")
        if name:
            items.append(f"'type': {found.__name__ if found else repr(name)}")
        return f"{{{', '.join(items)}}}"

    body = [f"{key} = {text(value)}" for key, value in cfg.items() if key != "default_scope"]
    return "\n".join([*sorted(imports), *body]) + "\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new_style")
    (folder / "old.py").write_text("_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'\n")
    cfg = Config.fromfile(folder / "old.py")
    cfg.model.backbone = dict(type="TransXNet", arch=dict(depths=(1, 1, 1, 1)))
    cfg.model.neck.in_channels = [48, 96, 224, 448]
    (folder / "base.py").write_text(in_new_style(cfg))
    (folder / "mask_rcnn.py").write_text(
        "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n"
    )
    return folder / "mask_rcnn.py"


def test_builds_and_is_counted(path: Path) -> None:
    cfg = load_config(str(path))
    assert not isinstance(cfg.model.type, str)
    assert cfg.default_scope == "mmdet"
    assert size_of(cfg) == DETECTOR_SIZE
    with torch.device("meta"):
        assert isinstance(model_of(cfg).backbone, TransXNet)


def test_quick_run_is_prepared(path: Path, tmp_path: Path) -> None:
    args = Namespace(config=str(path), work_dir=str(tmp_path), launcher="none", quick=True)
    args.cfg_options = {"quick.train_images": 4, "quick.val_images": 2}
    args.data = args.weights = args.data_root = args.no_validate = args.amp = args.auto_scale_lr = (
        args.resume
    ) = None
    cfg = prepare_config(args)
    assert "mmdet.datasets.coco.CocoDataset" in cfg.pretty_text  # the log shows it
    assert cfg.train_cfg.type == "mmhybrid.ResumableEpochBasedTrainLoop"
    assert cfg.default_hooks.checkpoint.type == "mmhybrid.DurableCheckpointHook"
    batches = cfg.train_dataloader.batch_sampler
    assert batches.type == "mmhybrid.ResumableBatchSampler"
    assert batches.batch_sampler.type.__name__ == "AspectRatioBatchSampler"
    found = [(one.code, one.message.split(":")[0]) for one in check(cfg)]
    # Two images do not show all four shapes.
    rare = ("class-without-image", "val")
    assert sorted(found) == [("class-count", "train"), ("class-count", "val"), rare]


def test_what_is_wrong_is_told(path: Path) -> None:
    cfg = load_config(str(path))
    with pytest.raises(UserError, match=r"the data set is missing(.|\n)*COCO 2017"):
        check_data(cfg, ("train_dataloader",))
    for key, value, told in (
        ("in_channels", [1, 2, 3, 4], r"model.neck: in_channels=\[1, 2, 3, 4\]"),
        ("out_channel", 8, "FPN has no argument 'out_channel'; did you mean"),
    ):
        with pytest.raises(UserError, match=told):
            model_of(load_config(str(path), {f"model.neck.{key}": value}))
    assert with_mixed_precision(cfg, "bfloat16").optim_wrapper.type == "AmpOptimWrapper"


def test_part_of_another_package_by_its_scope(read_config) -> None:
    """``_scope_`` is MMEngine's other way to write ``type='mmpretrain.ConvNeXt'``."""
    cfg = read_config("mask_rcnn_transxnet_t_coco")
    backbone = dict(type="ConvNeXt", arch="atto", out_indices=(0, 1, 2, 3), _scope_="mmpretrain")
    cfg.model.backbone = dict(backbone, gap_before_final_norm=False)
    cfg.model.neck.in_channels = [40, 80, 160, 320]
    assert type(model_of(cfg).backbone).__name__ == "ConvNeXt"
    cfg.model.backbone.archi = "atto"
    with pytest.raises(UserError, match="ConvNeXt has no argument 'archi'"):
        model_of(cfg)
