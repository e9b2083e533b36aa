"""What ``--quick`` makes of a config, without running it."""

import json
from argparse import Namespace
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, PARAM_SCHEDULERS, init_default_scope

from mmhybrid.datasets.data_paths import check_data, with_data_root
from mmhybrid.engine.runner import prepare_config as prepare
from mmhybrid.engine.runner.quick import make_quick, settings_of
from mmhybrid.engine.runner.recipe import with_recipe
from mmhybrid.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def test_an_epoch_sees_each_image_once(read_config, tmp_path: Path) -> None:
    cfg = read_config("yolov3_xformer_s_coco")
    assert cfg.train_dataloader.dataset.type == "RepeatDataset"
    cfg.work_dir = str(tmp_path)
    cfg.quick = dict(iterations=6, batch_size=2, train_images=4, val_images=2)
    cfg = make_quick(cfg)
    init_default_scope(cfg.default_scope)
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 4
    assert cfg.optim_wrapper.optimizer == dict(type="AdamW", lr=5e-4, weight_decay=0.05)
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert cfg.train_cfg.max_epochs == 3


@pytest.mark.parametrize(("batch_size", "epochs"), [(1, 3), (2, 6)])
def test_the_schedule_counts_the_images_of_all_processes(
    batch_size: int, epochs: int, read_config, tmp_path: Path, monkeypatch
) -> None:
    cfg = read_config("retinanet_transxnet_t_coco")
    cfg.update(work_dir=str(tmp_path), launcher="pytorch")
    cfg.quick = dict(iterations=6, batch_size=batch_size, train_images=4, val_images=1)
    connected: list[Config] = []
    monkeypatch.setattr("mmhybrid.engine.runner.quick.connect_processes", connected.append)
    monkeypatch.setattr(
        "mmhybrid.engine.runner.quick.get_world_size", lambda: 2 if connected else 1
    )
    cfg = make_quick(cfg)
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.param_scheduler[-1].end == 6


def test_averages_get_a_momentum_that_fits_but_plain_means_get_none(read_config, tmp_path) -> None:
    cfg = read_config("retinanet_transxnet_t_coco")
    swa = dict(type="EMAHook", ema_type="StochasticWeightAverage")
    late = dict(begin_iter=5000, begin_epoch=9, interval=7330)  # later than the run ends
    cfg.custom_hooks = [dict(type="EMAHook", **late), dict(swa, **late)]
    cfg.work_dir = str(tmp_path)
    cfg.quick = dict(iterations=100, train_images=2, val_images=1)
    first, second = make_quick(cfg).custom_hooks
    assert first == dict(type="EMAHook", momentum=0.1)
    assert second == swa


def test_own_data_that_are_not_read_are_named(read_config, tmp_path, monkeypatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        "mmhybrid.engine.runner.quick.print_log", lambda text, **options: told.append(text)
    )
    cfg = read_config("retinanet_transxnet_t_coco")
    cfg.work_dir = str(tmp_path / "run")
    cfg.quick = dict(train_images=2, val_images=1)
    make_quick(cfg)
    assert not told
    (tmp_path / "mine").mkdir()
    cfg.train_dataloader.dataset.data_root = str(tmp_path / "mine")
    make_quick(cfg)
    assert f"not on {tmp_path / 'mine'}, which the config names" in told[0]
    assert f"--data-root {tmp_path / 'mine'}" in told[0]


def test_no_weights_are_fetched_even_for_a_wrapped_backbone(read_config, tmp_path) -> None:
    cfg = read_config("mask_rcnn_swin_t_with_dw_shortcut_coco")
    assert cfg.model.backbone.backbone.init_cfg
    cfg.work_dir = str(tmp_path)
    cfg.quick = dict(train_images=2, val_images=1)
    cfg = make_quick(cfg)
    assert cfg.model.backbone.backbone.init_cfg is None


def test_images_of_all_classes_are_taken_from_real_data(read_config, tmp_path) -> None:
    for number in range(30):
        for split in ("train", "val"):
            path = tmp_path / "data" / split / f"class_{number // 10}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    cfg = read_config("dmformer_s_imagenet")
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        dataset = cfg[loader].dataset
        dataset.update(type="CustomDataset", data_prefix=dataset.pop("split"))
    cfg.work_dir = str(tmp_path)
    cfg.quick = dict(iterations=6, batch_size=2, train_images=6, val_images=2)
    cfg = make_quick(cfg, str(tmp_path / "data"))
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    labels = [dataset.get_data_info(index)["gt_label"] for index in range(len(dataset))]
    assert labels == [0, 0, 1, 1, 2, 2]


def test_data_without_the_classes_of_the_config_are_told(read_config, tmp_path: Path) -> None:
    cfg = read_config("retinanet_transxnet_t_coco")
    (tmp_path / "annotations").mkdir()
    image = dict(id=1, file_name="a.jpg", width=64, height=64)
    box = dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 9, 9], area=81, iscrowd=0)
    content = dict(images=[image], annotations=[box], categories=[dict(id=1, name="unicorn")])
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").mkdir()
        file = tmp_path / "annotations" / f"instances_{split}2017.json"
        file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"no image of .* shows .*\(person, .*--data FOLDER"):
        make_quick(cfg, str(tmp_path))


@pytest.mark.parametrize(
    ("weights", "address"),
    [(None, None), ("none", None), ("transxnet_tiny.in1k", "mmhybrid://transxnet_tiny.in1k")],
)
def test_quick_starts_from_the_weights_that_are_named(weights, address, tmp_path) -> None:
    config = ROOT / "configs" / "retinanet_transxnet_t_coco.py"
    args = dict(config=str(config), quick=True, weights=weights, work_dir=str(tmp_path))
    args |= dict(cfg_options={"quick.train_images": 2, "quick.val_images": 1}, launcher="none")
    args |= dict.fromkeys(("data", "data_root", "resume", "amp", "auto_scale_lr", "no_validate"))
    cfg = prepare.prepare_config(Namespace(**args))
    assert cfg.load_from == address
    assert not cfg.model.backbone.init_cfg
    with pytest.raises(UserError, match="name those to start from instead of auto"):
        prepare.prepare_config(Namespace(**args | dict(weights="auto")))


@pytest.mark.parametrize("iterations", [1, 2, 5, 96])
def test_the_warm_up_ends_before_the_run(read_config, tmp_path, iterations: int) -> None:
    cfg = read_config("semantic_fpn_dmformer_s_ade20k")
    cfg.work_dir = str(tmp_path)
    cfg.quick = dict(iterations=iterations, train_images=2, val_images=1)
    cfg = make_quick(cfg)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedules = [
        PARAM_SCHEDULERS.build(dict(one, optimizer=optimizer)) for one in cfg.param_scheduler
    ]
    rates = []
    for _ in range(cfg.train_cfg.max_iters):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for schedule in schedules:
            schedule.step()
    assert len(rates) == iterations
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) <= iterations / 2
    assert 1 <= cfg.default_hooks.logger.interval <= 10


@pytest.mark.parametrize("change", [make_quick, lambda cfg: with_recipe(cfg, 100, "mIoU")])
def test_a_run_of_iterations_with_safeguards_stays_one(change, read_config, tmp_path) -> None:
    cfg = read_config("semantic_fpn_dmformer_s_ade20k")
    cfg.update(work_dir=str(tmp_path), quick=dict(train_images=2, val_images=1))
    cfg = change(prepare.with_safeguards(cfg))
    assert "max_epochs" not in cfg.train_cfg
    assert not cfg.default_hooks.checkpoint.by_epoch


def test_old_names_of_settings_go_on_working() -> None:
    cfg = Config(dict(quick=dict(train_pictures=6, val_pictures=2)))
    with pytest.warns(DeprecationWarning, match=r"quick\.\w+ is now quick\.\w+_images"):
        quick = settings_of(cfg)
    assert (quick.train_images, quick.val_images) == (6, 2)


def test_steps_leave_the_config_that_they_are_given(read_config, tmp_path) -> None:
    (tmp_path / "epoch_1.pth").touch()
    steps = [
        lambda cfg: prepare.with_options(cfg, {"model.backbone.arch": "base"}),
        lambda cfg: prepare.with_mixed_precision(cfg, "bfloat16"),
        lambda cfg: prepare.with_resume(cfg, str(tmp_path / "epoch_1.pth")),
        lambda cfg: prepare.with_drawing(cfg, False, "drawn", 1.0),
        lambda cfg: prepare.with_output(cfg, "out.pkl"),
        lambda cfg: prepare.with_data_root(cfg, "there"),
        *(make_quick, prepare.with_scaled_lr, prepare.with_test_time_augmentation),
        *(prepare.with_safeguards, prepare.for_its_processes, prepare.without_pretrained),
    ]
    cfg = read_config("retinanet_transxnet_t_coco")
    cfg.update(work_dir=str(tmp_path), launcher="none")
    cfg.quick = dict(train_images=2, val_images=1)
    before = deepcopy(cfg.to_dict())
    for step in steps:
        assert step(cfg).to_dict() != before
        assert cfg.to_dict() == before


@pytest.mark.parametrize("root", ["data/mine/", "data/coco", "./data/coco/"])
def test_evaluator_reads_the_file_of_its_data_set(root: str, read_config) -> None:
    cfg = read_config("retinanet_transxnet_t_coco")
    cfg.data_root = root  # the evaluator's path is what the base of the config says
    for loader in ("train", "val", "test"):
        cfg[f"{loader}_dataloader"].dataset.data_root = root
    cfg = with_data_root(cfg, "/disk/data")
    assert cfg.val_dataloader.dataset.ann_file == "annotations/instances_val2017.json"
    assert cfg.val_evaluator.ann_file == "/disk/data/annotations/instances_val2017.json"
    again = with_data_root(cfg, "/other")
    assert again.test_evaluator.ann_file == "/other/annotations/instances_val2017.json"


def test_data_elsewhere_than_on_this_machine_is_not_looked_for(read_config) -> None:
    cfg = read_config("mask_rcnn_transxnet_t_coco")
    with pytest.raises(UserError, match="data set is missing"):
        check_data(cfg, ("train_dataloader",))
    cfg.train_dataloader.dataset.backend_args = dict(backend="petrel")
    check_data(cfg, ("train_dataloader",))
    cfg.train_dataloader.dataset.update(backend_args=None, data_root="s3://bucket/coco/")
    check_data(cfg, ("train_dataloader",))
