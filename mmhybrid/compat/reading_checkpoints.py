"""MMEngine's checkpoints under PyTorch 2.6 and later.

``torch.load`` refuses them (https://github.com/open-mmlab/mmengine/issues/1655,
https://github.com/open-mmlab/mmengine/issues/1650): they hold a ``HistoryBuffer``, and inside it a
pickled ``getattr``. What it refuses, MMEngine reads with
:func:`mmhybrid.weights.read_checkpoint`, which refuses whatever runs anything; what it reads, it
reads as before, trusted pickles of a program that sets ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` among
them. ``torch`` itself stays as it is, and so does its list of safe globals.
"""

import functools
import pickle
from types import ModuleType
from typing import Any

from mmhybrid.import_hooks import add_import_hook


def _patch(module: ModuleType) -> None:
    original = module.load_from_local
    if module.CheckpointLoader._schemes.get("") is not original:
        return  # somebody has a reader of their own

    @functools.wraps(original)
    def load_from_local(filename: str, map_location: Any) -> Any:
        try:
            return original(filename, map_location)
        except pickle.UnpicklingError:
            from mmhybrid.weights.reading import read_checkpoint

            return read_checkpoint(filename, map_location)

    module.CheckpointLoader.register_scheme("", load_from_local, force=True)


def apply() -> None:
    """Registers a reader of local files with MMEngine when its loaders are imported."""
    add_import_hook("mmengine.runner.checkpoint", _patch)
