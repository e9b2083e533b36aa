"""Acting on a module as soon as somebody imports it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

Callback = Callable[[ModuleType], None]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are waited for as Python does, and has their loaders call back."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list[Callback]] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.callbacks:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for callback in self.callbacks[name]:
                _called.add((name, callback))
                callback(module)

        spec.loader.exec_module = exec_module
        return spec


_finder = _Finder()
_called: set[tuple[str, Callback]] = set()


def add_import_hook(name: str, callback: Callback) -> None:
    """Calls ``callback(module)`` once the module is imported: now, or when that happens.

    Asking for the same again changes nothing.
    """
    if (name, callback) in _called:
        return
    if name in sys.modules:
        _called.add((name, callback))
        callback(sys.modules[name])
        return
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    callbacks = _finder.callbacks.setdefault(name, [])
    if callback not in callbacks:
        callbacks.append(callback)
