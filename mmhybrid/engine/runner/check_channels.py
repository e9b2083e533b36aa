"""Whether necks and heads take the channels that a backbone of ours gives."""

import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor

from mmhybrid.backbones import HybridBackbone
from mmhybrid.engine.runner.config_parts import Part, arguments_of, parts_of
from mmhybrid.errors import ArgumentError, UserError
from mmhybrid.registry import type_name

POOLS = ("GlobalAveragePooling", "GeneralizedMeanPooling")  # necks that keep the channels


def check_channels(cfg: Config) -> None:
    """Raise a UserError unless a backbone of ours fits its images, and what takes its maps."""
    for part, inner in _backbones(cfg):
        _compare_images(part, inner, cfg.get("data_preprocessor"))
        channels = list(_build(inner).feature_channels)
        for near in _parts_beside(part):
            # A classifier's head takes the last map.
            given = channels[-1:] if near.key == "head" else channels
            _compare_channels(near.where, near.node, given)


def check_unused_maps(cfg: Config) -> None:
    """Tell, before a training, of a neck that leaves out maps with layers of their own.

    These layers get no gradient, which several processes wait for.

    Raises:
        UserError: There are several processes, and ``find_unused_parameters`` is not set.
    """
    wrapper = cfg.get("model_wrapper_cfg") or {}
    keys = ("find_unused_parameters", "static_graph")  # DDP then looks itself
    if any(one.get(key) for one in (cfg, wrapper) for key in keys):
        return
    if "FullySharded" in type_name(wrapper):
        return
    for part, inner in _backbones(cfg):
        (neck, *_) = [*_parts_beside(part)] or [part]
        start = neck.node.get("start_level") or 0
        if neck.key != "neck" or not start:
            continue
        backbone = _build(inner)
        image = torch.empty(2, _in_channels(inner), 64, 64, device="meta")
        unused = _only_in_the_first(start, backbone.train()(image), backbone)
        if not unused:
            continue
        channels = list(backbone.feature_channels[start:])
        told = (
            f"{neck.where}: start_level={start} leaves {', '.join(unused)} of {inner.where} "
            "without a gradient, which several processes wait for. Set "
            f"{inner.where}.out_indices={backbone.out_indices[start:]}, "
            f"{neck.where}.in_channels={channels} and {neck.where}.start_level=0, or "
            "find_unused_parameters=True, which looks for them in each step"
        )
        if cfg.get("launcher", "none") != "none" and "strategy" not in cfg:
            raise UserError(told)
        print_log(told, logger="current", level=logging.WARNING)


def _only_in_the_first(start: int, maps: Sequence[Tensor], backbone: HybridBackbone) -> list[str]:
    """Names of the modules that train, and that only the maps before number ``start`` need."""
    trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    later = [one.sum() for one in maps[start:] if one.requires_grad]
    if not trained or start >= len(maps):
        return []
    found: Sequence[Tensor | None] = [None] * len(trained)
    if later:
        found = torch.autograd.grad(sum(later), list(trained.values()), allow_unused=True)
    unused = [name for name, one in zip(trained, found, strict=True) if one is None]
    return list(dict.fromkeys(name.rpartition(".")[0] for name in unused))


def _backbones(cfg: Config) -> Iterator[tuple[Part, Part]]:
    """Each part of the model with a backbone of ours, and that backbone."""
    for part in parts_of(cfg):
        node = part.node.get("backbone") if part.path[:1] == ("model",) else None
        if isinstance(node, dict) and "type" in node:
            inner = Part((*part.path, "backbone"), node, node.get("_scope_", part.scope))
            found = inner.found()
            if inspect.isclass(found) and issubclass(found, HybridBackbone):
                yield part, inner


def _build(inner: Part) -> HybridBackbone:
    with MODELS.switch_scope_and_registry(inner.scope) as registry:
        try:
            with torch.device("meta"):
                return registry.build(dict(inner.node, init_cfg=None))
        except ArgumentError as error:
            raise ArgumentError(f"{inner.where} ({inner.found().__name__}): {error}") from error


def _in_channels(inner: Part) -> int:
    default = arguments_of(inner.found())[0].get("in_channels", 3)
    return inner.given.get("in_channels", default)


def _compare_images(part: Part, inner: Part, default: dict[str, Any] | None) -> None:
    """Whether the backbone takes as many channels as the images are normalised by."""
    own = "data_preprocessor" in part.node or part.path != ("model",)
    mean = ((part.node.get("data_preprocessor") if own else default) or {}).get("mean")
    channels = _in_channels(inner)
    # One is for all of them; several images may be in one tensor, as in change detection.
    if not isinstance(mean, list | tuple) or len(mean) in (1, channels):
        return
    if channels > 1 and len(mean) % channels == 0:
        return
    where = f"{part.where}.data_preprocessor" if own else "data_preprocessor"
    raise UserError(
        f"{inner.where}: in_channels={channels}, but {where}.mean has {len(mean)} values. Set "
        f"in_channels={len(mean)}, or mean and std of {channels} values, or of one for all, and "
        f"have the pipelines read images of {channels} channels (color_type of LoadImageFromFile)."
    )


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
    if part.get("with_avg_pool") is False:  # a neck that flattens the map
        return
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
