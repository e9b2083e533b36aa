"""``mmcv._ext``, mmcv's compiled kernels, without a compiler.

mmcv's kernels have no wheel for a current PyTorch (https://github.com/open-mmlab/mmcv/issues/3319).
The ``mmcv-lite`` wheel holds the Python half of ``mmcv.ops`` and lacks only the compiled module
``mmcv._ext``; so does the fork ``onedl-mmcv`` as pip builds it by default. `apply`
lets Python find that module here: ``module.py``, whose kernels come from torchvision and torch.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

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


def apply() -> None:
    """Let `mmcv._ext` be found where mmcv is installed without it.

    Nothing is imported now, neither mmcv nor torchvision. A full mmcv keeps its own kernels, and
    without any mmcv nothing changes. Calling it again changes nothing.
    """
    if ExtensionFinder in sys.meta_path or importlib.util.find_spec("mmcv") is None:
        return
    sys.meta_path.append(ExtensionFinder)
