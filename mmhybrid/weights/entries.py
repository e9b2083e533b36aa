"""Finding the weights in a checkpoint, and the names that wrappers of models put before theirs."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from mmhybrid.weights.errors import CheckpointError

AVERAGED = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model", "teacher"),
    *("teacher_state_dict", "momentum_encoder", "target_encoder", "params_ema"),
)
PLAIN = (
    *("state_dict", "model", "model_state_dict", "net", "network", "module", "student", "weights"),
    *("student_state_dict", "backbone", "encoder", "model_state", "model_weights", "params"),
)
# Names of modules in one file with those that they are the average of.
AVERAGED_MODULE = re.compile(r"(^|[._])(teacher|ema|momentum|averaged|target)([._]|$)")
_PARALLEL = re.compile(r"^(module\.)+|_orig_mod\.")


def without_wrappers(key: str) -> str:
    """A name without what data parallel and compiled models put in."""
    while (shorter := _PARALLEL.sub("", key)) != key:
        key = shorter
    return key


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside data parallel and compiled ones."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        else:
            return model


def find_weights(
    checkpoint: Any, ema: bool | None = None, source: str = "the checkpoint"
) -> tuple[str, dict[str, Tensor]]:
    """The name of the entry that holds the weights, and its tensors.

    ``ema`` takes the averaged weights (a teacher's too) or the others; by default the averaged
    ones where there are both.
    """
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{source} holds no weights but a {type(checkpoint).__name__}")
    plain = _entry(checkpoint, PLAIN)
    averaged = _entry(checkpoint, AVERAGED)
    if averaged and plain and averaged[0] == "ema_state_dict" and "meta" in checkpoint:
        # MMEngine's EMAHook saves the averaged weights as `state_dict` and the others here.
        others = {without_wrappers(key): tensor for key, tensor in averaged[1].items()}
        kept = {key: others.get(key, tensor) for key, tensor in plain[1].items()}
        averaged, plain = plain, ("ema_state_dict", kept)
    root = _tensors(checkpoint)
    both = plain[1] if plain else root
    if ema and not averaged and not any(AVERAGED_MODULE.search(key) for key in both):
        raise CheckpointError(f"{source} holds no averaged (EMA) weights")
    if ema is False and averaged and not plain:
        raise CheckpointError(f"{source} holds averaged (EMA) weights only")
    if found := plain if ema is False else averaged or plain:
        return found
    if root:
        return "the root", root
    raise CheckpointError(f"{source} holds no weights; its entries are {list(checkpoint)[:10]}")


def in_full_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same, float16 and bfloat16 as float32: by value, and what resizes them is exact."""
    half = (torch.float16, torch.bfloat16)
    return {key: value.float() if value.dtype in half else value for key, value in weights.items()}


def _tensors(values: Any) -> dict[str, Tensor]:
    if not isinstance(values, Mapping):
        return {}
    return {k: v for k, v in values.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _entry(
    checkpoint: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[str, dict[str, Tensor]] | None:
    """The first of these entries that holds tensors, maybe some levels deeper."""
    for name in names:
        inner = checkpoint.get(name)
        if tensors := _tensors(inner):
            return name, tensors
        if isinstance(inner, Mapping) and (found := _entry(inner, PLAIN)):
            return f"{name}.{found[0]}", found[1]
    for name in PLAIN if names is AVERAGED else ():
        inner = checkpoint.get(name)
        if isinstance(inner, Mapping) and (found := _entry(inner, AVERAGED)):
            return f"{name}.{found[0]}", found[1]
    return None
