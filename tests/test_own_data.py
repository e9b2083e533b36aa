"""From a folder to a model: what ``--data`` and ``mmhybrid.train`` do, whatever the format."""

import json
import logging
import re
import runpy
from argparse import Namespace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS

import mmhybrid
from benchmarks.formats import journey, write_tiny_config
from mmhybrid.apis.journey import config_path
from mmhybrid.datasets.findings import Finding
from mmhybrid.datasets.folders import read_folder, write_dataset
from mmhybrid.engine.runner.data_folder import with_folder
from mmhybrid.engine.runner.own_data import best_metric
from mmhybrid.engine.runner.prepare_config import _check_and_write, prepare_config, run_name
from mmhybrid.engine.runner.recipe import with_recipe
from mmhybrid.engine.runner.results import write_training_result
from mmhybrid.engine.runner.run_config import load_config
from mmhybrid.engine.runner.short_config import write_short_config
from mmhybrid.engine.runner.starting_weights import with_weights
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name

ROOT = Path(__file__).resolve().parents[1]
make = SimpleNamespace(**runpy.run_path(str(ROOT / "tests" / "make_data_folders.py")))
SEMANTIC = "semantic_fpn_transxnet_t_ade20k"
FOLDERS = {
    "detection": "yolo_folders",
    "instances": "coco_roboflow",
    "segmentation": "masks_palette",
    "classification": "class_folders",
}


def written(name: str, folder: Path) -> Path:
    make.WRITERS[name](folder, make.drawn())
    return folder


def own(task: str, folder: Path, **changes: Any) -> tuple[Config, Path]:
    """A tiny config with the data of a task, and the file that it was made of."""
    base = write_tiny_config(task, folder)
    cfg = load_config(str(base))
    cfg.update(work_dir=str(folder / "run"), **changes)
    return with_folder(cfg, str(written(FOLDERS[task], folder / "data")))[0], base


def without_none(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: without_none(one) for key, one in node.items() if one is not None}
    return [without_none(one) for one in node] if isinstance(node, list) else node


@pytest.mark.parametrize("task", FOLDERS)
def test_the_short_config_is_the_finished_one(task: str, tmp_path: Path) -> None:
    cfg, base = own(task, tmp_path)
    cfg = with_recipe(with_weights(cfg, "none", base.stem), 16, best_metric(cfg))
    file = tmp_path / "run" / "config.py"
    write_short_config(cfg, str(base), file)
    assert len(file.read_text().splitlines()) < 100
    read, told = without_none(Config.fromfile(file).to_dict()), without_none(cfg.to_dict())
    assert {key: read.get(key) for key in told if key != "work_dir"} == {
        key: one for key, one in told.items() if key != "work_dir"
    }
    assert cfg.train_dataloader.dataset.metainfo.classes


def test_a_part_that_is_replaced_by_another_is_so_in_the_short_config(tmp_path: Path) -> None:
    base, file = tmp_path / "base.py", tmp_path / "short.py"
    base.write_text("a = dict(b=1, c=dict(d=2))\ne = [1]\nf = dict(g=1)\nh = 3\n")
    cfg = Config(dict(a=dict(b=1, c=dict(x=1)), e=dict(y=1), f=None, h=3))
    write_short_config(cfg, str(base), file)
    assert Config.fromfile(file).to_dict() == cfg.to_dict()
    assert "h =" not in file.read_text()


def test_the_recipe_fits_images_weights_and_classes(tmp_path: Path, caplog) -> None:
    cfg, _ = own("instances", tmp_path)
    cfg.model.backbone.init_cfg = None
    cfg.custom_hooks = [dict(type="EMAHook", begin_iter=50_000, begin_epoch=90, interval=7330)]
    new = with_recipe(cfg, 1000, "coco/bbox_mAP")
    assert new.train_cfg.max_epochs == 40  # MOST iterations of 2 images
    assert new.optim_wrapper.optimizer.lr == 5e-4
    assert new.model.backbone.norm_eval is False
    assert [type_name(hook) for hook in new.custom_hooks] == ["EMAHook"]
    assert not {"begin_iter", "begin_epoch", "interval"} & set(new.custom_hooks[0])
    assert new.default_hooks.checkpoint.save_best == "coco/bbox_mAP"
    warm_up, cosine = new.param_scheduler
    assert warm_up.end == cosine.begin == 500
    assert cosine.end == 40 * 500
    steps = new.train_dataloader.dataset.pipeline
    assert "RandomResize" in [type_name(step) for step in steps]

    cfg.load_from, cfg.auto_scale_lr = "some.pth", dict(base_batch_size=8)
    cfg.train_dataloader.dataset.metainfo.classes = ("left shoe", "right shoe", "cleft")
    new = with_recipe(cfg, 10, "coco/bbox_mAP")
    assert new.optim_wrapper.optimizer.lr == pytest.approx(1e-4 / 2)
    assert new.model.backbone.norm_eval is True
    assert [type_name(hook) for hook in new.custom_hooks] == ["EMAHook", "EarlyStoppingHook"]
    assert new.train_cfg.max_epochs == 60  # FEWEST iterations
    names = [type_name(step) for step in new.train_dataloader.dataset.pipeline]
    assert "RandomFlip" not in names
    cfg.recipe = dict(iterations=95)
    new = with_recipe(cfg, 10, "coco/bbox_mAP")
    assert (new.train_cfg.max_epochs, new.train_cfg.val_interval) == (19, 2)  # ten evaluations
    cfg.recipe = dict(iterations=10)
    new = with_recipe(cfg, 10, "coco/bbox_mAP")
    assert new.train_cfg.max_epochs == 2
    # A warm-up of one step would end at the rate that it starts from.
    assert [one.type for one in new.param_scheduler] == ["CosineAnnealingLR"]


def test_the_recipe_counts_the_images_of_all_processes(tmp_path: Path, monkeypatch) -> None:
    cfg, _ = own("detection", tmp_path, auto_scale_lr=dict(base_batch_size=16), load_from="x.pth")
    one = with_recipe(cfg, 1000, "coco/bbox_mAP")
    monkeypatch.setattr("mmhybrid.engine.runner.recipe.get_world_size", lambda: 4)
    four = with_recipe(cfg, 1000, "coco/bbox_mAP")
    assert one.train_dataloader.batch_size == four.train_dataloader.batch_size == 2
    rates = [new.optim_wrapper.optimizer.lr for new in (one, four)]
    assert rates[1] == pytest.approx(2 * rates[0])
    assert [new.train_cfg.max_epochs for new in (one, four)] == [40, 50]
    assert [new.param_scheduler[-1].end for new in (one, four)] == [20000, 6250]


@pytest.mark.parametrize("is_balanced", [False, True])
def test_the_recipe_counts_the_images_of_an_epoch(is_balanced: bool, tmp_path: Path) -> None:
    base = write_tiny_config("detection", tmp_path)
    if is_balanced:
        cfg = Config.fromfile(base)
        balanced = dict(type="ClassBalancedDataset", oversample_thr=4.0)
        cfg.train_dataloader.dataset = dict(balanced, dataset=cfg.train_dataloader.dataset)
        cfg.dump(base)
    folder = written("yolo_folders", tmp_path / "data")
    for file in sorted(folder.rglob("*.txt"))[::2]:
        file.write_text("")
    nothing = ("quick", "data_root", "resume", "amp", "auto_scale_lr", "no_validate")
    args = dict.fromkeys(nothing) | dict(config=str(base), data=str(folder), weights="none")
    args |= dict(work_dir=str(tmp_path / "run"), launcher="none", cfg_options=None)
    args |= dict(ignore=["half-unlabelled", "mostly-unlabelled", "class-not-in-train"])
    quick = prepare_config(Namespace(**args | dict(quick=True)))
    assert quick.default_hooks.checkpoint.save_best == "coco/bbox_mAP"
    cfg = prepare_config(Namespace(**args))
    with DATASETS.switch_scope_and_registry("mmdet") as registry:
        length = len(registry.build(cfg.train_dataloader.dataset))
    steps = -(-length // cfg.train_dataloader.batch_size)
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_epochs * steps


@pytest.mark.parametrize(
    ("weights", "name", "load_from", "checkpoint"),
    [
        ("none", SEMANTIC, None, None),
        ("auto", SEMANTIC, "mmhybrid://semantic_fpn_transxnet_tiny.ade20k", ...),
        ("auto", "another", None, ...),
        ("transxnet_tiny.in1k", "another", "mmhybrid://transxnet_tiny.in1k", ...),
        ("van-base_3rdparty_in1k", "x", None, "mmhybrid://van-base_3rdparty_in1k"),
    ],
)
def test_where_weights_go(weights, name, load_from, checkpoint, read_config) -> None:
    cfg = read_config(SEMANTIC)
    new = with_weights(cfg, weights, name)
    assert new.get("load_from") == load_from
    told = (new.model.backbone.init_cfg or {}).get("checkpoint")
    assert told == (cfg.model.backbone.init_cfg.checkpoint if checkpoint is ... else checkpoint)


def test_a_file_of_weights(read_config, tmp_path: Path) -> None:
    cfg, file = read_config(SEMANTIC), tmp_path / "mine.pth"
    with pytest.raises(UserError, match="no file of weights"):
        with_weights(cfg, str(file), SEMANTIC)
    file.touch()
    assert with_weights(cfg, str(file), SEMANTIC).load_from == str(file)


def test_labels_that_do_not_serve_name_the_config_that_takes_them(tmp_path: Path) -> None:
    cfg = load_config(str(write_tiny_config("instances", tmp_path)))
    cfg.work_dir, folder = str(tmp_path / "run"), str(written("voc", tmp_path / "data"))
    with pytest.raises(UserError, match=r"configs/retinanet_\w+\.py learns detection from them"):
        with_folder(cfg, folder)
    assert not (tmp_path / "run").exists()


def test_problems_that_would_waste_a_training_stop_it(tmp_path: Path) -> None:
    cfg = load_config(str(write_tiny_config("detection", tmp_path)))
    cfg.work_dir = str(tmp_path / "run")
    folder = written("yolo_folders", tmp_path / "data")
    for file in sorted(folder.rglob("*.txt"))[3:]:
        file.write_text("")
    with pytest.raises(UserError, match=r"(?s)without a label: .*--ignore .*half-unlabelled"):
        with_folder(cfg, str(folder))
    codes = ["half-unlabelled", "class-not-in-train"]
    assert with_folder(cfg, str(folder), codes)[1].task == "detection"


@pytest.mark.parametrize(
    ("name", "has_ids"), [("coco_roboflow", True), ("coco_splits", True), ("yolo_folders", False)]
)
def test_ids_of_categories_go_into_predictions(name: str, has_ids: bool, tmp_path) -> None:
    folder = written(name, tmp_path / "data")
    prepared = write_dataset(read_folder(folder, "detection"), tmp_path / "run")
    told = {
        one["name"]: one["id"]
        for file in sorted(folder.rglob("*.json"))
        for one in json.loads(file.read_text())["categories"]
    }
    assert prepared.category_ids == [told[one] for one in prepared.classes if one in told]
    assert bool(prepared.category_ids) == has_ids


def test_configs_are_found_by_name(tmp_path: Path) -> None:
    assert Config.fromfile(config_path(SEMANTIC)).default_scope == "mmseg"
    with pytest.raises(UserError, match=r"no config nothing; those .* mask_rcnn_transxnet_t_coco"):
        config_path("nothing")


@pytest.mark.train
def test_each_run_of_a_process_keeps_its_own_log(toy_config, train, tmp_path: Path) -> None:
    # As mmdet's and mmseg's configs name it.
    toy_config.visualizer = dict(
        type="Visualizer", name="visualizer", vis_backends=[dict(type="LocalVisBackend")]
    )
    toy_config.train_cfg.max_epochs = 1
    for name in ("first", "second"):
        toy_config.work_dir = str(tmp_path / name)
        runner = train(toy_config)
        assert write_training_result(runner, "toy.py") == tmp_path / name / "result.json"
        assert runner.visualizer.instance_name == runner.experiment_name
    assert toy_config.visualizer.name == "visualizer"


@pytest.mark.train
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_from_a_folder_to_a_prediction(task: str, tmp_path: Path) -> None:
    row = journey(written(FOLDERS[task], tmp_path / "data"), task, tmp_path, iterations=4)
    assert row[1] == task
    assert "train" in row[2]


def test_warnings_of_the_data_say_once_that_they_are_warnings(tmp_path: Path, monkeypatch) -> None:
    cfg, base = own("detection", tmp_path)
    findings, logged = [Finding("x", "warning", "boxes outside", ["a.jpg"])], []
    place = "mmhybrid.engine.runner.prepare_config"
    monkeypatch.setattr(f"{place}.check_before_training", lambda *args: findings)
    monkeypatch.setattr(f"{place}.print_log", lambda *args, **options: logged.append(args))
    _check_and_write(cfg, Namespace(config=str(base), ignore=[]))
    assert ("boxes outside (a.jpg)", "current", logging.WARNING) in logged
    assert str(*findings) == "warning: boxes outside (a.jpg)"


@pytest.mark.parametrize(
    ("file", "data", "name"),
    [
        ("mine.py", None, "mine"),
        ("helmets/run/config.py", None, "run_config"),  # of --data: not the folder of its run
        ("run/config.py", "helmets", "run_config_helmets"),
    ],
)
def test_each_run_has_a_folder_of_its_own(file, data, name, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    assert run_name(file, data, False) == name
    assert run_name(file, data, True) == f"{name}_quick"


def losses(folder: Path) -> list[str]:
    (log,) = folder.glob("*/*.log")
    return re.findall(r"Iter\(train\).* loss: ([\d.]+)", log.read_text())


@pytest.mark.train
def test_the_tools_and_the_config_that_they_leave(run_tool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_tiny_config("segmentation", tmp_path)
    data = written("masks_palette", tmp_path / "data")
    log = ["default_hooks.logger.interval=1", "train_cfg.val_interval=3", "randomness.seed=1"]
    run_tool(
        *("train.py", config, "--data", data, "--weights", "none"),
        *("--cfg-options", "recipe.iterations=3", *log),
    )
    work = tmp_path / "work_dirs" / "tiny_segmentation_data"
    assert len(losses(work)) == 3
    run_tool("train.py", work / "config.py", "--work-dir", tmp_path / "again")
    assert losses(tmp_path / "again") == losses(work)
    split = (work / "data" / "val.txt").read_text()
    checkpoint = next(work.glob("best*.pth"))
    options = ["--result", tmp_path / "result.json", "--out", tmp_path / "maps"]
    run_tool("test.py", config, checkpoint, "--data", data, *options)
    assert len(list((tmp_path / "maps").glob("*.png"))) == len(split.splitlines())
    assert (work / "data" / "val.txt").read_text() == split
    assert json.loads((tmp_path / "result.json").read_text())["metrics"]["mIoU"] > 0
    found = mmhybrid.predict(checkpoint, next(data.rglob("*.jpg")))
    assert set(found.labels) <= {"background", "disc", "square", "triangle"}


@pytest.mark.train
def test_the_notebook(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    written("coco_roboflow", tmp_path / "my_images")
    make.drawn()[0].image.save(tmp_path / "my_images" / "new.jpg")
    tiny = write_tiny_config("instances", tmp_path / "configs")
    monkeypatch.setattr("mmhybrid.apis.journey.config_path", lambda name: str(tiny))
    few = {"quick.iterations": 2, "quick.size": 64, "quick.train_images": 4, "quick.batch_size": 2}
    monkeypatch.setattr(mmhybrid, "train", partial(mmhybrid.train, options=few), raising=False)
    cells = json.loads((ROOT / "examples" / "own_data.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["model"].checkpoint.is_file()
    assert "coco/segm_mAP" in names["model"].metrics
    assert names["found"]._repr_png_().startswith(b"\x89PNG")
