"""What a report of a bug needs to know of the machine."""

import importlib.metadata
import importlib.util
from pathlib import Path

from mmengine.utils.dl_utils import collect_env as collect_basics

from mmhybrid.engine.runner.results import commit
from mmhybrid.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]
# Distributions; OpenMMLab's have forks that install the same modules.
PACKAGES = (
    *("mmcv", "mmcv-lite", "mmdet", "mmsegmentation", "mmpretrain"),
    *("onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation"),
    *("onedl-mmpretrain", "numpy", "timm", "safetensors", "huggingface_hub"),
    *("onnx", "onnxruntime", "openvino", "setuptools"),
)


def collect_env() -> dict[str, str]:
    """Versions and devices, as MMEngine collects them, and those of what this package works with.

    Example:
        >>> import mmhybrid
        >>> mmhybrid.collect_env()["mmhybrid"]  # doctest: +ELLIPSIS
        '...'
    """
    found = {name: str(value) for name, value in collect_basics().items()}
    found["mmhybrid"] = f"{__version__}, {commit()}, in {PACKAGE}"
    kernels = importlib.util.find_spec("mmcv._ext") if importlib.util.find_spec("mmcv") else None
    if kernels:
        supplied = Path(kernels.origin).is_relative_to(PACKAGE)
        found["Kernels of mmcv"] = "torchvision's, through mmhybrid" if supplied else "compiled"
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
