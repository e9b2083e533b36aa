"""Puts a backbone under the heads of a model config, with channels that fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from mmhybrid.errors import ArgumentError


def replace_backbone(model: Mapping[str, Any], backbone: Mapping[str, Any]) -> dict[str, Any]:
    """What to merge into a detector's or segmentor's config for another backbone of four stages.

    Made for the text of a config, where MMEngine merges the result into the model of the bases::

        _base_ = ["./_base_/mmhybrid.py", "./_base_/retinanet_coco_1x.py",
                  "./_base_/backbones/transxnet_t.py"]
        model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)

    A neck with ``in_channels`` says by their number how many of the last stages it takes; those
    below its ``start_level`` are left out. Without a neck the heads' ``in_index`` says it, and
    without that a head takes the last map, or as many of the last as it has ``in_channels``. The
    backbone returns those stages, unless it has ``out_indices`` of its own.

    Returns:
        dict: Config of ``backbone``, and ``in_channels`` of the neck or of ``decode_head`` and
        ``auxiliary_head``, whole heads where these are lists; and ``pretrained=None`` where the
        model has it, which would overrule the backbone's own ``init_cfg``.

    Example:
        >>> from mmhybrid import replace_backbone
        >>> model = dict(neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048]))
        >>> replace_backbone(model, dict(type='TransXNet', arch='tiny'))['neck']
        {'in_channels': [48, 96, 224, 448]}
    """
    neck, levels = model.get("neck"), 4
    changes: dict[str, Any] = {"pretrained": None} if "pretrained" in model else {}
    if neck is not None and "in_channels" in neck:
        taken = neck["in_channels"]
        levels = len(taken) - neck.get("start_level", 0)
    elif neck is not None or "decode_head" not in model:
        raise ArgumentError(
            f"cannot fit a backbone to a {model.get('type')}: it has neither a neck with "
            "in_channels nor a decode_head that takes the backbone's maps; set the channels by hand"
        )

    backbone = inner = ConfigDict(backbone).to_dict()
    while "backbone" in inner:  # wrapped
        inner = inner["backbone"]
    inner.setdefault("out_indices", tuple(range(4 - levels, 4)))
    channels = feature_channels(backbone)
    changes["backbone"] = dict(backbone, _delete_=True)
    if neck is not None:
        if len(channels) != levels:
            raise ArgumentError(
                f"the neck takes {levels} maps, the backbone gives {len(channels)}: change the "
                "backbone's out_indices"
            )
        deepest_first = taken[0] > taken[-1]  # YOLOv3's neck
        changes["neck"] = dict(in_channels=channels[::-1] if deepest_first else channels)
        if neck.get("start_level", 0) > 0:
            changes["neck"]["start_level"] = 0
        return changes
    for name in ("decode_head", "auxiliary_head"):
        head = model.get(name)
        if isinstance(head, list | tuple):  # MMEngine replaces a list, and merges no heads in it
            changes[name] = [dict(one, in_channels=_in_channels(one, channels)) for one in head]
        elif head is not None:
            changes[name] = dict(in_channels=_in_channels(head, channels))
    return changes


def feature_channels(backbone: Mapping[str, Any]) -> list[int]:
    """Channels of the maps that a backbone of this config returns, whoever wrote it."""
    try:
        with torch.device("meta"):  # quick: nothing is initialised
            return _built_channels(backbone)
    except RuntimeError:  # mmdet's Swin reads values while it is built, and there are none
        with torch.random.fork_rng(devices=[]):
            return _built_channels(backbone)


@torch.no_grad()
def _built_channels(backbone: Mapping[str, Any]) -> list[int]:
    built = MODELS.build(ConfigDict(backbone)).eval()
    given = getattr(built, "feature_channels", None)
    return list(given or (one.shape[1] for one in built(torch.zeros(1, 3, 64, 64))))


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
