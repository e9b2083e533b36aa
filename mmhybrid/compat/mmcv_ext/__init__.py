"""``mmcv._ext``, mmcv's compiled kernels, without a compiler.

mmcv's kernels have no wheel for a current PyTorch (https://github.com/open-mmlab/mmcv/issues/3319).
The ``mmcv-lite`` wheel holds the Python half of ``mmcv.ops`` and lacks only the compiled module
``mmcv._ext``; so does the fork ``onedl-mmcv`` as pip builds it by default. `apply` lets Python find
that module here: ``module.py``, whose kernels come from torchvision and torch.

``mmcv.ops`` asserts while it is imported that the module has all of more than a hundred kernels, of
which it uses a few. Where the module is ours, ``mmcv.utils.ext_loader.load_ext`` leaves that out.
"""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from mmhybrid.import_hooks import add_import_hook

_NAME = "mmcv._ext"
_FILE = Path(__file__).with_name("module.py")


class ExtensionFinder:
    """Finds `mmcv._ext` in this folder; placed last, so that a compiled one is found first."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec, or None for every other name."""
        return importlib.util.spec_from_file_location(_NAME, _FILE) if fullname == _NAME else None


def _patch(ext_loader: ModuleType) -> None:
    load_ext = ext_loader.load_ext

    @functools.wraps(load_ext)
    def load_what_there_is(name: str, funcs: Sequence[str]) -> ModuleType:
        extension = importlib.import_module(f"mmcv.{name}")
        return extension if extension.__file__ == str(_FILE) else load_ext(name, funcs)

    ext_loader.load_ext = load_what_there_is


def apply() -> None:
    """Let `mmcv._ext` be found where mmcv is installed without it.

    A full mmcv keeps its own kernels, and without any mmcv nothing changes.
    """
    if ExtensionFinder in sys.meta_path or importlib.util.find_spec("mmcv") is None:
        return
    sys.meta_path.append(ExtensionFinder)
    add_import_hook("mmcv.utils.ext_loader", _patch)
