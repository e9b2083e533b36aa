"""Which model a checkpoint that was refused would fill."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmhybrid.backbones.base import backbone_classes
from mmhybrid.backbones.family import Backbone
from mmhybrid.weights.comparing import compare
from mmhybrid.weights.families import recognise, without_prefix
from mmhybrid.weights.matching import backbones_of


def suggestion(model: nn.Module, weights: Mapping[str, Tensor]) -> str | None:
    """The call that makes a backbone which these tensors fill, None if none is known."""
    bare = {without_prefix(key): tensor for key, tensor in weights.items()}
    family = recognise(weights)
    likely = dict.fromkeys(map(type, backbones_of(model).values()))
    if family is not None and family.backbone is not None:
        likely[family.backbone] = None
    candidates = [
        (backbone, partial(backbone.suggest, dict(bare)))
        for backbone in likely | dict.fromkeys(backbone_classes(Backbone))
    ]
    candidates += [
        (one, partial(dict, options)) for one in likely for options in _published_options(one)
    ]
    shapes = {key: tensor.to("meta") for key, tensor in weights.items()}
    tried = set()
    for backbone, options_of in candidates:
        try:
            options = options_of()
            if not options or (backbone, repr(options)) in tried:
                continue
            tried.add((backbone, repr(options)))
            refusals = compare(_on_meta(backbone, options), shapes)[2].refusals
        except (IndexError, RuntimeError, TypeError, ValueError, KeyError):
            continue  # of a shape that is nobody's, or a class of somebody's own
        if not refusals:
            arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
            return f"{backbone.__name__}({arguments})"
    return None


def _on_meta(backbone: type[Backbone], options: Mapping[str, Any]) -> Backbone:
    with torch.device("meta"):
        return backbone(**options)


def _published_options(backbone: type[Backbone]) -> Iterator[dict[str, Any]]:
    for one in backbone.pretrained:
        if not one.config:
            yield dict(one.options)
    for arch in getattr(backbone, "presets", {}):
        yield dict(arch=arch)
