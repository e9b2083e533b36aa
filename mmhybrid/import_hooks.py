"""Acting on a module as soon as somebody imports it."""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

Callback = Callable[[ModuleType], None]
_callbacks: dict[str, list[Callback]] = {}


class _Finder:
    """Finds the modules that are waited for as Python does, and has their loaders call back."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _callbacks else None
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


def add_import_hook(name: str, callback: Callback) -> Callable[[], None]:
    """Calls ``callback(module)`` once, now or when the module is imported.

    Returns:
        What takes the hook back.
    """
    callbacks = _callbacks.setdefault(name, [])

    def remove() -> None:
        if callback in callbacks:
            callbacks.remove(callback)

    if callback in callbacks:
        return remove
    callbacks.append(callback)
    if name in sys.modules:
        callback(sys.modules[name])
    elif _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    return remove
