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
    *("teacher_state_dict", "momentum_encoder", "target_encoder", "params_ema", "shadow"),
)
PLAIN = (
    *("state_dict", "model", "model_state_dict", "net", "network", "module", "student", "weights"),
    *("student_state_dict", "backbone", "encoder", "model_state", "model_weights", "params"),
)
IN_AVERAGED = (*PLAIN, *AVERAGED)
# Names of modules in one file with those that they are the average of.
AVERAGED_MODULE = re.compile(r"(^|[._])(teacher|ema|momentum|averaged|target)([._]|$)")
# More than any model has; what is done with names grows with both.
MOST_TENSORS = 20_000
LONGEST_NAME = 300  # characters
MOST_PARTS = 30  # of a name, between its dots
_PARALLEL = re.compile(r"^(module\.)+|_orig_mod\.")


def without_wrappers(key: str) -> str:
    """A name without what data parallel and compiled models put in."""
    if len(key) > LONGEST_NAME:
        return key  # the name of no tensor
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
) -> tuple[str, dict[str, Tensor], bool]:
    """The name of the entry that holds the weights, its tensors, and whether they are an average.

    ``ema`` takes the averaged weights (a teacher's too) or the others; by default the averaged
    ones where there are both.
    """
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{source} holds no weights but a {type(checkpoint).__name__}")
    plain = _entry(checkpoint, PLAIN, source)
    averaged = _entry(checkpoint, AVERAGED, source)
    if averaged and plain and averaged[0] == "ema_state_dict" and "meta" in checkpoint:
        # MMEngine's EMAHook saves the averaged weights as `state_dict` and the others here.
        others = {without_wrappers(key): tensor for key, tensor in averaged[1].items()}
        kept = {key: others.get(key, tensor) for key, tensor in plain[1].items()}
        averaged, plain = plain, ("ema_state_dict", kept)
    root = _tensors(checkpoint, source)
    both = plain[1] if plain else root
    if ema and not averaged and not any(AVERAGED_MODULE.search(key) for key in both):
        raise CheckpointError(f"{source} holds no averaged (EMA) weights")
    if ema is False and averaged and not plain:
        raise CheckpointError(f"{source} holds averaged (EMA) weights only")
    found = (plain if ema is False else averaged or plain) or ("the root", root)
    if not found[1]:
        entries = [str(key)[:40] if isinstance(key, str) else "..." for key in checkpoint]
        raise CheckpointError(f"{source} holds no weights; its entries are {entries[:10]}")
    for key, tensor in found[1].items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            form = "quantised" if tensor.is_quantized else "sparse"
            raise CheckpointError(f"{source} has {key} as a {form} tensor, which no model here has")
    return *found, found is averaged


def in_full_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same, float16 and bfloat16 as float32: by value, and what resizes them is exact."""
    half = (torch.float16, torch.bfloat16)
    return {key: value.float() if value.dtype in half else value for key, value in weights.items()}


def _tensors(values: Any, source: str) -> dict[str, Tensor]:
    if not isinstance(values, Mapping):
        return {}
    found = {k: v for k, v in values.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if len(found) > MOST_TENSORS:
        raise CheckpointError(f"{source} holds {len(found)} tensors; no model here has so many")
    for key in found:
        if len(key) > LONGEST_NAME or key.count(".") >= MOST_PARTS:
            told = f"a name of {len(key)} characters and {key.count('.') + 1} parts"
            raise CheckpointError(f"{source} has a tensor with {told}: {key[:60]}...")
    return found


def _entry(
    checkpoint: Mapping[str, Any], names: tuple[str, ...], source: str
) -> tuple[str, dict[str, Tensor]] | None:
    """The first of these entries that holds tensors, maybe some levels deeper."""
    for name in names:
        inner = checkpoint.get(name)
        tensors = _tensors(inner, source)
        if any(tensor.ndim for tensor in tensors.values()):  # numbers alone are a decay, a count
            return name, tensors
        inside = PLAIN if names is PLAIN else IN_AVERAGED
        if isinstance(inner, Mapping) and (found := _entry(inner, inside, source)):
            return f"{name}.{found[0]}", found[1]
    for name in PLAIN if names is AVERAGED else ():
        inner = checkpoint.get(name)
        if isinstance(inner, Mapping) and (found := _entry(inner, AVERAGED, source)):
            return f"{name}.{found[0]}", found[1]
    return None
