"""MMEngine's checkpoints under PyTorch 2.6 and later.

``torch.load`` refuses them (https://github.com/open-mmlab/mmengine/issues/1655,
https://github.com/open-mmlab/mmengine/issues/1650): they hold a ``HistoryBuffer``, and inside it a
pickled ``getattr``. Before 2.6, and for downloads to this day, MMEngine's calls of ``torch.load``
run whatever a file asks for. All of them go through
:func:`mmhybrid.weights.reading.read_checkpoint` instead, on every PyTorch.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from mmhybrid.import_hooks import add_import_hook


class _TorchThatReadsSafely(ModuleType):
    """``torch`` with another ``load``."""

    @staticmethod
    def load(f: Any, map_location: Any = None, **_: Any) -> Any:
        from mmhybrid.weights.reading import read_checkpoint

        return read_checkpoint(f, map_location)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _patch(module: ModuleType) -> None:
    from mmhybrid.weights.downloading import load_url

    module.torch = _TorchThatReadsSafely("torch")
    module.load_url = load_url


def apply() -> None:
    """Has MMEngine read checkpoints safely."""
    add_import_hook("mmengine.runner.checkpoint", _patch)
