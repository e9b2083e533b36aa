"""A config that trains and evaluates on data of one's own, with all else as it is."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict

from mmhybrid.datasets.prepared_data import PreparedData
from mmhybrid.engine.runner.classes import (
    OURS,
    fitting_topk,
    has_masks,
    task_of,
    with_classes,
)
from mmhybrid.engine.runner.config_parts import Part, parts_of
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name

PACKAGES = {
    "detection": "mmdet",
    "instances": "mmdet",
    "segmentation": "mmseg",
    "classification": "mmpretrain",
}
DATASETS = {
    "detection": "CocoDataset",
    "instances": "CocoDataset",
    "segmentation": "BaseSegDataset",
    "classification": "CustomDataset",
}
ANNOTATIONS = {
    "detection": "boxes",
    "instances": "masks of objects",
    "segmentation": "label maps",
    "classification": "one label for each image",
}
# What a model or a step of a pipeline needs beside such annotations, by the name of its class or of
# a base.
NEEDS_MORE = {
    "SemiBaseDetector": "images without labels",
    "KnowledgeDistillationSingleStageDetector": "a teacher that was trained on the same classes",
    "LoadProposals": "the proposals of another model",
    "LoadMultipleRSImageFromFile": "pairs of images",
}
# Sides in pixels of the images that mmpretrain's data sets hold in memory.
SIDES = {"CIFAR10": 32, "CIFAR100": 32, "MNIST": 28, "FashionMNIST": 28}
# Steps of a training pipeline that do the same to an image each time.
FIXED_STEPS = ("Load", "Resize", "CenterCrop", "Pad", "Pack")


def with_own_data(cfg: Config, data: PreparedData) -> Config:
    """A config that learns the classes of the data from its training images.

    Changed are: all that :func:`mmhybrid.engine.runner.classes.with_classes` changes; data sets, to
    mmdet's ``CocoDataset``, mmseg's ``BaseSegDataset`` or mmpretrain's ``CustomDataset``;
    evaluators, to COCO's metric with a line a class, IoU, or accuracy with precision and recall of
    each class; the metric that a checkpoint, an early stop or a schedule is chosen by; and what
    pipelines load with the annotations. Images without an object are trained on where the config
    does so, and small ones always.

    Kept are pipelines, samplers, batch sizes and loops, and of the wrappers around a data set those
    that choose or mix images (``ClassBalancedDataset``, ``MultiImageMixDataset``). Those that
    repeat, join or split one (``RepeatDataset``, ``ConcatDataset``, ``KFoldDataset``) go: a number
    of repetitions belongs to the number of images that it was written for. The validation images
    are tested on where there are no others; a config without validation gets one.

    Args:
        cfg (Config): With ``default_scope``, as :func:`load_config` returns it. It stays as it is.
        data (PreparedData): With ``'train'`` among its ``ann_files``.

    Raises:
        UserError: The config cannot be trained on such data; says which of ours can.
    """
    task = task_of(cfg)
    _check_fit(cfg, task, data)
    old = _metric_options(cfg)
    cfg = with_classes(cfg, data.classes, data.palette)
    held_out = [split for split in ("val", "test") if split in data.ann_files]
    template = cfg.get("val_dataloader") or cfg.get("test_dataloader") or _loader_like(cfg)
    for name, splits in (("val", held_out[:1]), ("test", held_out[-1:])):
        loader = cfg.get(f"{name}_dataloader") or deepcopy(template)
        loop = cfg.get(f"{name}_cfg") or ConfigDict()
        evaluator = None
        for split in splits:
            loader.dataset = _own_leaf(_leaf(loader.dataset), split, data, cfg)
            evaluator = _metrics(cfg, task, data, split, old)
        cfg[f"{name}_dataloader"] = loader if splits else None
        cfg[f"{name}_evaluator"] = evaluator
        cfg[f"{name}_cfg"] = loop if splits else None
    cfg.train_dataloader.dataset = _own(cfg.train_dataloader.dataset, data, cfg)
    _fit_loading(cfg, task)
    _fit_monitors(cfg, best_metric(cfg))
    return cfg


def _check_fit(cfg: Config, task: str, data: PreparedData) -> None:
    name = type_name(cfg.model)
    if task != data.task and (task, data.task) != ("detection", "instances"):
        raise UserError(
            f"{name} learns from {ANNOTATIONS[task]}, and the data has {ANNOTATIONS[data.task]}"
            f"{' alone' if data.task == 'detection' else ''}: {OURS[data.task]} learns from them"
        )
    if not cfg.get("train_dataloader"):
        raise UserError("the config has no train_dataloader, so it says not how to load images")
    names = Part((), cfg.model, cfg.get("default_scope")).bases()
    steps = [part.node for part in parts_of(cfg) if part.path[:1] == ("train_dataloader",)]
    names |= {type_name(step) for step in steps}
    if data.task in ("segmentation", "classification") and len(data.classes) < 2:
        raise UserError(f"there is nothing to tell apart: {data.classes[0]!r} is the only class")
    needed = [NEEDS_MORE[one] for one in NEEDS_MORE if one in names]
    needed += ["label maps of stuff"] * any(step.get("with_seg") for step in steps)
    if needed:
        raise UserError(
            f"beside {ANNOTATIONS[task]}, this {name} needs {needed[0]}, which the data has not: "
            f"{OURS[task]} learns from what there is"
        )


def _own(dataset: Any, data: PreparedData, cfg: Config) -> Any:
    """A training data set in those wrappers that stay."""
    if dataset.get("datasets"):
        return _own(dataset["datasets"][0], data, cfg)
    if "dataset" not in dataset:
        return _own_leaf(dataset, "train", data, cfg)
    inner = _own(dataset["dataset"], data, cfg)
    if type_name(dataset) in ("RepeatDataset", "KFoldDataset"):
        return inner
    dataset["dataset"] = inner
    return dataset


def _from_outside(dataset: Any) -> Iterator[Any]:
    """Yields a data set, the one that it wraps (of several the first), and so on."""
    while True:
        yield dataset
        inner = dataset.get("dataset") or (dataset.get("datasets") or [None])[0]
        if inner is None:
            return
        dataset = inner


def _leaf(dataset: Any) -> Any:
    return list(_from_outside(dataset))[-1]


def _own_leaf(old: Any, split: str, data: PreparedData, cfg: Config) -> ConfigDict:
    metainfo = ConfigDict(old["metainfo"])
    if data.category_ids:
        metainfo["category_ids"] = list(data.category_ids)
    new = ConfigDict(
        type=_type(cfg, data.task, DATASETS[data.task]),
        data_root=data.image_root,
        ann_file=data.ann_files[split],
        metainfo=metainfo,
        pipeline=old["pipeline"],
    )
    if data.task == "segmentation":
        new.data_prefix = dict(img_path="", seg_map_path=data.mask_root)
        # IMAGE.jpg has the mask IMAGE.jpg.png.
        new.update(img_suffix="", seg_map_suffix=".png", reduce_zero_label=False)
    elif data.task == "classification":
        new.data_prefix = ""
        new.pipeline = _with_images_from_files(new.pipeline, type_name(old), cfg)
    else:
        new.data_prefix = dict(img="")
        if split == "train":
            keep_empty = (old.get("filter_cfg") or {}).get("filter_empty_gt", True)
            new.filter_cfg = dict(filter_empty_gt=keep_empty)
    if split != "train":
        new.test_mode = True
    return new


def _with_images_from_files(pipeline: list, dataset: str, cfg: Config) -> list:
    """The pipeline of a data set that holds its images in memory, for one of image files."""
    names = [type_name(step) for step in pipeline]
    if any(name.startswith("LoadImage") for name in names):
        return pipeline
    inner = cfg.model.get("data_preprocessor")
    preprocessor = inner or cfg.data_preprocessor
    grey = len(preprocessor.get("mean") or [0] * 3) == 1
    load = ConfigDict(type="LoadImageFromFile", color_type="grayscale" if grey else "color")
    if not grey:
        preprocessor.to_rgb = True  # files are read as BGR, the images in memory are RGB
    side = SIDES.get(dataset)
    resize = [] if side is None or any("Resize" in name for name in names) else [side]
    return [load, *(ConfigDict(type="Resize", scale=(one, one)) for one in resize), *pipeline]


def _loader_like(cfg: Config) -> ConfigDict:
    """A loader for evaluation out of that for training, with what happens to an image each time."""
    train, steps = cfg.train_dataloader, []
    for dataset in _from_outside(train.dataset):
        steps = [*(dataset.get("pipeline") or []), *steps]
    kept = []
    for step in map(deepcopy, steps):
        if type_name(step) == "RandomResizedCrop":
            kept.append(ConfigDict(type="Resize", scale=(step.scale, step.scale)))
        elif type_name(step).startswith(FIXED_STEPS):
            kept.append(step)
    loader = ConfigDict({key: train[key] for key in ("batch_size", "num_workers") if key in train})
    loader.sampler = ConfigDict(type="DefaultSampler", shuffle=False)
    loader.dataset = ConfigDict(deepcopy(_leaf(train.dataset)), pipeline=kept)
    return loader


def _metrics(
    cfg: Config, task: str, data: PreparedData, split: str, old: dict[str, Any]
) -> ConfigDict | list[ConfigDict]:
    if task == "classification":
        topk = fitting_topk(old.get("topk", (1, 5)), len(data.classes))
        accuracy = ConfigDict(type=_type(cfg, task, "Accuracy"), topk=topk)
        return [accuracy, ConfigDict(type=_type(cfg, task, "SingleLabelMetric"), average=None)]
    if task == "segmentation":
        metrics = list(dict.fromkeys(["mIoU", *old.get("iou_metrics", [])]))
        return ConfigDict(type=_type(cfg, task, "IoUMetric"), iou_metrics=metrics)
    metrics = ["bbox"] if _has_boxes(cfg.model) else []
    metrics += ["segm"] if has_masks(cfg.model) and data.task == "instances" else []
    options = dict(ann_file=data.ann_files[split], metric=metrics, classwise=True)
    return ConfigDict(type=_type(cfg, task, "CocoMetric"), **options)


def best_metric(cfg: Config) -> str:
    """The name of the metric to choose by."""
    detection = "coco/bbox_mAP" if _has_boxes(cfg.model) else "coco/segm_mAP"
    others = dict(segmentation="mIoU", classification="accuracy/top1")
    return others.get(task_of(cfg), detection)


def _has_boxes(model: Any) -> bool:
    """Whether a detector predicts boxes: SOLO predicts masks alone."""
    return not model.get("mask_head") or bool(model.get("bbox_head"))


def _fit_loading(cfg: Config, task: str) -> None:
    """Has every pipeline load those annotations that the model needs and the data has."""
    for part in parts_of(cfg):
        node = part.node
        if node.get("backend_args"):  # images in a cloud
            node["backend_args"] = None
        if task == "segmentation" and "ignore_index" in node:
            node["ignore_index"] = 255
        if type_name(node) != "LoadAnnotations":
            continue
        if task == "segmentation":
            node.pop("reduce_zero_label", None)  # then that of the data set counts
        elif task == "instances" or "with_mask" in node:
            node["with_mask"] = task == "instances"
            # poly2mask=False would leave out the objects whose masks are written as run lengths.
            node.pop("poly2mask", None)


def _fit_monitors(cfg: Config, best: str) -> None:
    for part in parts_of(cfg):
        if part.path[:1] in (("default_hooks",), ("custom_hooks",), ("param_scheduler",)):
            for key in ("save_best", "monitor"):
                if part.node.get(key):
                    part.node[key] = best


def _metric_options(cfg: Config) -> dict[str, Any]:
    """Arguments of a config's metrics, those of several in one dictionary."""
    roots = ("val_evaluator",), ("test_evaluator",)
    nodes = [part.node for part in parts_of(cfg) if part.path[:1] in roots]
    return {key: value for node in reversed(nodes) for key, value in node.items()}


def _type(cfg: Config, task: str, name: str) -> str:
    package = PACKAGES[task]
    return name if cfg.get("default_scope") == package else f"{package}.{name}"
