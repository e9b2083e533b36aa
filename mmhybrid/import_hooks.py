"""Acting on a module as soon as somebody imports it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

Callback = Callable[[ModuleType], None]
_callbacks: dict[str, list[Callback]] = {}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are waited for as Python does, and has their loaders call back."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _callbacks:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            waiting = list(_callbacks[name])
            execute(module)
            for callback in waiting:
                callback(module)

        spec.loader.exec_module = exec_module
        return spec


_finder = _Finder()


def add_import_hook(name: str, callback: Callback) -> None:
    """Calls ``callback(module)`` once the module is imported: now, or when that happens.

    Asking for the same again changes nothing.
    """
    callbacks = _callbacks.setdefault(name, [])
    if callback in callbacks:
        return
    callbacks.append(callback)
    if name in sys.modules:
        callback(sys.modules[name])
    elif _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
