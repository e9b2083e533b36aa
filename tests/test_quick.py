"""What ``--quick`` makes of a config, without running it."""

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmhybrid.engine.quick import make_quick

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def test_an_epoch_sees_each_picture_once(tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / "yolov3_xformer_s_coco.py")
    assert cfg.train_dataloader.dataset.type == "RepeatDataset"
    cfg.work_dir = str(tmp_path)
    cfg.quick = dict(iterations=6, batch_size=2, train_pictures=4, val_pictures=2)
    make_quick(cfg)
    init_default_scope(cfg.default_scope)
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 4
    assert cfg.train_cfg.max_epochs == 3


def test_no_weights_are_fetched_even_for_a_wrapped_backbone(tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / "mask_rcnn_swin_t_with_dw_shortcut_coco.py")
    assert cfg.model.backbone.backbone.init_cfg
    cfg.work_dir = str(tmp_path)
    cfg.quick = dict(train_pictures=2, val_pictures=1)
    make_quick(cfg)
    assert cfg.model.backbone.backbone.init_cfg is None
