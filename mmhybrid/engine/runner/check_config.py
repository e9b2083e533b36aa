"""What can be wrong with a config, told before anything large is built, and not in a traceback."""

import difflib
import inspect
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS, OPTIMIZERS, TRANSFORMS, Registry

from mmhybrid.backbones import HybridBackbone
from mmhybrid.datasets.data_paths import LOADERS, classes_of, datasets_of
from mmhybrid.engine.runner.config_parts import arguments_of
from mmhybrid.errors import ArgumentError, UserError
from mmhybrid.registry import type_name, type_of
from mmhybrid.weights.catalogue import SCHEME, get_weights

PARTS = ("backbone", "neck", "data_preprocessor")
ENDINGS = ("_head", "_roi_extractor")
CLASSIFYING = ("head", "bbox_head", "mask_head", "decode_head", "auxiliary_head")


def check_config(cfg: Config) -> None:
    """Raise a UserError where a name does not exist or two parts do not fit together."""
    scope = cfg.get("default_scope")
    for where, node, inner in _model_parts("model", cfg.model, scope):
        _check_names(where, node, MODELS, inner)
    for loader, dataset in datasets_of(cfg, LOADERS):
        for number, node in enumerate(dataset.get("pipeline") or []):
            _check_names(f"{loader}, pipeline[{number}]", node, TRANSFORMS, scope)
    optimizer = (cfg.get("optim_wrapper") or {}).get("optimizer")
    _check_names("optim_wrapper.optimizer", optimizer, OPTIMIZERS, scope)
    _check_channels(cfg)
    _check_classes(cfg)
    _check_start(str(cfg.get("load_from")), cfg.get("resume"))
    _check_classifier(cfg)
    _check_crops(cfg)


def check_model(cfg: Config) -> None:
    """The same of the model alone: it need not fit data that nobody reads."""
    check_config(Config(dict(model=cfg.model, default_scope=cfg.get("default_scope"))))


def _check_start(address: str, resume: bool | None) -> None:
    if not address.startswith(SCHEME):
        return
    get_weights(address)
    if resume:
        raise UserError(
            f"{address} holds weights alone, of which no run can be resumed: start a new one from "
            f"them with --cfg-options load_from={address}"
        )


def _model_parts(where: str, node: Any, scope: str | None = None) -> Iterator[tuple]:
    """Place, config and scope of the model and of its parts, at any depth."""
    if isinstance(node, list | tuple):
        for number, one in enumerate(node):
            yield from _model_parts(f"{where}[{number}]", one, scope)
    elif isinstance(node, dict):
        scope = node.get("_scope_", scope)
        yield where, node, scope
        for key, value in node.items():
            if key in (*PARTS, "head") or key.endswith(ENDINGS):
                yield from _model_parts(f"{where}.{key}", value, scope)


def _check_names(where: str, node: Any, root: Registry, scope: str | None) -> None:
    if not isinstance(node, dict) or "type" not in node:
        return
    part = type_of(node, root, scope)
    if part is None:
        with root.switch_scope_and_registry(scope) as registry:
            known = [*registry.module_dict, *root.module_dict]
        name = node["type"]
        raise UserError(f"{where}: there is no type {name!r}{_suggestion(name, known)}")
    known, is_open = arguments_of(part)
    for name in (one for one in node if one not in (*known, "type", "_scope_")):
        message = f"{where}: {type_name(part)} has no argument {name!r}{_suggestion(name, known)}"
        if not is_open:
            raise UserError(f"{message}. It takes {', '.join(sorted(known))}.")
        print_log(message, logger="current", level=logging.WARNING)


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _check_channels(cfg: Config) -> None:
    node = cfg.model.get("backbone")
    if not isinstance(node, dict):
        return
    found = type_of(node, MODELS, cfg.get("default_scope"))
    if not (inspect.isclass(found) and issubclass(found, HybridBackbone)):
        return
    with MODELS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
        try:
            with torch.device("meta"):
                backbone = registry.build(dict(node, init_cfg=None))
        except ArgumentError as error:
            raise ArgumentError(f"model.backbone ({found.__name__}): {error}") from error
    for key in ["neck"] if cfg.model.get("neck") else ["decode_head", "auxiliary_head"]:
        for where, part, _ in _model_parts(f"model.{key}", cfg.model.get(key)):
            _compare_channels(where, part, list(backbone.feature_channels))


def _compare_channels(where: str, part: Any, given: list[int]) -> None:
    expected, index = part.get("in_channels"), part.get("in_index")
    if index is not None:
        indices = index if isinstance(index, list | tuple) else [index]
        if any(one >= len(given) for one in indices):
            maps = f"{len(given)} maps (out_indices), numbered from 0"
            raise UserError(f"{where}: in_index={index}, but model.backbone gives {maps}")
        given = [given[one] for one in indices]
        expected = [expected] if isinstance(expected, int) else expected
    if not isinstance(expected, list | tuple):
        return
    if type_name(part) == "YOLOV3Neck":  # which counts from the last map
        given = given[::-1]
    if list(expected) != given:
        raise UserError(
            f"{where}: in_channels={list(expected)}, but model.backbone gives {given} channels. "
            f"Set {where}.in_channels={given}, or change model.backbone.out_indices."
        )


def _check_classes(cfg: Config) -> None:
    for _, dataset in datasets_of(cfg, ("train_dataloader",)):
        if "Panoptic" in type_name(dataset):
            continue  # its heads share the classes
        try:
            classes = len(classes_of(dataset, cfg.get("default_scope")))
        except (UserError, AttributeError):
            continue  # folders name them, or a data set of one's own
        for where, part, _ in _model_parts("model", cfg.model):
            number = part.get("num_classes")
            key = where.rpartition(".")[2].partition("[")[0]
            if key not in CLASSIFYING or not isinstance(number, int) or number == classes:
                continue
            message = f"{where}: num_classes={number}, but the training data has {classes} classes"
            if number < classes:
                raise UserError(
                    f"{message}. Set {where}.num_classes={classes}, or name the classes to train "
                    "in the dataset's metainfo=dict(classes=[...])."
                )
            print_log(message, logger="current")


def _check_classifier(cfg: Config) -> None:
    """What has to fit the classes of a classifier's head, beside the data."""
    head = cfg.model.get("head")
    classes = head.get("num_classes") if isinstance(head, dict) else None
    if cfg.get("default_scope") != "mmpretrain" or not isinstance(classes, int):
        return
    preprocessor = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    mixes = (cfg.model.get("train_cfg") or {}).get("augments") or preprocessor.get("batch_augments")
    number = preprocessor.get("num_classes")
    if mixes and number not in (None, classes):
        raise UserError(
            f"data_preprocessor: num_classes={number}, which mixes labels, but model.head has "
            f"{classes} classes. Set data_preprocessor.num_classes={classes}."
        )
    places = {"model.head": head} if head.get("cal_acc") else {}
    for name in ("val_evaluator", "test_evaluator"):
        metrics = cfg.get(name) or []
        for metric in metrics if isinstance(metrics, list | tuple) else [metrics]:
            if type_name(metric) == "Accuracy":
                places[name] = metric
    for where, node in places.items():
        topk = node.get("topk") or 1
        if max([topk] if isinstance(topk, int) else topk) > classes:
            told = f"{where}: topk={topk}, but model.head has {classes} classes"
            raise UserError(f"{told}. Set {where}.topk to numbers up to {classes}.")


def _check_crops(cfg: Config) -> None:
    """Whether mmseg can stack the images that it trains on."""
    node = cfg.model.get("data_preprocessor") or {}
    if type_name(node) != "SegDataPreProcessor" or not cfg.get("train_dataloader"):
        return
    size, divisor = node.get("size"), node.get("size_divisor")
    _, dataset = next(datasets_of(cfg, ("train_dataloader",)))
    steps = [step for step in dataset.get("pipeline") or [] if type_name(step) == "RandomCrop"]
    crop = steps[-1]["crop_size"] if steps else None
    crop = (crop, crop) if isinstance(crop, int) else crop and tuple(crop)
    where = "model.data_preprocessor"
    if (size is None) == (divisor is None):
        example = f"size={crop}" if crop else "size=(HEIGHT, WIDTH)"
        raise UserError(
            f"{where}: one of size and size_divisor must say to what training pads images, as in "
            f"{example}; the config has {'neither' if size is None else 'both'}"
        )
    if size and crop and tuple(size) != crop:
        print_log(
            f"{where}: size={tuple(size)}, but training crops to {crop}: smaller images are "
            f"padded, and larger ones cannot be stacked with small ones. Set {where}.size={crop}.",
            logger="current",
            level=logging.WARNING,
        )
