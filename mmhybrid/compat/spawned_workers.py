"""Workers of data loaders that are spawned, as on macOS and Windows.

Such a process begins by unpickling the data set, which imports mmdet and mmcv before anything has
imported mmhybrid, and ends with ``No module named 'mmcv._ext'``. A loader that MMEngine builds
gets processes of a class that lies here: it is unpickled first, and that imports mmhybrid.
"""

import functools
import multiprocessing
from multiprocessing import context
from types import ModuleType
from typing import Any

from mmhybrid.import_hooks import add_import_hook

CONTEXTS: dict[str, context.BaseContext] = {}


class _Spawned(context.SpawnProcess):
    """A process that imports this package before anything else."""


class _SpawnContext(context.SpawnContext):
    Process = _Spawned


CONTEXTS["spawn"] = _SpawnContext()
if "forkserver" in multiprocessing.get_all_start_methods():

    class _Forked(context.ForkServerProcess):
        """The same, of a server that forks them."""

    class _ForkServerContext(context.ForkServerContext):
        Process = _Forked

    CONTEXTS["forkserver"] = _ForkServerContext()


def start_method() -> str:
    """How processes start here, without deciding it."""
    chosen = multiprocessing.get_start_method(allow_none=True)
    return chosen or multiprocessing.get_all_start_methods()[0]


def _replace(cls: type) -> None:
    original = cls.build_dataloader

    @functools.wraps(original)
    def build_dataloader(*args: Any, **kwargs: Any) -> Any:
        loader = original(*args, **kwargs)
        if getattr(loader, "num_workers", 0) > 0 and loader.multiprocessing_context is None:
            loader.multiprocessing_context = CONTEXTS.get(start_method())
        return loader

    cls.build_dataloader = staticmethod(build_dataloader)


def _patch_runner(module: ModuleType) -> None:
    _replace(module.Runner)


def _patch_flexible_runner(module: ModuleType) -> None:
    _replace(module.FlexibleRunner)


def apply() -> None:
    """Changes how MMEngine's runners build data loaders when they are imported."""
    add_import_hook("mmengine.runner.runner", _patch_runner)
    add_import_hook("mmengine.runner._flexible_runner", _patch_flexible_runner)
