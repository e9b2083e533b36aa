"""Whether necks and heads take the channels that a backbone of ours gives."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmhybrid.backbones import HybridBackbone
from mmhybrid.engine.runner.config_parts import Part, parts_of
from mmhybrid.errors import ArgumentError, UserError
from mmhybrid.registry import type_name

POOLS = ("GlobalAveragePooling", "GeneralizedMeanPooling")  # necks that keep the channels


def check_channels(cfg: Config) -> None:
    """Raise a UserError unless what stands beside a backbone of ours takes its maps."""
    for part in parts_of(cfg):
        node = part.node.get("backbone") if part.path[:1] == ("model",) else None
        if not isinstance(node, dict) or "type" not in node:
            continue
        inner = Part((*part.path, "backbone"), node, node.get("_scope_", part.scope))
        found = inner.found()
        if not (inspect.isclass(found) and issubclass(found, HybridBackbone)):
            continue
        with MODELS.switch_scope_and_registry(part.scope) as registry:
            try:
                with torch.device("meta"):
                    backbone = registry.build(dict(node, init_cfg=None))
            except ArgumentError as error:
                raise ArgumentError(f"{inner.where} ({found.__name__}): {error}") from error
        for near in _parts_beside(part):
            channels = list(backbone.feature_channels)
            # A classifier's head takes the last map.
            given = channels[-1:] if near.key == "head" else channels
            _compare_channels(near.where, near.node, given)


def _parts_beside(part: Part) -> Iterator[Part]:
    """What takes the maps of a model's backbone."""
    necks = [one for one in _numbered(part, "neck") if type_name(one.node) not in POOLS]
    if necks:
        yield necks[0]  # whose maps the others take
        return
    yield from _numbered(part, "decode_head")
    yield from _numbered(part, "auxiliary_head")
    yield from (one for one in _numbered(part, "head") if "ClsHead" in one.bases())


def _numbered(part: Part, key: str) -> Iterator[Part]:
    """The dictionary of a key, or those in its list."""
    given = part.node.get(key)
    several = isinstance(given, list | tuple)
    for i, one in enumerate(given if several else [given]):
        if isinstance(one, dict):
            path = (*part.path, key, i) if several else (*part.path, key)
            yield Part(path, one, one.get("_scope_", part.scope))


def _compare_channels(where: str, part: Any, given: list[int]) -> None:
    expected, index = part.get("in_channels"), part.get("in_index")
    for key, inner in part.items():
        if isinstance(inner, dict) and "in_index" in inner:  # a head in a head
            _compare_channels(f"{where}.{key}", inner, given)
    is_one = isinstance(expected, int)
    if is_one and (index is not None or len(given) == 1):
        expected = [expected]
    if index is not None:
        indices = index if isinstance(index, list | tuple) else [index]
        if any(one >= len(given) for one in indices):
            maps = f"{len(given)} maps (out_indices), numbered from 0"
            raise UserError(f"{where}: in_index={index}, but model.backbone gives {maps}")
        given = [given[one] for one in indices]
    if not isinstance(expected, list | tuple):
        return
    if type_name(part) == "YOLOV3Neck":  # which counts from the last map
        given = given[::-1]
    if list(expected) != given:
        seen, right = (expected[0], given[0]) if is_one else (list(expected), given)
        raise UserError(
            f"{where}: in_channels={seen}, but model.backbone gives {right} channels. "
            f"Set {where}.in_channels={right}, or change model.backbone.out_indices."
        )
