"""Old public names, which go on working for one version."""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def warn_renamed(old: str, new: str) -> None:
    """Warns that something has a new name, where a user sees it: by default Python shows such
    warnings of ``__main__`` alone, and a config is not that."""
    message = f"{old} is now {new}; the old name goes in version 0.3"
    warnings.warn_explicit(message, DeprecationWarning, sys.argv[0], 1, module="__main__")


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that finds what has another name now, and warns.

    Args:
        module: ``__name__`` of the module.
        names: full new names (``'package.module.name'``) by old names in the module.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new_module, _, new_name = names[name].rpartition(".")
        warn_renamed(f"{module}.{name}", names[name])
        return getattr(importlib.import_module(new_module), new_name)

    return __getattr__
