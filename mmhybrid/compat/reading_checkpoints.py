"""MMEngine's checkpoints under PyTorch 2.6 and later.

``torch.load`` refuses them (https://github.com/open-mmlab/mmengine/issues/1655,
https://github.com/open-mmlab/mmengine/issues/1650): they hold a ``HistoryBuffer``, and inside it a
pickled ``getattr``. MMEngine reads local files with :func:`mmhybrid.weights.read_checkpoint`, which
refuses whatever runs anything, heeds what the program has allowed by
``torch.serialization.add_safe_globals``, and judges a file before PyTorch's reader gets it. A
program that trusts its files, by ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` or a ``torch.load`` of its
own, has MMEngine read as before. ``torch`` itself stays as it is, and so does its list of safe
globals.
"""

import functools
import os
import pickle
from types import ModuleType
from typing import Any

import torch

from mmhybrid.import_hooks import add_import_hook


def _patch(module: ModuleType) -> None:
    original = module.load_from_local
    if module.CheckpointLoader._schemes.get("") is not original:
        return  # somebody has a reader of their own

    @functools.wraps(original)
    def load_from_local(filename: str, map_location: Any) -> Any:
        from mmhybrid.weights.reading import read_checkpoint

        if _has_own_policy():
            try:
                return original(filename, map_location)
            except pickle.UnpicklingError:
                pass
        return read_checkpoint(filename, map_location)

    module.CheckpointLoader.register_scheme("", load_from_local, force=True)


def _has_own_policy() -> bool:
    """Whether the program has told PyTorch what to trust, or has changed its ``torch.load``."""
    forced = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0").lower()
    code = getattr(torch.load, "__code__", None)
    is_pytorchs = code is not None and code.co_filename == torch.serialization.__file__
    return forced in ("1", "y", "yes", "true") or not is_pytorchs


def apply() -> None:
    """Registers a reader of local files with MMEngine when its loaders are imported."""
    add_import_hook("mmengine.runner.checkpoint", _patch)
