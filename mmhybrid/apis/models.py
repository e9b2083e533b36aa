"""From what a command line names to a model: a config, a class of a registry, or timm's name."""

import ast
import importlib
import inspect
import logging
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmhybrid  # noqa: F401  (registers the backbones)
from mmhybrid.apis.random_init import random_init
from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.engine.runner.check_config import check_model
from mmhybrid.engine.runner.checkpoint_config import config_of, is_checkpoint
from mmhybrid.engine.runner.config_parts import arguments_of
from mmhybrid.engine.runner.run_config import load_config, without_pretrained
from mmhybrid.errors import UserError
from mmhybrid.registry import type_name, type_of
from mmhybrid.weights import CheckpointError, load_checkpoint
from mmhybrid.weights.loading import new_heads
from mmhybrid.weights.matching import backbones_of

DETECTOR_SIZE = (800, 1280)  # that papers count at; a test at (1333, 800) pads to about this


def make_model(name: str, options: dict[str, Any] | None = None) -> nn.Module:
    """Makes a model, initialised as for training, without pretrained weights.

    Args:
        name (str): A config's path, or a checkpoint's that holds its config; a class of mmhybrid's
            or OpenMMLab's registries, with its arguments as in Python, ``TransXNet('small')`` or
            ``mmdet.SwinTransformer``; or a model of timm, ``timm.resnet50``, which gives its
            feature maps unless ``features_only=False``.
        options (dict, optional): Values by the keys of a config (``--cfg-options``).

    Raises:
        UserError: No such config, class or model, or it does not take these arguments.

    Example:
        >>> make_model("DWVisionTransformer(arch={'depth': 1})").feature_channels
        (48, 96, 192, 192)
    """
    if is_checkpoint(name):
        return model_of(config_of(name, options))
    if is_config(name):
        return model_of(load_config(name, options))
    if options:
        raise UserError("--cfg-options change a config; a class takes its arguments in brackets")
    package, class_name, args, kwargs = _parsed(name)
    try:
        if package == "timm":
            import timm

            return timm.create_model(class_name, *args, **({"features_only": True} | kwargs))
        if package != "mmhybrid":
            importlib.import_module(f"{package}.models")
        full_name = class_name if package == "mmhybrid" else f"{package}.{class_name}"
        make = MODELS.get(full_name)
        if make is None:
            raise UserError(f"no model is registered as {class_name} in {package}")
        inspect.signature(make).bind(*args, **kwargs)
    # Timm's own, and of packages that are missing or do not fit; ours would be bugs.
    except (ImportError, TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise UserError(f"{name} cannot be made: {error}") from error
    check_model(Config(dict(model=dict(kwargs, type=full_name))))
    return make(*args, **kwargs)


def init_model(
    name: str, checkpoint: str | None = None, options: dict[str, Any] | None = None
) -> nn.Module:
    """Makes a model with its weights, in evaluation mode.

    Args:
        name, options: See :func:`make_model`.
        checkpoint (str, optional): File or address of the weights. Defaults to ``name``, where that
            is a checkpoint; else the model is filled by :func:`random_init`: where training starts,
            LayerScale hides what most layers do. Of a backbone alone, or for other classes, the
            rest stays random, which is logged.

    Raises:
        UserError: No such config, class or checkpoint, or the weights do not fit.

    Example:
        >>> init_model("DWVisionTransformer(arch={'depth': 1})").training
        False
    """
    model = revert_sync_batchnorm(make_model(name, options))
    if checkpoint is None and is_checkpoint(name):
        checkpoint = name
    if checkpoint is None:
        return random_init(model).eval()
    try:
        report = load_checkpoint(model, checkpoint)
    except (CheckpointError, OSError) as error:
        raise UserError(str(error)) from error
    if told := new_heads(model, report):
        print_log(told, logger="current", level=logging.WARNING)
    return model.eval()


def first_backbone(model: nn.Module, name: str) -> nn.Module:
    """The first backbone of this package in a model; UserError, with its name, if there is none."""
    for backbone in backbones_of(model).values():
        return backbone
    raise UserError(f"{name} holds no backbone of mmhybrid")


def _parsed(name: str) -> tuple[str, str, list[Any], dict[str, Any]]:
    """Package, class, arguments and keyword arguments of ``package.Class(1, two=2)``."""
    try:
        node = ast.parse(name, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        args = [ast.literal_eval(one) for one in call.args]
        kwargs = {one.arg: ast.literal_eval(one.value) for one in call.keywords}
        package, _, class_name = ast.unparse(call.func).rpartition(".")
    except (SyntaxError, ValueError):
        package, class_name, args, kwargs = "", "", [], {}
    if not class_name.replace("_", "").isalnum() or None in kwargs:
        raise UserError(
            f"{name!r} names no model: give a config (.py), a class with its arguments, as in "
            "TransXNet('tiny') or mmdet.SwinTransformer, or timm.resnet50"
        )
    return package or "mmhybrid", class_name, args, kwargs


def model_of(cfg: Config) -> nn.Module:
    """The model of a config, without pretrained weights; UserError where its parts do not fit.

    A ``data_preprocessor`` beside the model is the model's, as in MMEngine's runner. The config is
    its ``cfg``, as OpenMMLab's functions leave it.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    given, cfg = cfg, without_pretrained(cfg)
    check_model(cfg)
    takes, takes_more = arguments_of(type_of(cfg.model, MODELS))
    if cfg.get("data_preprocessor") and ("data_preprocessor" in takes or takes_more):
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    model = MODELS.build(cfg.model)
    model.cfg = given
    return model


def size_of(cfg: Config) -> tuple[int, int]:
    """The (height, width) at which papers count the model of a config; UserError if it names none.

    What its test pipeline crops or resizes to, or else what training crops; for a detector tested
    at (1333, 800), 800 x 1280.
    """
    keys = {"CenterCrop": "crop_size", "RandomResizedCrop": "scale", "RandomCrop": "crop_size"}
    if cfg.get("default_scope") != "mmpretrain":  # whose tests resize before they crop
        keys["Resize"] = "scale"
    for _, dataset in datasets_of(cfg, ("test_dataloader", "train_dataloader")):
        for step in dataset.get("pipeline", []):
            if key := keys.get(type_name(step)):
                size = step[key]
                width, height = (size, size) if isinstance(size, int) else size
                return DETECTOR_SIZE if (width, height) == (1333, 800) else (height, width)
    raise UserError("the pipelines of the config name no size: give one with --shape")


def is_config(name: str) -> bool:
    """Whether a name is a config's path."""
    return Path(name).suffix == ".py"
