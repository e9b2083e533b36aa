"""Every format of one's own data, from the folder to a prediction, with nothing but ``data``.

The models are tiny and train a few iterations: what counts is that each step goes through.
"""

import runpy
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

import mmhybrid
from mmhybrid.analysis.tables import markdown_table
from mmhybrid.engine.runner.run_config import map_values
from mmhybrid.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "detection": "retinanet_transxnet_t_coco",
    "instances": "mask_rcnn_transxnet_t_coco",
    "segmentation": "semantic_fpn_transxnet_t_ade20k",
    "classification": "transxnet_t_imagenet",
}
SIZE_KEYS = ("scale", "crop_size", "size")
COLUMNS = ("format", "task", "train", "val", "classes", "iterations", "metric", "resumed", "seconds")


def write_tiny_config(task: str, folder: Path, size: int = 64) -> Path:
    """A config of ours with the backbone that tests use and small images, written in full."""
    cfg = Config.fromfile(ROOT / "configs" / f"{CONFIGS[task]}.py")

    def scaled(key: str, value: Any) -> Any:
        return size if key in SIZE_KEYS and type(value) is int and value > size else value

    cfg._cfg_dict = map_values(cfg._cfg_dict, scaled)
    options = dict(mmhybrid.backbones.TransXNet.test_options)
    channels = list(options["arch"]["embed_dims"])
    cfg.model.backbone.update(options)
    if task == "classification":
        cfg.model.head.in_channels = channels[-1]
    else:
        had = cfg.model.neck.in_channels
        cfg.model.neck.in_channels = channels[-len(had) :]
    if task == "instances":
        cfg.model.test_cfg.rpn.max_per_img = cfg.model.train_cfg.rpn_proposal.max_per_img = 20
        cfg.model.train_cfg.rcnn.sampler.num = cfg.model.test_cfg.rcnn.max_per_img = 8
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tiny_{task}.py"
    cfg.dump(path)
    return path


def journey(data: Path, config: Path, work_dir: Path, iterations: int = 10) -> dict[str, Any]:
    """Trains half, resumes, evaluates and predicts; returns a row of the table."""
    begin, by = time.monotonic(), {"recipe.iterations": iterations}
    options = dict(weights="none", work_dir=work_dir)
    by_epoch = "max_epochs" in Config.fromfile(config).train_cfg
    half = {"train_cfg.max_epochs": 1} if by_epoch else {"train_cfg.max_iters": iterations // 2}
    mmhybrid.train(data, str(config), **options, options=by | half)
    model = mmhybrid.train(data, str(config), **options, options=by, resume=True)
    known = model.metrics
    name = next(one for one in known if one.endswith(("bbox_mAP", "mIoU", "accuracy/top1")))
    cfg = Config.fromfile(model.config)
    images = sorted(path for path in data.rglob("*.jpg"))
    found = model.predict(images[0]) if images else None
    return dict(metric=f"{name} {known[name]:.3f}", cfg=cfg, found=found, seconds=time.monotonic() - begin)
