"""Workers of a run of iterations start when it asks for its first batch, as those of epochs do.

MMEngine starts them when it makes the loop, before hooks can tell them anything, such as to outlive
a signal that comes to all processes.
"""

from functools import cached_property
from types import ModuleType
from typing import Any

import torch

from mmhybrid.import_hooks import add_import_hook


def _patch_loops(module: ModuleType) -> None:
    class LateIterator(module._InfiniteDataloaderIterator):
        def __init__(self, dataloader: Any) -> None:
            self._dataloader, self._epoch = dataloader, 0
            # Starting draws a number: weights that are drawn after it stay the same, and ...
            torch.empty((), dtype=torch.int64).random_(generator=dataloader.generator)

        @cached_property
        def _iterator(self) -> Any:
            with torch.random.fork_rng(devices=[]):  # ... so does what is drawn later.
                return iter(self._dataloader)

    module._InfiniteDataloaderIterator = LateIterator


def apply() -> None:
    """Changes MMEngine's loops when they are imported."""
    add_import_hook("mmengine.runner.loops", _patch_loops)
