"""Drawing what a whole config reads."""

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from mmhybrid.datasets.data_paths import classes_of, datasets_of
from mmhybrid.datasets.synthetic import classification, coco, segmentation_map
from mmhybrid.datasets.synthetic.shapes import CATEGORIES
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name

# Each takes the data set's config, the names of its classes, the folder that stands for its
# ``data_root``, the number of images and the source of the random numbers.
DRAW = {
    "CocoDataset": coco.draw,
    "ADE20KDataset": segmentation_map.draw_ade20k,
    "CityscapesDataset": segmentation_map.draw_cityscapes,
    "ImageNet": classification.draw_folders,
    "CustomDataset": classification.draw_folders,
    "TinyImageNet": classification.draw_tiny_imagenet,
    "CIFAR10": classification.draw_cifar,
    "CIFAR100": classification.draw_cifar,
}
STAMP = "drawn.json"


def drawn_classes(task: str) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Names of what is drawn, and a colour (R, G, B) for each.

    Args:
        task (str): Of :class:`mmhybrid.datasets.prepared_data.PreparedData`. In a label map sky and
            ground come first.
    """
    names, colours = zip(*CATEGORIES[: coco.CATEGORIES], strict=True)
    if task == "segmentation":
        return [*segmentation_map.BACKDROP, *names], [*segmentation_map.BACKDROP.values(), *colours]
    return list(names), list(colours)


def draw_data(cfg: Config, folder: Path, train: int, held_out: int, seed: int) -> None:
    """Draws the training and the held-out images that a config reads.

    The same arguments give the same files, bit for bit. A folder that already holds them is left
    alone, so that several processes may ask for the same one. The folder will stand for the
    ``data_root`` of all data sets; one of a type that nothing here can draw is a UserError.
    """
    plan = {}
    for loader, dataset in datasets_of(cfg):
        name = type_name(dataset)
        if name not in DRAW:
            raise UserError(f"--quick cannot draw data for a {name}; it can for {', '.join(DRAW)}.")
        if name.startswith("CIFAR"):
            classification.accept_drawn_cifar(name)
        _check_inside(dataset)
        where = {key: dataset.get(key) for key in ("type", "ann_file", "data_prefix", "split")}
        count = train if loader == "train_dataloader" else held_out
        key = json.dumps(where, sort_keys=True, default=type_name)
        plan.setdefault(key, (name, dataset, classes_of(dataset, cfg.default_scope), count))

    stamp = json.dumps([seed, sorted((key, *what) for key, (_, _, *what) in plan.items())])
    if _holds(folder, stamp):
        return
    if folder.exists() and not (folder / STAMP).exists():
        raise UserError(
            f"--quick would draw its data in {folder.absolute()}, which holds something else; name "
            "another folder for the run: --work-dir FOLDER"
        )
    # Another process may be drawing the same: each works in a folder of its own, and the one that
    # is done first gives it the final name.
    own = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    for key, (name, dataset, classes, count) in plan.items():
        rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
        DRAW[name](dataset, classes, own, count, rng)
    (own / STAMP).write_text(stamp)
    if folder.exists() and not _holds(folder, stamp):
        shutil.rmtree(folder)
    try:
        own.rename(folder)
    except OSError:
        if not _holds(folder, stamp):
            raise
        shutil.rmtree(own)


def _check_inside(dataset: Any) -> None:
    """Refuses a path out of the folder to draw in, where it could overwrite real data."""
    prefix = dataset.get("data_prefix") or {}
    paths = [dataset.get("ann_file"), *([prefix] if isinstance(prefix, str) else prefix.values())]
    for path in filter(None, paths):
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise UserError(
                f"--quick draws in a folder of its own, but the config names {path}; "
                "write ann_file and data_prefix relative to data_root"
            )


def _holds(folder: Path, stamp: str) -> bool:
    path = folder / STAMP
    return path.is_file() and path.read_text() == stamp
