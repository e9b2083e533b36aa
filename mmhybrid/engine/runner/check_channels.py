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
        keys = ["neck"] if part.node.get("neck") else ["decode_head", "auxiliary_head"]
        for key in keys:
            near = part.node.get(key)
            # Of several necks the first takes the maps.
            several = near[:1] if key == "neck" and isinstance(near, list | tuple) else near
            for steps, one in _numbered(key, several):
                where = Part((*part.path, *steps), one, None).where
                _compare_channels(where, one, list(backbone.feature_channels))


def _numbered(key: str, given: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """A dictionary, or those in a list, each with the steps that lead to it."""
    if isinstance(given, dict):
        yield (key,), given
    elif isinstance(given, list | tuple):
        yield from (((key, i), one) for i, one in enumerate(given) if isinstance(one, dict))


def _compare_channels(where: str, part: Any, given: list[int]) -> None:
    expected, index = part.get("in_channels"), part.get("in_index")
    for key, inner in part.items():
        if isinstance(inner, dict) and "in_index" in inner:  # a head in a head
            _compare_channels(f"{where}.{key}", inner, given)
    if index is None and isinstance(expected, int) and len(given) == 1:
        expected = [expected]
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
