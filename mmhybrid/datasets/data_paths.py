"""Where the data of a config lies, and what to say when it does not lie there."""

import logging
import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from mmhybrid.errors import UserError
from mmhybrid.registry import type_name, type_of

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")

# How to get each data set, by the beginning of the dataset's type.
HOW_TO_GET = {
    "Coco": (
        "COCO 2017: unpack http://images.cocodataset.org/zips/train2017.zip, .../zips/val2017.zip "
        "and http://images.cocodataset.org/annotations/annotations_trainval2017.zip in {root}"
    ),
    "ADE20K": (
        "ADE20K: unpack http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip "
        "so that {root} is the folder ADEChallengeData2016"
    ),
    "Cityscapes": (
        "Cityscapes: register at https://www.cityscapes-dataset.com, unpack "
        "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip in {root}, then run mmseg's "
        "tools/dataset_converters/cityscapes.py {root}"
    ),
    "ImageNet": (
        "ImageNet-1K: register at https://image-net.org, unpack ILSVRC2012 as "
        "{root}/train/n01440764/*.JPEG and {root}/val/n01440764/*.JPEG"
    ),
    "CIFAR100": "unpack https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz in {root}",
    "CIFAR10": "unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz in {root}",
    "TinyImageNet": (
        "Tiny-ImageNet: unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip so that {root} is "
        "the folder tiny-imagenet-200"
    ),
    "CustomDataset": "put one folder of images a class there",
    "BaseSegDataset": "put images and label maps there, as docs/data.md has them for CamVid",
}


def datasets_of(cfg: Config, loaders: tuple[str, ...] = LOADERS) -> Iterator[tuple[str, Any]]:
    """Yield (loader, dataset) for all datasets of a config; what RepeatDataset wraps is yielded."""
    for loader in loaders:
        if cfg.get(loader):
            for dataset in _innermost(cfg[loader]["dataset"]):
                yield loader, dataset


def metrics_of(cfg: Config, evaluator: str) -> list[Any]:
    """The metrics of ``"val_evaluator"`` or ``"test_evaluator"``, which is one or a list."""
    given = cfg.get(evaluator) or []
    return [*given] if isinstance(given, list | tuple) else [given]


def _innermost(dataset: Any) -> Iterator[Any]:
    wrapped = dataset.get("datasets") or ([dataset["dataset"]] if "dataset" in dataset else [])
    for one in wrapped:
        yield from _innermost(one)
    if not wrapped:
        yield dataset


def classes_of(dataset: Any, scope: str | None) -> tuple[str, ...]:
    """Names of the classes of a dataset, in the order of their labels.

    Those of its ``metainfo``, of its argument ``classes`` (mmpretrain), of its type, or of the
    folders that it reads. A text is a file with a name a line, as MMEngine takes it.

    Raises:
        UserError: They are not known, or a text names no file.
    """
    found = type_of(dataset, DATASETS, scope)
    own = getattr(found, "METAINFO", {})
    metainfo = dataset.get("metainfo") or {}
    given = dataset.get("classes") or metainfo.get("classes") or own.get("classes")
    if isinstance(given, str):
        if not os.path.isfile(given):
            raise UserError(
                f"the classes of a {type_name(dataset)} are the text {given!r}, and there is no "
                f"such file with a name a line. A list of one class is written [{given!r}]"
            )
        names = list_from_file(given)
        if odd := [name for name in names if not name.strip() or name != name.strip("\ufeff \t")]:
            raise UserError(
                f"{given}: {odd[0]!r} is no name of a class: there are blanks around it, an empty "
                "line, or a byte-order mark, which would be part of the name"
            )
        given = names
    if "CLASSES" in metainfo and "classes" not in metainfo:
        raise UserError(
            f"the metainfo of a {type_name(dataset)} has CLASSES, which nothing reads: name them "
            "classes, metainfo=dict(classes=[...])"
        )
    if not given and hasattr(found, "_find_samples") and not dataset.get("ann_file"):
        given = _folders(dataset)
    if not given:
        raise UserError(
            f"the classes of a {type_name(dataset)} are not known: name them in its config, "
            "metainfo=dict(classes=[...])"
        )
    return tuple(given)


def _folders(dataset: Any) -> list[str]:
    """Names of the folders of classes that mmpretrain's ``CustomDataset`` reads."""
    prefix = dataset.get("data_prefix") or ""
    prefix = prefix if isinstance(prefix, str) else prefix.get("img_path", "")
    folder = Path(dataset.get("data_root") or "", prefix)
    if not dataset.get("with_label", True) or not folder.is_dir():
        return []
    return sorted(one.name for one in folder.iterdir() if one.is_dir())


def with_data_root(cfg: Config, folder: str) -> Config:
    """A config whose datasets and evaluators read below another folder than ``data_root``."""
    cfg = deepcopy(cfg)
    roots = {cfg.get("data_root") or ""}
    for _, dataset in datasets_of(cfg):
        root = dataset.get("data_root") or cfg.get("data_root") or ""
        roots.add(root)
        dataset["data_root"] = folder
        if dataset.get("ann_file"):
            dataset["ann_file"] = _below(dataset["ann_file"], root)
        prefix = dataset.get("data_prefix")
        if isinstance(prefix, str):
            dataset["data_prefix"] = _below(prefix, root)
        elif prefix:
            dataset["data_prefix"] = {key: _below(path, root) for key, path in prefix.items()}
    for name in ("val", "test"):
        read = next((one for _, one in datasets_of(cfg, (f"{name}_dataloader",))), {})
        for evaluator in metrics_of(cfg, f"{name}_evaluator"):
            for key in ("ann_file", "seg_prefix"):
                if not evaluator.get(key):
                    continue
                path = min((_below(evaluator[key], root) for root in roots), key=len)
                if path == evaluator[key] and not os.path.isabs(path):
                    # Below no root: left over from another data set, that of a config's base.
                    path = read.get(key) or path
                evaluator[key] = str(Path(folder) / path)
    return cfg


def _below(path: str, root: str) -> str:
    """The path without the root that it begins with."""
    root = root.removeprefix("./").rstrip("/")
    path = path.removeprefix("./")
    return path[len(root) :].lstrip("/") if root and path.startswith(root + "/") else path


def check_data(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Look whether the files and folders that a run with these loaders will read are there.

    Raises:
        UserError: One is missing. Says which, how to get the data, and what works without.
    """
    for _, dataset in datasets_of(cfg, loaders):
        for path in _paths(dataset):
            if "://" not in path and not os.path.exists(path):
                root = dataset.get("data_root") or cfg.get("data_root") or os.path.dirname(path)
                name = type_name(dataset)
                known = (text for start, text in HOW_TO_GET.items() if name.startswith(start))
                how = next(known, f"see the documentation of {name}").format(root=root)
                raise UserError(
                    f"the data set is missing: {os.path.abspath(path)} does not exist.\n"
                    f"  To get it: {how}\n"
                    "  If it lies elsewhere: --data-root FOLDER\n"
                    "  To try without: --quick draws a small data set and needs none."
                )


def check_metrics(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Look whether the annotation files that metrics read are there; logs where it is another.

    Raises:
        UserError: One is missing: it was left as it was while the data set was changed.
    """
    for loader, dataset in datasets_of(cfg, loaders):
        name = loader.replace("dataloader", "evaluator")
        read = dataset.get("ann_file")
        if not isinstance(read, str) or not read:
            continue
        read = os.path.join(dataset.get("data_root") or "", read)
        for metric in metrics_of(cfg, name):
            path = metric.get("ann_file") if isinstance(metric, dict) else None
            if not isinstance(path, str) or "://" in path:
                continue
            if not os.path.exists(path):
                raise UserError(
                    f"{name}: ann_file={path} does not exist. The data are read from {read}: set "
                    f"{name}.ann_file={read}"
                )
            if os.path.realpath(path) != os.path.realpath(read):
                told = f"{name}: ann_file={path}, but the data are read from {read}"
                print_log(told, logger="current", level=logging.WARNING)


def _paths(dataset: Any) -> Iterator[str]:
    """Every file and folder that a dataset reads from this machine, and addresses."""
    if (dataset.get("backend_args") or {}).get("backend", "local") != "local":
        return
    name = type_name(dataset)
    prefix = dataset.get("data_prefix") or dataset.get("split") or ""
    below = [prefix] if isinstance(prefix, str) else [one for one in prefix.values() if one]
    if isinstance(dataset.get("ann_file"), list | tuple):
        raise UserError(
            f"ann_file of a {name} is a list, and it reads one file: join several data sets with "
            "type='ConcatDataset', datasets=[...]"
        )
    if name in ("CIFAR10", "CIFAR100"):
        below = ["cifar-10-batches-py" if name == "CIFAR10" else "cifar-100-python"]
        if dataset.get("download", True):  # mmpretrain fetches the files itself
            return
    elif dataset.get("ann_file"):
        below.insert(0, dataset["ann_file"])
    yield from (os.path.join(dataset.get("data_root") or "", path) for path in below)
