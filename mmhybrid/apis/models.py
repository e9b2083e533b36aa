"""From what a command line names to a model: a config, a class of a registry, or timm's name."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmhybrid  # noqa: F401  (registers the backbones)
from mmhybrid.datasets.data_paths import datasets_of
from mmhybrid.engine.runner.check_config import check_model
from mmhybrid.engine.runner.run_config import UserError, load_config, without_pretrained
from mmhybrid.registry import type_name

DETECTOR_SIZE = (800, 1280)  # that papers count at; a test at (1333, 800) pads to about this


def make_model(name: str, options: dict[str, Any] | None = None) -> nn.Module:
    """Makes a model with random weights.

    Args:
        name: a config's path; a class of mmhybrid's or OpenMMLab's registries, with its arguments
            as in Python, ``TransXNet('small')`` or ``mmdet.SwinTransformer``; or a model of timm,
            ``timm.resnet50``, which gives its feature maps unless ``features_only=False``.
        options: of ``--cfg-options``, for a config.

    Raises:
        UserError: no such config, class or model, or it does not take these arguments; or there are
            options for a class.
    """
    if is_config(name):
        return model_of(load_config(name, options))
    if options:
        raise UserError("--cfg-options change a config; a class takes its arguments in brackets")
    package, kind, args, kwargs = _parsed(name)
    try:
        if package == "timm":
            import timm

            return timm.create_model(kind, *args, **({"features_only": True} | kwargs))
        if package == "mmhybrid":
            make = MODELS.get(kind)
        else:
            importlib.import_module(f"{package}.models")
            make = MODELS.get(f"{package}.{kind}")
        if make is None:
            raise UserError(f"no model is registered as {kind} in {package}")
        return make(*args, **kwargs)
    except (ImportError, TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise UserError(f"{name} cannot be made: {error}") from error


def _parsed(name: str) -> tuple[str, str, list[Any], dict[str, Any]]:
    """Package, class, arguments and keyword arguments of ``package.Class(1, two=2)``."""
    try:
        node = ast.parse(name, mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        args = [ast.literal_eval(one) for one in call.args]
        kwargs = {one.arg: ast.literal_eval(one.value) for one in call.keywords}
        package, _, kind = ast.unparse(call.func).rpartition(".")
    except (SyntaxError, ValueError):
        package, kind, args, kwargs = "", "", [], {}
    if not kind.replace("_", "").isalnum() or None in kwargs:
        raise UserError(
            f"{name!r} names no model: give a config (.py), a class with its arguments, as in "
            "TransXNet('tiny') or mmdet.SwinTransformer, or timm.resnet50"
        )
    return package or "mmhybrid", kind, args, kwargs


def model_of(cfg: Config) -> nn.Module:
    """The model of a config, without its pretrained weights.

    Raises:
        UserError: a name in the model does not exist, or its parts do not fit together.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    cfg = without_pretrained(cfg)
    check_model(cfg)
    return MODELS.build(cfg.model)


def size_of(cfg: Config) -> tuple[int, int]:
    """The (height, width) at which papers count the model of a config.

    What its test pipeline crops or resizes to, or else what training crops; for a detector tested
    at (1333, 800), 800 x 1280.

    Raises:
        UserError: the pipelines say nothing of a size.
    """
    classifier = cfg.get("default_scope") == "mmpretrain"  # its test resizes before it crops
    keys = {"CenterCrop": "crop_size", "RandomResizedCrop": "scale", "RandomCrop": "crop_size"}
    if not classifier:
        keys["Resize"] = "scale"
    for _, dataset in datasets_of(cfg, ("test_dataloader", "train_dataloader")):
        for step in dataset.get("pipeline", []):
            kind = type_name(step)
            if kind not in keys:
                continue
            size = step[keys[kind]]
            width, height = (size, size) if isinstance(size, int) else size
            return DETECTOR_SIZE if (width, height) == (1333, 800) else (height, width)
    raise UserError("the pipelines of the config name no size: give one with --shape")


def is_config(name: str) -> bool:
    """Whether a name is a config's path."""
    return Path(name).suffix == ".py"
