"""mmdet's own config and mmdet's own train.py, with our backbone in three lines."""

from pathlib import Path

import pytest

import mmhybrid  # noqa: F401  (mmdet needs what it supplies)

import mmdet.datasets  # isort: skip
import numpy as np

from mmhybrid.datasets.synthetic import coco

pytestmark = [pytest.mark.process, pytest.mark.train]
MMDET = Path(mmdet.__file__).parent / ".mim"

CONFIG = """
_base_ = {base!r}

custom_imports = dict(imports=["mmhybrid"])
backbone = dict(_delete_=True, type="TransXNet", arch="tiny")
model = dict(backbone=backbone, neck=dict(in_channels=[48, 96, 224, 448]))
"""


def test_three_lines_change_the_backbone(tmp_path: Path, run_python) -> None:
    rng = np.random.default_rng(0)
    classes = mmdet.datasets.CocoDataset.METAINFO["classes"]
    for split in ("train2017", "val2017"):
        annotations = f"annotations/instances_{split}.json"
        dataset = dict(ann_file=annotations, data_prefix=dict(img=f"{split}/"))
        coco.draw(dataset, classes, tmp_path / "data", 2, rng)
    base = MMDET / "configs" / "mask_rcnn" / "mask-rcnn_r50_fpn_1x_coco.py"
    (tmp_path / "config.py").write_text(CONFIG.format(base=str(base)))
    data = f"{tmp_path}/data/"
    options = [
        "train_cfg.max_epochs=1",
        f"val_evaluator.ann_file={data}annotations/instances_val2017.json",
        "env_cfg.dist_cfg.backend=gloo",
    ]
    for part, resize in (("train", 2), ("val", 1)):  # where the pipelines of mmdet's config resize
        loader = f"{part}_dataloader"
        options += [f"{loader}.num_workers=0", f"{loader}.persistent_workers=False"]
        options += [f"{loader}.dataset.data_root={data}"]
        options += [f"{loader}.dataset.pipeline.{resize}.scale=(128,96)"]
    out = run_python(MMDET / "tools" / "train.py", "config.py", "--cfg-options", *options)
    assert (tmp_path / "work_dirs" / "config" / "epoch_1.pth").is_file()
    # A model of a few steps may be sure of no box, and then there is no metric.
    assert "Epoch(val) [1]" in out
