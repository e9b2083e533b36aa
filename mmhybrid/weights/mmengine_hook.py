"""One way of loading for ``init_cfg``, ``load_from`` and inferencers, and one of saving.

MMEngine loads what has the same name, and warns of the rest: a file of somebody else's loads
"successfully" with nothing loaded. Where the model holds a backbone of ours and the names differ,
:func:`mmhybrid.weights.loading.load_weights` does it instead. Files that match exactly, such as
those that a run resumes from, and other models go the old way.

What MMEngine saves on a disk goes through :func:`mmhybrid.weights.writing.write_checkpoint`.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from mmhybrid.import_hooks import add_import_hook
from mmhybrid.weights.errors import CheckpointError
from mmhybrid.weights.families import describe
from mmhybrid.weights.loading import (
    backbones_of,
    find_weights,
    load_tensors,
    load_weights,
    unwrapped,
    without_wrappers,
)
from mmhybrid.weights.writing import write_checkpoint

_source = (0, "the checkpoint")


def apply() -> None:
    """Installs the hook in MMEngine, as soon as its modules are imported."""
    add_import_hook("mmengine.runner.checkpoint", _patch_loading)
    add_import_hook("mmengine.runner.checkpoint", _patch_saving)
    add_import_hook("mmengine.model.weight_init", _patch_pretrained)
    for name in ("mmengine.hooks.ema_hook", "mmpretrain.engine.hooks.ema_hook"):
        add_import_hook(name, _patch_averaging)


def _patch_loading(module: ModuleType) -> None:
    original = module._load_checkpoint_to_model
    read = module.CheckpointLoader.load_checkpoint

    @functools.wraps(original)
    def load_checkpoint_to_model(
        model: nn.Module,
        checkpoint: dict,
        strict: bool = False,
        logger: Any = None,
        revise_keys: Any = ((r"^module\.", ""),),
    ) -> dict:
        if not _is_ours_to_load(model, checkpoint):
            return original(model, checkpoint, strict, logger, revise_keys)
        entry, weights = find_weights(checkpoint, source=_source_of(checkpoint))
        for pattern, replacement in revise_keys:
            weights = {re.sub(pattern, replacement, key): weights[key] for key in weights}
        load_tensors(
            model,
            weights,
            source=_source_of(checkpoint),
            entry=entry,
            strict=strict,
            logger=logger or "current",
        )
        return checkpoint

    @functools.wraps(read)
    def load_checkpoint(cls: type, filename: str, *args: Any, **kwargs: Any) -> Any:
        global _source
        checkpoint = read(filename, *args, **kwargs)
        _source = (id(checkpoint), filename)
        return checkpoint

    module.CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)
    _replace_everywhere(original, load_checkpoint_to_model)


def _replace_everywhere(original: Callable, replacement: Callable) -> None:
    """Replaces a function in all modules that hold it: MMEngine's runner imports it by name."""
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(original.__name__) is original:
            setattr(module, original.__name__, replacement)


def _patch_saving(module: ModuleType) -> None:
    original = module.save_checkpoint

    @functools.wraps(original)
    def save_checkpoint(
        checkpoint: dict, filename: str, file_client_args: Any = None, backend_args: Any = None
    ) -> None:
        if "://" in str(filename) or file_client_args or backend_args:
            original(checkpoint, filename, file_client_args, backend_args)
        else:
            Path(filename).parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(checkpoint, filename)

    _replace_everywhere(original, save_checkpoint)


def _patch_pretrained(module: ModuleType) -> None:
    """``init_cfg=dict(type='Pretrained', prefix=...)`` takes another way through MMEngine."""
    original = module.PretrainedInit.__call__

    @functools.wraps(original)
    def call(self: Any, model: nn.Module) -> None:
        if self.prefix is None or not backbones_of(model):
            original(self, model)
            return
        from mmengine.runner.checkpoint import CheckpointLoader

        checkpoint = CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location)
        prefix = self.prefix.rstrip(".") + "."
        entry, weights = find_weights(checkpoint, source=_source_of(checkpoint))
        weights = {without_wrappers(key): tensor for key, tensor in weights.items()}
        part = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        if not part:
            raise CheckpointError(
                f"no name in {entry} of {self.checkpoint} starts with prefix={prefix!r}. It seems "
                f"to hold {describe(weights)}; without a prefix, its backbone is found."
            )
        load_tensors(model, part, source=self.checkpoint, entry=entry)
        if hasattr(model, "_params_init_info"):
            module.update_init_info(model, init_info=self._get_init_info())

    module.PretrainedInit.__call__ = call


def _patch_averaging(module: ModuleType) -> None:
    """Averaged weights start from ``load_from`` too."""
    original = module.EMAHook.after_load_checkpoint

    @functools.wraps(original)
    def after_load_checkpoint(self: Any, runner: Any, checkpoint: dict) -> None:
        averaged = self.ema_model.module
        if runner._resume or not _is_ours_to_load(averaged, checkpoint):
            original(self, runner, checkpoint)
        else:
            load_weights(averaged, checkpoint, source=_source_of(checkpoint))

    module.EMAHook.after_load_checkpoint = after_load_checkpoint


def _source_of(checkpoint: Any) -> str:
    return _source[1] if _source[0] == id(checkpoint) else "the checkpoint"


def _is_ours_to_load(model: nn.Module, checkpoint: Any) -> bool:
    """Whether the model holds a backbone of ours and the names or shapes differ."""
    model = unwrapped(model)
    if not backbones_of(model):
        return False
    if not isinstance(checkpoint, Mapping) or "state_dict_ema" in checkpoint:
        return True
    state = checkpoint.get("state_dict", checkpoint)
    shapes = {without_wrappers(key): getattr(value, "shape", None) for key, value in state.items()}
    return shapes != {key: value.shape for key, value in model.state_dict().items()}
