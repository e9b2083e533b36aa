"""``pkg_resources``, which setuptools 82 removed.

MMEngine 0.10 asks it whether a package is installed and where, hence fails on every
``_base_ = 'mmdet::...'`` and ``mim::`` (https://github.com/open-mmlab/mmcv/issues/3325). The same
questions are answered by ``importlib.metadata`` of the standard library.
"""

import importlib.metadata
import importlib.util
import os
import sys

from mmengine.utils import package_utils

from mmhybrid.compat import distribution_names


def is_installed(package: str) -> bool:
    """Whether a distribution, or a module of that name, is installed."""
    if distribution_names.is_installed(package):
        return True
    return getattr(importlib.util.find_spec(package), "origin", None) is not None


def get_installed_path(package: str) -> str:
    """The folder of the module that a distribution installs."""
    try:
        module = package2module(package)
    except importlib.metadata.PackageNotFoundError:
        module = package
        if importlib.util.find_spec(package) is None:
            raise
    origin = getattr(importlib.util.find_spec(module), "origin", None)
    if origin is None:
        raise RuntimeError(f"{package} is a namespace package; it has no folder of its own")
    return os.path.dirname(origin)


def package2module(package: str) -> str:
    """The name under which a distribution is imported."""
    distribution = importlib.metadata.distribution(package)
    names = (distribution.read_text("top_level.txt") or "").split()
    if package in names or (not names and importlib.util.find_spec(package) is not None):
        return package
    if not names:
        raise ValueError(f"can not infer the module name of {package}")
    return names[0]


def apply() -> None:
    """Replaces MMEngine's questions to ``pkg_resources`` where there is none."""
    if importlib.util.find_spec("pkg_resources") is not None:
        return
    for function in (is_installed, get_installed_path, package2module):
        original = getattr(package_utils, function.__name__)
        for name, module in list(sys.modules.items()):
            # MMEngine imports them by name.
            if name.startswith("mmengine") and getattr(module, function.__name__, 0) is original:
                setattr(module, function.__name__, function)
