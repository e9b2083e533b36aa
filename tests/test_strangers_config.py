"""mmdet's own config and mmdet's own train.py, with our backbone in three lines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmhybrid  # noqa: F401  (mmdet needs what it supplies)

import mmdet.datasets  # isort: skip
import numpy as np

from mmhybrid.datasets.synthetic import coco

pytestmark = [pytest.mark.process, pytest.mark.train]
ROOT = Path(__file__).resolve().parents[1]
MMDET = Path(mmdet.__file__).parent / ".mim"

CONFIG = """
_base_ = {base!r}

custom_imports = dict(imports=["mmhybrid"])
backbone = dict(_delete_=True, type="TransXNet", arch="tiny")
model = dict(backbone=backbone, neck=dict(in_channels=[48, 96, 224, 448]))
"""


def draw(folder: Path) -> None:
    rng = np.random.default_rng(0)
    classes = mmdet.datasets.CocoDataset.METAINFO["classes"]
    for split in ("train2017", "val2017"):
        dataset = dict(
            ann_file=f"annotations/instances_{split}.json", data_prefix=dict(img=f"{split}/")
        )
        coco.draw(dataset, classes, folder, 2, rng)


def test_three_lines_change_the_backbone(tmp_path: Path) -> None:
    draw(tmp_path / "data")
    base = MMDET / "configs" / "mask_rcnn" / "mask-rcnn_r50_fpn_1x_coco.py"
    (tmp_path / "config.py").write_text(CONFIG.format(base=str(base)))
    options = [
        "train_cfg.max_epochs=1",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
        "val_dataloader.num_workers=0",
        "val_dataloader.persistent_workers=False",
        f"val_evaluator.ann_file={tmp_path}/data/annotations/instances_val2017.json",
        *(f"{part}_dataloader.dataset.data_root={tmp_path}/data/" for part in ("train", "val")),
        *(f"{part}_dataloader.dataset.pipeline.{at}.scale=(128,96)" for part, at in _RESIZES),
        "env_cfg.dist_cfg.backend=gloo",
    ]
    result = subprocess.run(
        [sys.executable, str(MMDET / "tools" / "train.py"), "config.py", "--cfg-options", *options],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert (tmp_path / "work_dirs" / "config" / "epoch_1.pth").is_file()
    # A model of a few steps may be sure of no box, and then there is no metric.
    assert "Epoch(val) [1]" in result.stdout + result.stderr


# Where the pipelines of mmdet's config resize.
_RESIZES = (("train", 2), ("val", 1))
