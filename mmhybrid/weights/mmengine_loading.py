"""MMEngine's ways of loading and saving, for models that hold a backbone of ours.

MMEngine loads what has the same name, and warns of the rest: a file of somebody else's loads
"successfully" with nothing loaded. Importing mmhybrid changes that for ``init_cfg`` alone, and
registers the scheme ``mmhybrid://``.
"""

import functools
import io
import os
import re
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.logging import print_log
from mmengine.model import weight_init
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from mmhybrid.import_hooks import add_import_hook
from mmhybrid.weights.catalogue import SCHEME
from mmhybrid.weights.downloading import first_process_first, load_url
from mmhybrid.weights.entries import find_weights, unwrapped, without_wrappers
from mmhybrid.weights.errors import CheckpointError
from mmhybrid.weights.families import describe
from mmhybrid.weights.loading import load_tensors, load_weights, read_address
from mmhybrid.weights.matching import backbones_of
from mmhybrid.weights.reading import read_checkpoint
from mmhybrid.weights.writing import write_checkpoint

_sources: dict[int, str] = {}  # of checkpoints that were read and are still there, by their id


@WEIGHT_INITIALIZERS.register_module(name="Pretrained", force=True)
class PretrainedInit(weight_init.PretrainedInit):
    """``init_cfg=dict(type='Pretrained', ...)``; MMEngine's where the model holds none of ours.

    Args:
        checkpoint, prefix, map_location: MMEngine's.
        allow_partial (bool): Of :func:`mmhybrid.load_checkpoint`. Defaults to False.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        map_location: str = "cpu",
        allow_partial: bool = False,
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)
        self.allow_partial = allow_partial

    def __call__(self, module: nn.Module) -> None:
        """Loads the checkpoint into the module."""
        if not backbones_of(module):
            super().__call__(module)
            return
        with first_process_first() if "://" in self.checkpoint else nullcontext():
            checkpoint = read_address(self.checkpoint, self.map_location)
        entry, weights, _ = find_weights(checkpoint, source=self.checkpoint)
        if self.prefix is not None:
            prefix = self.prefix.rstrip(".") + "."
            whole = {without_wrappers(key): tensor for key, tensor in weights.items()}
            weights = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}
            if not weights:
                raise CheckpointError(
                    f"no name in {entry} of {self.checkpoint} starts with prefix={prefix!r}. It "
                    f"seems to hold {describe(whole)}; without a prefix, its backbone is found."
                )
        load_tensors(
            module,
            weights,
            source=self.checkpoint,
            entry=entry,
            allow_partial=self.allow_partial,
        )
        if hasattr(module, "_params_init_info"):
            weight_init.update_init_info(module, init_info=self._get_init_info())


def load_from_mmhybrid(filename: str, map_location: Any = None) -> Any:
    """Reads what the catalogue has at ``mmhybrid://NAME``; MMEngine's loader of this scheme."""
    with first_process_first():
        return _with_source(load_url(filename, map_location=map_location), filename)


def _register_scheme(module: ModuleType) -> None:
    module.CheckpointLoader.register_scheme(SCHEME, load_from_mmhybrid, force=True)


add_import_hook("mmengine.runner.checkpoint", _register_scheme)


class SafeCheckpoints(ExitStack):
    """One use of :func:`enable_safe_checkpoints`; leaving a ``with`` block ends it."""

    undo = ExitStack.close


class _Changes(ExitStack):
    """What is changed in MMEngine; closing it gives MMEngine its own functions back."""

    def set(self, owner: Any, name: str, value: Any) -> None:
        self.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    def replace_function(self, original: Callable, replacement: Callable) -> None:
        """In all modules that hold it: MMEngine's runner imports it by name."""

        def replace(old: Callable, new: Callable) -> None:
            for module in list(sys.modules.values()):
                if getattr(module, "__dict__", {}).get(old.__name__) is old:
                    setattr(module, old.__name__, new)

        functools.update_wrapper(replacement, original)
        self.callback(replace, replacement, original)
        replace(original, replacement)

    def register_scheme(self, loader: type, prefixes: Sequence[str], reader: Callable) -> None:
        """Undone where nobody else has registered for the prefix since."""

        def restore(prefix: str, before: Callable | None) -> None:
            if loader._schemes.get(prefix) is reader:
                loader._schemes.pop(prefix)
                if before is not None:
                    loader.register_scheme(prefix, before, force=True)

        for prefix in prefixes:
            self.callback(restore, prefix, loader._schemes.get(prefix))
        loader.register_scheme(list(prefixes), reader, force=True)


_changes = _Changes()
_users = 0


def enable_safe_checkpoints() -> SafeCheckpoints:
    """Has MMEngine read, download, load and write checkpoints as this package does.

    Local files, ``http(s)://``, ``open-mmlab://`` and ``s3://`` go through
    :func:`mmhybrid.weights.read_checkpoint`; a download whose name or address gives its SHA-256 is
    compared with it. ``load_from`` and averaged weights of a model that holds a backbone of ours
    are matched by name as in ``load_checkpoint``. What is saved on a disk is written durably, with
    a checksum. It holds for the whole process; the tools and
    :class:`mmhybrid.engine.DurableCheckpointHook` call it, ``import mmhybrid`` does not.

    Returns:
        A handle with ``undo()``, which is a context manager too. MMEngine gets its own functions
        back when the last handle is undone.

    Example:
        >>> import mmhybrid
        >>> with mmhybrid.enable_safe_checkpoints():
        ...     pass  # runner.train()
    """
    global _users
    if _users == 0:
        _change_mmengine()
    _users += 1
    handle = SafeCheckpoints()
    handle.callback(_end_use)
    return handle


def _end_use() -> None:
    global _users
    _users -= 1
    if _users == 0:
        _changes.close()


def _change_mmengine() -> None:
    from mmengine.runner import checkpoint

    loader = checkpoint.CheckpointLoader
    _changes.register_scheme(loader, [""], load_from_local)
    stores = [r"(\S+\:)?s3://", r"(\S+\:)?petrel://"]
    _changes.register_scheme(loader, stores, load_from_ceph)
    openmmlab = functools.partial(_load_from_openmmlab, checkpoint.load_from_openmmlab)
    openmmlab.__name__ = checkpoint.load_from_openmmlab.__name__
    _changes.register_scheme(loader, ["open-mmlab://", "openmmlab://"], openmmlab)
    _changes.set(checkpoint, "load_url", _load_url)
    load, save = checkpoint._load_checkpoint_to_model, checkpoint.save_checkpoint
    _changes.replace_function(load, functools.partial(_load_checkpoint_to_model, load))
    _changes.replace_function(save, functools.partial(_save_checkpoint, save))
    for name in ("mmengine.hooks.ema_hook", "mmpretrain.engine.hooks.ema_hook"):
        _changes.callback(add_import_hook(name, _replace_averaging))


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Reads a file; takes the place of MMEngine's function of this name."""
    return _with_source(read_checkpoint(filename, map_location), filename)


def load_from_ceph(filename: str, map_location: Any = None, backend: str = "petrel") -> Any:
    """Reads an object of a store; takes the place of MMEngine's function of this name."""
    from mmengine.fileio import get_file_backend

    content = get_file_backend(filename, backend_args={"backend": backend}).get(filename)
    return _with_source(read_checkpoint(io.BytesIO(content), map_location), filename)


def _load_from_openmmlab(original: Callable, filename: str, map_location: Any = None) -> Any:
    """MMEngine's list of addresses may name a file in its folder."""
    from mmengine.runner import checkpoint

    name = filename.partition("://")[2]
    address = checkpoint.get_external_models().get(
        checkpoint.get_deprecated_model_names().get(name, name), "https://"
    )
    if address.startswith(("http://", "https://")):
        return original(filename, map_location)
    return load_from_local(os.path.join(checkpoint._get_mmengine_home(), address), map_location)


def _load_url(url: str, *args: Any, **kwargs: Any) -> Any:
    return _with_source(load_url(url, *args, **kwargs), url)


def _with_source(checkpoint: Any, source: str) -> Any:
    if isinstance(checkpoint, dict):
        checkpoint = OrderedDict(checkpoint)  # a plain dict takes no weak reference
        _sources[id(checkpoint)] = source
        weakref.finalize(checkpoint, _sources.pop, id(checkpoint))
    return checkpoint


def _source_of(checkpoint: Any) -> str:
    return _sources.get(id(checkpoint), "the checkpoint")


def _load_checkpoint_to_model(
    original: Callable,
    model: nn.Module,
    checkpoint: dict,
    strict: bool = False,
    logger: Any = None,
    revise_keys: Any = ((r"^module\.", ""),),
) -> dict:
    if not _is_ours_to_load(model, checkpoint):
        original(model, checkpoint, strict, logger, revise_keys)
        if backbones_of(unwrapped(model)):
            number = len(model.state_dict())
            text = f"loaded {number} of {number} tensors from {_source_of(checkpoint)}"
            print_log(text, logger or "current")
        return checkpoint
    source = _source_of(checkpoint)
    entry, weights, _ = find_weights(checkpoint, source=source)
    old_names: dict[str, str] = {}
    for key in weights:
        name = key
        for pattern, replacement in revise_keys:
            name = re.sub(pattern, replacement, name)
        if name in old_names:
            raise CheckpointError(
                f"revise_keys={list(revise_keys)} give {old_names[name]} and {key} of {source} the "
                f"same name, {name}"
            )
        old_names[name] = key
    revised = {name: weights[key] for name, key in old_names.items()}
    logger = logger or "current"
    load_tensors(model, revised, source=source, entry=entry, strict=strict, logger=logger)
    return checkpoint


def _replace_averaging(module: ModuleType) -> None:
    """Averaged weights start from ``load_from`` too."""
    original = module.EMAHook.after_load_checkpoint

    @functools.wraps(original)
    def after_load_checkpoint(self: Any, runner: Any, checkpoint: dict) -> None:
        averaged = self.ema_model.module
        if runner._resume or not _is_ours_to_load(averaged, checkpoint):
            original(self, runner, checkpoint)
        else:
            load_weights(averaged, checkpoint, source=_source_of(checkpoint))

    _changes.set(module.EMAHook, "after_load_checkpoint", after_load_checkpoint)


def _is_ours_to_load(model: nn.Module, checkpoint: Any) -> bool:
    """Whether the model holds a backbone of ours and the names or shapes differ."""
    model = unwrapped(model)
    if not backbones_of(model):
        return False
    if not isinstance(checkpoint, Mapping) or "state_dict_ema" in checkpoint:
        return True
    state = checkpoint.get("state_dict", checkpoint)
    if not isinstance(state, Mapping):
        return True
    shapes = {without_wrappers(key): getattr(value, "shape", None) for key, value in state.items()}
    return shapes != {key: value.shape for key, value in model.state_dict().items()}


def _save_checkpoint(
    original: Callable, checkpoint: dict, filename: str, *args: Any, **kwargs: Any
) -> None:
    if "://" in str(filename) or any(args) or any(kwargs.values()):
        original(checkpoint, filename, *args, **kwargs)
    else:
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(checkpoint, filename)
