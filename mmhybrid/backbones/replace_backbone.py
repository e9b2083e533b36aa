"""Puts a backbone under the heads of a model config, with channels that fit."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from torch import nn

from mmhybrid.errors import ArgumentError
from mmhybrid.registry import type_name


def replace_backbone(model: Mapping[str, Any], backbone: Mapping[str, Any]) -> dict[str, Any]:
    """What to merge into a detector's or segmentor's config for another backbone of four stages.

    Made for the text of a config, where MMEngine merges the result into the model of the bases::

        _base_ = ["./_base_/mmhybrid.py", "./_base_/retinanet_coco_1x.py",
                  "./_base_/backbones/transxnet_t.py"]
        model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)

    A neck with ``in_channels`` says by their number how many of the last stages it takes; those
    below its ``start_level`` are left out. Without a neck the heads' ``in_index`` says it, and
    without that a head takes the last map, or as many of the last as it has ``in_channels``. Of a
    classifier the ``head`` tells the channels, and a neck between, which pools, has none. The
    backbone returns those stages, of strides up to 32, unless it has ``out_indices`` of its own.

    A ``TIMMBackbone`` needs no more than ``model_name``: it gets ``features_only=True`` and those
    ``out_indices``, channels are read from timm's ``feature_info``, and models that return
    (B, H, W, C) or take one size of images alone, as timm's Swin, get what makes them return
    (B, C, H, W) at other sizes. Nothing is downloaded here.

    Returns:
        dict: Config of ``backbone``, and ``in_channels`` of the neck or of ``decode_head`` and
        ``auxiliary_head``, whole heads where these are lists; and ``pretrained=None`` where the
        model has it, which would overrule the backbone's own ``init_cfg``.

    Raises:
        ArgumentError: The model does not tell its channels, the backbone returns more or fewer
            maps than it takes, or maps of other strides, or timm cannot make it.

    Example:
        >>> from mmhybrid import replace_backbone
        >>> model = dict(neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048]))
        >>> replace_backbone(model, dict(type='TransXNet', arch='tiny'))['neck']
        {'in_channels': [48, 96, 224, 448]}
    """
    if "backbone" not in model and isinstance(model.get("detector"), Mapping):  # SoftTeacher's
        return {"detector": replace_backbone(model["detector"], backbone)}
    if "backbone" not in model and "image_encoder" in model:  # SAN's
        raise ArgumentError(f"a {type_name(model)} has an image_encoder in a backbone's place")
    given = model.get("neck")
    neck, levels = given[0] if isinstance(given, list | tuple) else given, 4
    changes: dict[str, Any] = {"pretrained": None} if "pretrained" in model else {}
    if neck is not None and "in_channels" in neck:
        taken = neck["in_channels"]
        levels = 1 if isinstance(taken, int) else len(taken) - neck.get("start_level", 0)
    elif _takes_one_map(model):
        levels = 1
    elif neck is not None or "decode_head" not in model:
        raise ArgumentError(
            f"cannot fit a backbone to a {model.get('type')}: it has neither a neck with "
            "in_channels nor a decode_head that takes the backbone's maps; set the channels by hand"
        )

    backbone = inner = ConfigDict(backbone).to_dict()
    while "backbone" in inner:  # wrapped
        inner = inner["backbone"]
    channels = _fit_stages(backbone, inner, levels)
    changes["backbone"] = dict(backbone, _delete_=True)
    if neck is not None and "in_channels" in neck:
        if len(channels) != levels:
            raise ArgumentError(
                f"the neck takes {levels} maps, the backbone gives {len(channels)}: change the "
                "backbone's out_indices"
            )
        if isinstance(taken, int):
            changes["neck"] = dict(in_channels=channels[0])
        else:
            deepest_first = taken[0] > taken[-1]  # YOLOv3's neck
            changes["neck"] = dict(in_channels=channels[::-1] if deepest_first else channels)
        if neck.get("start_level", 0) > 0:
            changes["neck"]["start_level"] = 0
        if neck is not given:  # MMEngine replaces a list, and merges no necks in it
            changes["neck"] = [neck | changes["neck"], *given[1:]]
        return changes
    if _takes_one_map(model):
        return changes | {"head": dict(in_channels=channels[-1])}
    for name in ("decode_head", "auxiliary_head"):
        head = model.get(name)
        if isinstance(head, list | tuple):  # MMEngine replaces a list, and merges no heads in it
            changes[name] = [_merged(one, _head_changes(one, channels)) for one in head]
        elif head is not None:
            changes[name] = _head_changes(head, channels)
    return changes


def _takes_one_map(model: Mapping[str, Any]) -> bool:
    """Whether the model is a classifier that pools the last map, whose channels its head tells."""
    head = model.get("head")
    pools = bool(model.get("neck"))
    return pools and isinstance(head, Mapping) and isinstance(head.get("in_channels"), int)


def _head_changes(head: Mapping[str, Any], channels: Sequence[int]) -> dict[str, Any]:
    """Channels of a head, or of the heads inside of it that take maps of the backbone: K-Net's."""
    if "in_channels" in head or "in_index" in head:
        return dict(in_channels=_in_channels(head, channels))
    inner = {
        key: _head_changes(one, channels)
        for key, one in head.items()
        if isinstance(one, Mapping) and "in_index" in one
    }
    return inner or dict(in_channels=_in_channels(head, channels))


def _merged(head: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return dict(head) | {
        key: _merged(head[key], one) if isinstance(one, Mapping) else one
        for key, one in changes.items()
    }


def _fit_stages(backbone: dict[str, Any], inner: dict[str, Any], levels: int) -> list[int]:
    """Gives a backbone ``out_indices`` where it has none; returns the channels of its maps."""
    ours_to_choose = "out_indices" not in inner
    wanted = [4, 8, 16, 32][-levels:]
    if type_name(inner) == "TIMMBackbone":
        _complete_timm(inner, levels)
    elif ours_to_choose:
        inner["out_indices"] = tuple(range(4 - levels, 4))
    channels, strides = _maps_of(backbone)
    if ours_to_choose and [2 * stride for stride in strides] == wanted:  # five levels
        inner["out_indices"] = tuple(range(5 - levels, 5))
        channels, strides = _maps_of(backbone)
    checked = ours_to_choose and levels > 1 and not {"strides", "output_stride"} & set(inner)
    if strides and (strides[0] < 4 or (checked and strides != wanted)):
        five_levels = f", as out_indices={tuple(range(5 - levels, 5))}" if strides[0] == 2 else ""
        raise ArgumentError(
            f"the maps {inner['out_indices']} of {_name(inner)} have strides {strides}, the model "
            f"takes {wanted}: choose others by the backbone's out_indices{five_levels}"
        )
    return channels


def _complete_timm(inner: dict[str, Any], levels: int) -> None:
    """Has a model of timm return maps, of shape (B, C, H, W), of images of any size."""
    inner["features_only"] = True
    inner.setdefault("out_indices", tuple(range(-levels, 0)))  # timm's have four to six levels
    try:
        model = _build(inner).timm_model
    except (RuntimeError, TypeError, ValueError, LookupError, AssertionError) as error:
        raise ArgumentError(
            f"timm makes no feature maps {inner['out_indices']} with {_name(inner)}: {error}"
        ) from error
    if getattr(model, "output_fmt", "NCHW") == "NHWC":
        inner.setdefault("feature_cls", "getter")  # which permutes them
        if any(getattr(module, "strict_img_size", False) for module in model.modules()):
            inner.setdefault("strict_img_size", False)


def _name(backbone: Mapping[str, Any]) -> str:
    return backbone.get("model_name") or type_name(backbone)


def _build(backbone: Mapping[str, Any]) -> nn.Module:
    """A backbone of this config, whoever wrote it, for looking at."""
    config = inner = ConfigDict(backbone)
    while "backbone" in inner:
        inner = inner["backbone"]
    if type_name(inner) == "TIMMBackbone":
        inner["pretrained"] = False  # which it would download
    with without_info():  # TIMMBackbone logs what it returns
        try:
            with torch.device("meta"):  # quick: nothing is initialised
                return MODELS.build(config)
        except RuntimeError:  # mmdet's Swin reads values while it is built, and there are none
            with torch.random.fork_rng(devices=[]):
                return MODELS.build(config)


@contextmanager
def without_info() -> Iterator[None]:
    """Inside, MMEngine's current logger logs warnings and errors alone."""
    # logging.disable() would stay: MMEngine's loggers remember what they asked it.
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


@torch.no_grad()
def _maps_of(backbone: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Channels and strides of its maps; no strides where it tells its channels alone."""
    built = _build(backbone)
    if (info := getattr(getattr(built, "timm_model", None), "feature_info", None)) is not None:
        return info.channels(), info.reduction()
    if given := getattr(built, "feature_channels", None):
        return list(given), list(getattr(built, "feature_strides", ()))
    built.train(False)  # not eval(), which returns what train() does: in mmpretrain, nothing
    device = next(built.parameters()).device
    maps = built(torch.zeros(1, 3, 64, 64, device=device))
    return [one.shape[1] for one in maps], [64 // one.shape[2] for one in maps]


def _in_channels(head: Mapping[str, Any], channels: Sequence[int]) -> int | list[int]:
    """Channels of those maps that a head of mmseg takes, out of the channels of all."""
    index = head.get("in_index")
    if index is None:
        now = head.get("in_channels", 1)
        index = -1 if isinstance(now, int) else range(-len(now), 0)
    try:
        return channels[index] if isinstance(index, int) else [channels[i] for i in index]
    except IndexError as error:
        raise ArgumentError(
            f"the {head.get('type')} takes more maps than the backbone gives, which are "
            f"{len(channels)}: change the backbone's out_indices"
        ) from error
