"""A sample of the configs in the wheels of mmdet, mmseg and mmpretrain passes the check of configs.

``tests/config_sweep.py`` takes them all.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmhybrid.engine.runner.run_config import load_config

sweep = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "config_sweep.py")))

# One of each way to write a model: heads in lists and in heads, masks of one class, wrapped models,
# types that are functools.partial, two necks, necks of one level, several data sets, ...
SAMPLE = {
    "mmdet": [
        "mask-rcnn_r50_fpn_1x_coco.py",
        "cascade-mask-rcnn_r50_fpn_1x_coco.py",
        "yolof_r50-c5_8xb8-1x_coco.py",
        "atss_r50_fpn_dyhead_1x_coco.py",
        "soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py",
        "panoptic-fpn_r50_fpn_1x_coco.py",
        "mask2former_r50_8xb2-lsj-50e_coco.py",
        "faster-rcnn_r50_fpn_1x_voc0712.py",
        "yolox_s_8xb8-300e_coco.py",
    ],
    "mmseg": [
        "stdc1_4xb12-80k_cityscapes-512x1024.py",
        "san-vit-b16_coco-stuff164k-640x640.py",
        "knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py",
        "maskformer_r50-d32_8xb2-160k_ade20k-512x512.py",
        "ocrnet_hr18s_4xb2-40k_cityscapes-512x1024.py",
        "unet-s5-d16_fcn_4xb4-40k_drive-64x64.py",
    ],
    "mmpretrain": [
        "resnet50_8xb32_in1k.py",
        "resnet50_8xb16_cifar10.py",
        "vit-base-p16_64xb64_in1k.py",
        "deit3-small-p16_64xb64_in1k.py",
    ],
}
PATHS = [
    path for package in SAMPLE for path in sweep.paths_of(package) if path.name in SAMPLE[package]
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_stock_config_passes(path: Path) -> None:
    cfg = load_config(str(path))
    assert sweep.check(cfg, with_ours=False) == "right"
    assert sweep.check(cfg, with_ours=True) in ("right", "no place")


def test_sample_is_there() -> None:
    assert len(PATHS) == sum(map(len, SAMPLE.values()))


@pytest.mark.parametrize("name", sweep.WRONG)
def test_stock_config_that_cannot_run_is_refused_in_a_sentence(name: str) -> None:
    path = next(path for one in SAMPLE for path in sweep.paths_of(one) if path.name == name)
    told = sweep.check(load_config(str(path)), with_ours=False)
    assert told.startswith(("refused: ", "warned of: "))
    assert sweep.WRONG[name] in told
