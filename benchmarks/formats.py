"""Every format of one's own data, from the folder to a prediction, with nothing but ``data``.

The models are tiny and train a few iterations: what counts is that each step goes through.
"""

import runpy
import shutil
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.config import Config

import mmhybrid
from mmhybrid.analysis.tables import markdown_table
from mmhybrid.datasets.folders import read_prepared
from mmhybrid.engine.runner.results import made
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
COLUMNS = ("folder", "read as", "task", "images", "classes", "iterations", "metric", "prediction")


def write_tiny_config(task: str, folder: Path, size: int = 64) -> Path:
    """A config of ours with the backbone that tests use and small images, written in full."""
    cfg = Config.fromfile(ROOT / "configs" / f"{CONFIGS[task]}.py")

    def scaled(key: str, value: Any) -> Any:
        return size if key in SIZE_KEYS and type(value) is int and value > size else value

    cfg = Config(map_values(cfg.to_dict(), scaled))
    options = dict(mmhybrid.backbones.TransXNet.test_options)
    channels = list(options["arch"]["embed_dims"])
    cfg.model.backbone.update(options)
    if task == "classification":
        cfg.model.head.in_channels = channels[-1]
        cfg.train_dataloader.batch_size = 4
    else:
        cfg.model.neck.in_channels = channels[-len(cfg.model.neck.in_channels) :]
        cfg.train_dataloader.batch_size = 2
    if task == "detection":
        cfg.model.test_cfg.score_thr = 0.0  # or a model that learnt next to nothing finds nothing
    if task == "instances":
        cfg.model.roi_head.bbox_head.fc_out_channels = 64
        cfg.model.test_cfg.rpn.max_per_img = cfg.model.train_cfg.rpn_proposal.max_per_img = 20
        cfg.model.train_cfg.rcnn.sampler.num = cfg.model.test_cfg.rcnn.max_per_img = 8
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tiny_{task}.py"
    cfg.dump(path)
    return path


def journey(
    data: Path, task: str, work: Path, iterations: int = 10, ignore: Iterable[str] = ()
) -> list[str]:
    """Trains a part, resumes, evaluates and predicts with nothing but ``data``; a row of cells."""
    config = write_tiny_config(task, work)
    options = dict(weights="none", work_dir=work / "run", ignore=ignore)
    is_by_epoch = task != "segmentation"  # of the four configs
    few = {"recipe.iterations": iterations}
    part = {"train_cfg.max_epochs": 1} if is_by_epoch else {"train_cfg.max_iters": iterations // 2}
    few |= {"train_cfg.val_interval": 1 if is_by_epoch else iterations // 2}
    mmhybrid.train(data, str(config), **options, options=few | part)
    model = mmhybrid.train(data, str(config), **options, options=few, resume=True)
    prepared = read_prepared(model.work_dir)
    names = Path(prepared.ann_files["val"]).read_text()
    found = Path(prepared.image_root).rglob("*.*")
    images = sorted(one for one in found if one.is_file() and one.name in names)
    found = model.predict(images[0], score_threshold=0.0)
    name = next(one for one in model.metrics if one.endswith(("bbox_mAP", "mIoU", "/top1")))
    counts = ", ".join(f"{split} {count}" for split, count in prepared.images.items())
    length = Config.fromfile(model.config).param_scheduler[-1]["end"]
    metric = f"{name} {model.metrics[name]:.3f}"
    labels = f"{len(found.labels)} labels"
    cells = [prepared.format, task, counts, len(prepared.classes), length, metric, labels]
    return [str(cell) for cell in cells]


def write_table(shared: Path | None, out: Path, only: Iterable[str] = ()) -> str:
    """Goes the way of every format that the tests make; writes ``formats.md`` and returns it.

    Of real images of the ``shared`` folder (``coco_sample``, ``camvid_sample``, ``cifar10``), or of
    drawn ones. What training refuses is trained in spite of it, and the table says so, as it does
    of what failed. Where ``only`` names some, the rows of the others stay.
    """
    make = runpy.run_path(str(ROOT / "tests" / "make_data_folders.py"))
    sets = (("OBJECTS", "real_objects"), ("MASKS", "real_masks"), ("LABELS", "real_labels"))
    begin, work, file = time.monotonic(), ROOT / "work_dirs" / "formats", out / "formats.md"
    order = [writer.__name__ for group, _ in sets for writer in make[group]]
    rows = _rows_of(file) if only else {}
    for group, real in sets:
        for writer in make[group]:
            if only and writer.__name__ not in only:
                continue
            folder = work / writer.__name__
            shutil.rmtree(folder, ignore_errors=True)
            writer(folder / "data", make[real](shared) if shared else make["drawn"]())
            task = _task(writer.__name__, group)
            try:
                row = _row(writer.__name__, folder, task)
            except Exception as error:  # the others are tried nevertheless
                traceback.print_exc()
                failed = f"failed: {type(error).__name__}: {error}"
                row = [writer.__name__, failed, task, *[""] * (len(COLUMNS) - 3)]
            print(*row, f"after {time.monotonic() - begin:.0f} s", flush=True)
            rows[writer.__name__] = row
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_page([rows[name] for name in order if name in rows]))
    return file.read_text()


def _rows_of(file: Path) -> dict[str, list[str]]:
    """The rows of a table that was written before, by format."""
    lines = file.read_text().splitlines() if file.is_file() else []
    cells = [line.strip("|").split("|") for line in lines if line.startswith("| ")]
    rows = [[cell.strip() for cell in one] for one in cells]
    return {row[0].partition(",")[0]: row for row in rows}


def _page(rows: list[list[str]]) -> str:
    about = made()
    return (
        "# Every format, from a folder to a prediction\n\n"
        "Tiny models with random weights train some iterations, stop, resume, evaluate and predict "
        "on an image, with `data` and nothing else about it.\n\n"
        f"{markdown_table(COLUMNS, rows)}\n\n"
        f"By `python -m benchmarks formats` at {about['commit']}, {about['device']}, PyTorch "
        f"{about['torch']}, {about['date']}.\n"
    )


def _task(writer: str, group: str) -> str:
    if group == "OBJECTS":
        has_outlines = writer.startswith(("coco", "yolo_outlines", "labelme"))
        return "instances" if has_outlines and writer != "coco_boxes" else "detection"
    return dict(MASKS="segmentation", LABELS="classification")[group]


def _row(name: str, folder: Path, task: str) -> list[str]:
    try:
        return [name, *journey(folder / "data", task, folder)]
    except UserError as error:
        codes = str(error).rpartition("--ignore ")[2].split()
        if not codes or len(codes) == len(str(error).split()):
            raise
    shutil.rmtree(folder / "run", ignore_errors=True)
    cells = journey(folder / "data", task, folder, ignore=codes)
    return [f"{name}, in spite of {' '.join(codes)}", *cells]
